"""The stand-in for CuPy takes no more than CuPy does, and reads and writes when the card comes to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from deferred_card import POISON, CudaError, DeferredStream, Event, Graph
from pretend_cupy import CardArray, PretendCupy, real, signature_of

OURS = {"card", "free", "pooled", "new", "put", "able", "launched"}
"""Names that tests alone use."""


def public(ours: Any, theirs: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Every name of what stands for CuPy, and of what is in it: what it is, and what it stands for."""
    for name in (name for name in vars(ours) if not name.startswith("_") and name not in OURS):
        stand_in, original = getattr(ours, name), getattr(theirs, name, None)
        yield f"{path}.{name}", stand_in, original
        if isinstance(stand_in, SimpleNamespace):
            yield from public(stand_in, original, f"{path}.{name}")


STANDS_FOR = (
    (PretendCupy, real(), "cupy"),
    (PretendCupy(), real(), "cupy"),
    (CardArray, real().ndarray, "ndarray"),
    (DeferredStream, real().cuda.Stream, "Stream"),
    (Event, real().cuda.Event, "Event"),
    (Graph, real().cuda.Graph, "Graph"),
)
NAMES = {name: pair for kinds in STANDS_FOR for name, *pair in public(*kinds)}


@pytest.mark.parametrize(("stand_in", "original"), NAMES.values(), ids=NAMES)
def test_it_has_no_name_and_no_parameter_that_cupy_has_not(stand_in: Any, original: Any) -> None:
    assert original is not None
    if inspect.isroutine(stand_in):
        assert inspect.signature(stand_in).parameters.keys() - {"self"} <= signature_of(original).parameters.keys()


XP, HERE = PretendCupy(), np.arange(6, dtype=np.float32).reshape(2, 3)
THERE = XP.asarray(HERE)
REFUSED: dict[str, Callable[[], Any]] = {
    "a name of NumPy's alone": lambda: XP.nonsense,
    "a function of NumPy's alone": lambda: XP.busday_count,
    "a method of NumPy's alone": lambda: THERE.resize((3, 2)),
    "a parameter of NumPy's alone": lambda: XP.clip(THERE, 0, 1, dtype=np.float64),
    "a parameter of a ufunc's alone": lambda: XP.add(THERE, 1, where=True),
    "a parameter of a method's alone": lambda: THERE.sum(axis=0, initial=1),
    "too few arguments": lambda: XP.concatenate(),
    "an array of NumPy's in a sum": lambda: THERE + HERE,
    "an array of NumPy's first": lambda: HERE + THERE,
    "an array of NumPy's in a function": lambda: XP.concatenate([THERE, HERE]),
    "an array of NumPy's as an index": lambda: THERE[np.array([0, 1])],
    "an array of NumPy's as a value": lambda: THERE.__setitem__(0, HERE[0]),
    "an array of CuPy's for NumPy": lambda: np.asarray(THERE),
}


@pytest.mark.parametrize("work", REFUSED.values(), ids=REFUSED)
def test_it_refuses(work: Callable[[], Any]) -> None:
    with pytest.raises((AttributeError, TypeError)):
        work()


def test_it_computes_what_numpy_does_when_the_card_comes_to_it() -> None:
    xp = PretendCupy(seed=0)
    on_card = xp.asarray(HERE)
    made = xp.concatenate([on_card.T[1:], xp.exp(on_card[:, :2])]).sum(axis=1)
    assert (made.here.view(np.uint8) == POISON).all()
    np.testing.assert_array_equal(made.get(), np.concatenate([HERE.T[1:], np.exp(HERE[:, :2])]).sum(axis=1))


def test_memory_of_the_host_is_read_when_the_card_comes_to_it_and_that_of_asarray_at_once() -> None:
    xp, host = PretendCupy(seed=0), HERE.copy()
    late, early = xp.empty(host.shape, xp.float32), xp.asarray(host)
    late.set(host)
    host += 1
    np.testing.assert_array_equal(late.get(), HERE + 1)
    np.testing.assert_array_equal(early.get(), HERE)


def test_memory_that_nobody_holds_is_handed_out_again_in_its_stream_and_overwritten_before() -> None:
    xp = PretendCupy(seed=0)
    gone = xp.asarray(HERE)
    here, address = gone.here, gone.data.ptr
    xp.card.drain()
    del gone
    with xp.cuda.Stream(non_blocking=True):
        assert xp.empty(6, xp.float32).data.ptr != address
    assert xp.empty(6, xp.float32).data.ptr == address
    np.testing.assert_array_equal(here, HERE)
    xp.card.drain()
    assert (here.view(np.uint8) == POISON).all()


def test_time_between_points_that_the_card_has_not_passed_is_an_error() -> None:
    xp = PretendCupy(seed=0)
    stream = xp.cuda.get_current_stream()
    start, _, end = stream.record(), xp.zeros(3), stream.record()
    with pytest.raises(CudaError, match="NotReady"):
        xp.cuda.get_elapsed_time(start, end)
    end.synchronize()
    assert xp.cuda.get_elapsed_time(start, end) > 0
