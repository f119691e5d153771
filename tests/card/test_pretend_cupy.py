"""The stand-in for CuPy takes no more than CuPy does, and reads and writes when the card comes to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from deferred_card import DeferredStream, Event, Graph
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
    "a parameter of a ufunc's alone": lambda: XP.add(THERE, 1, where=True),
    "a parameter of a method's alone": lambda: THERE.sum(axis=0, initial=1),
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
