"""Perturb ahead: a thread fills a few buffers while the caller runs models on the previous one.

On a GPU both threads only launch work, each in its own CUDA stream. An item comes with an event that marks when its
images are complete. A buffer is returned with an event that marks when its images have been read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from types import ModuleType
from typing import TypeVar, cast

from ..probes.arrays import Array
from .device.streams import Point, perturbing_stream, point, wait_for

T = TypeVar("T")

COUNT = 4
"""Number of buffers.

A probe family may use two that it has not yielded yet, one waits in the queue, and one is being read by a model.
"""


class _Stopped(Exception):
    """Raised in the thread to end it. Otherwise it would wait for a buffer that nobody returns any more."""


class Buffers:
    """A fixed set of arrays that are reused, so that memory use does not depend on the number of batches."""

    def __init__(self, xp: ModuleType, arrays: Iterable[Array]) -> None:
        self.xp = xp
        self._free: SimpleQueue[tuple[Array, Point]] = SimpleQueue()
        self._stopped = False
        for array in arrays:
            self.give(array)

    def take(self) -> Array:
        """Wait for a free buffer and return it."""
        array, read_point = self._free.get()
        if self._stopped:
            raise _Stopped
        # Order later writes to the buffer after the reads of the models. Only the stream waits, not this thread.
        wait_for(self.xp, read_point)
        return array

    def give(self, array: Array) -> None:
        """Return a buffer to the pool. GPU work that this thread has launched before may still read it."""
        # Record an event in the stream of the models. `take` makes the perturbing stream wait for it, so images are not
        # overwritten while a session still reads them, and neither thread blocks on the GPU.
        self._free.put((array, point(self.xp)))

    def stop(self) -> None:
        """End the thread as soon as it waits for a buffer or requests one."""
        # Set the flag before the wake-up item. The queue may still contain a free buffer, which the thread would
        # receive first, and it must not continue with that one either.
        self._stopped = True
        self._free.put((None, None))


@contextmanager
def prefetch(produce: Callable[[Callable[[], Array]], Iterator[T]], buffers: Buffers) -> Iterator[Iterator[T]]:
    """Run `produce(buffers.take)` in a thread and iterate over the items that it yields. Its errors are raised here.

    Leaving the block ends the thread as soon as it requests a buffer.
    """
    queue: SimpleQueue[tuple[str, object, Point]] = SimpleQueue()
    xp = buffers.xp

    def work() -> None:
        try:
            with perturbing_stream(xp):
                for item in produce(buffers.take):
                    queue.put(("item", item, point(xp)))
            queue.put(("end", None, None))
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that iterates
            queue.put(("error", error, None))

    def items() -> Iterator[T]:
        while (message := queue.get())[0] == "item":
            # Order the models after the perturbing of this batch. Only the stream waits, not this thread.
            wait_for(xp, message[2])
            yield cast(T, message[1])
        if isinstance(message[1], BaseException):
            raise message[1]

    thread = Thread(target=work, name="perturb", daemon=True)
    thread.start()
    try:
        yield items()
    finally:
        buffers.stop()
        thread.join()
