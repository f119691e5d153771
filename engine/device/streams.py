"""CUDA streams: one for all models, one for perturbing, and events that order work between the two.

With NumPy every call has finished when it returns, so there is nothing to order, and an "event" is the time of the
clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

Point = Any
"""A CUDA event. With NumPy, the time in seconds."""


def new_stream(xp: ModuleType) -> AbstractContextManager[Any]:
    """Create a CUDA stream, as a context manager that makes it the current stream of the thread."""
    if xp is np:
        return nullcontext()
    # A blocking stream is implicitly synchronized with CUDA's default stream. A non-blocking one is not, so work of the
    # two threads is ordered only by explicit events.
    stream: AbstractContextManager[Any] = xp.cuda.Stream(non_blocking=True)
    return stream


network_stream: Callable[[ModuleType], Any] = cache(new_stream)
"""The single stream of this process for all models, their CUDA graphs, and the reduction of their logits."""
perturbing_stream: Callable[[ModuleType], Any] = cache(new_stream)
"""The single stream in which batches are perturbed ahead of the models."""


def point(xp: ModuleType) -> Point:
    """Record an event in the current stream. It occurs when all work launched there so far is complete."""
    return time.perf_counter() if xp is np else xp.cuda.get_current_stream().record()


def wait_for(xp: ModuleType, reached: Point) -> None:
    """Make later work in the current stream wait for an event. The calling thread does not block."""
    if xp is not np:
        xp.cuda.get_current_stream().wait_event(reached)


def blas_threads(xp: ModuleType, count: int) -> AbstractContextManager[Any]:
    """Limit the threads of NumPy's matrix products while the block runs. Does nothing with CuPy."""
    if xp is not np:
        return nullcontext()
    from threadpoolctl import get_cached_controller  # imported here because it is not needed on a GPU

    limits: AbstractContextManager[Any] = get_cached_controller().limit(limits=count, user_api="blas")
    return limits


@contextmanager
def in_network_stream(xp: ModuleType) -> Iterator[Any]:
    """Run the GPU work of the block in the stream of all models, and yield that stream.

    A run is already in that stream, so nothing needs to be ordered. For any other caller, the work of the block runs
    after the work that the caller's stream already contains, and before the work that it launches later.
    """
    stream, caller = network_stream(xp), xp.cuda.get_current_stream()
    if caller == stream:
        yield stream
        return
    stream.wait_event(caller.record())
    # There is deliberately no `finally`. After an error nobody reads the results in this stream, and its later work is
    # ordered after them anyway. The work may still read the caller's arrays, which is harmless. If the GPU itself has
    # failed, `record` would raise a second error that hides the first.
    with stream:
        yield stream
    caller.wait_event(stream.record())


def seconds_between(xp: ModuleType, start: Point, end: Point) -> float:
    """Return the time between two events in seconds. Both must have occurred."""
    return float(end - start) if xp is np else float(xp.cuda.get_elapsed_time(start, end)) / 1000
