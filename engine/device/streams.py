"""Order and time on a GPU: a stream for all networks, one that perturbs, and points in them that the other waits for.

On NumPy a call has ended when it returns, so there is nothing to order, and the time is the clock's.
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
"""A place in a stream; on NumPy, the time."""


def new_stream(xp: ModuleType) -> AbstractContextManager[Any]:
    """A stream; work of the thread that enters it goes there while the block lasts."""
    if xp is np:
        return nullcontext()
    # A stream that blocks waits for the default stream, and the default stream for it. This one does not, so that
    # points are the only order between threads.
    stream: AbstractContextManager[Any] = xp.cuda.Stream(non_blocking=True)
    return stream


network_stream: Callable[[ModuleType], Any] = cache(new_stream)
"""The one stream of all networks in this process, of their CUDA graphs, and of what is made of their logits."""
perturbing_stream: Callable[[ModuleType], Any] = cache(new_stream)
"""The one stream in which batches are perturbed ahead of the networks."""


def point(xp: ModuleType) -> Point:
    """All work that this thread has asked for so far, and when it is done."""
    return time.perf_counter() if xp is np else xp.cuda.get_current_stream().record()


def wait_for(xp: ModuleType, reached: Point) -> None:
    """Have the work that this thread asks for from now on begin after that point. The thread itself does not wait."""
    if xp is not np:
        xp.cuda.get_current_stream().wait_event(reached)


def blas_threads(xp: ModuleType, count: int) -> AbstractContextManager[Any]:
    """While the block lasts, NumPy's products of matrices have so many threads; CuPy's have none."""
    if xp is not np:
        return nullcontext()
    from threadpoolctl import get_cached_controller  # here, since a GPU does without it

    limits: AbstractContextManager[Any] = get_cached_controller().limit(limits=count, user_api="blas")
    return limits


@contextmanager
def in_network_stream(xp: ModuleType) -> Iterator[Any]:
    """Put the work of the block into the stream of all networks, in the turn of this thread; gives the stream.

    A run is in that stream already, and nothing has to wait for anything. The work of any other caller is ordered after
    what this thread has asked for, and before what it asks for next.
    """
    stream, caller = network_stream(xp), xp.cuda.get_current_stream()
    if caller == stream:
        yield stream
        return
    stream.wait_event(caller.record())
    # No `finally`: after an error nobody reads what the stream has written, and its next work follows in any case. It
    # may still read the caller's arrays, to no effect. Where the GPU has failed, `record` would raise over the error.
    with stream:
        yield stream
    caller.wait_event(stream.record())


def seconds_between(xp: ModuleType, start: Point, end: Point) -> float:
    """The time that the device took between two points that it has passed."""
    return float(end - start) if xp is np else float(xp.cuda.get_elapsed_time(start, end)) / 1000
