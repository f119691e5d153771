"""The stand-in for CuPy takes no more than CuPy does."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from deferred_card import DeferredStream, Event, Graph
from pretend_cupy import CardArray, PretendCupy, real, signature_of

TEST_NAMES = {"card", "free", "pooled", "new", "put", "able", "recorded", "launched"}
"""Names that tests alone use."""


def public(stand_in: Any, original: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Every name of what stands for CuPy, and of what is in it: what it is, and what it stands for."""
    for name in (name for name in vars(stand_in) if not name.startswith("_") and name not in TEST_NAMES):
        value, counterpart = getattr(stand_in, name), getattr(original, name, None)
        yield f"{path}.{name}", value, counterpart
        if isinstance(value, SimpleNamespace):
            yield from public(value, counterpart, f"{path}.{name}")


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
