"""Named ranges of the host's time, which Nsight Systems draws: perturb, model, reduce and flush. NumPy has none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType
from typing import TypeVar

import numpy as np

T = TypeVar("T")
NOTHING = nullcontext()


def named_range(xp: ModuleType, name: str) -> AbstractContextManager[None]:
    """Name what this thread does while the block lasts, by NVTX, where CuPy comes with that.

    A range that no profiler listens to costs a call that returns.
    """
    return NOTHING if xp is np or not xp.cuda.nvtx.available else _range(xp, name)


@contextmanager
def _range(xp: ModuleType, name: str) -> Iterator[None]:
    xp.cuda.nvtx.RangePush(name)
    try:
        yield
    finally:
        xp.cuda.nvtx.RangePop()


def named_items(xp: ModuleType, name: str, items: Iterator[T]) -> Iterator[T]:
    """The items, with a range around the making of each."""
    while True:
        with named_range(xp, name):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item
