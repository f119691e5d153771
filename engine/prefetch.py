"""Perturbing ahead: a thread fills a few buffers while the caller runs the one before.

On a GPU both only ask for work, each in its own stream: an item comes with the point at which it is ready, and a buffer
is given back with the point at which it has been read.
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
"""The number of buffers: a family may hold two that it has not yielded, one waits, and one is being run."""


class _Stopped(Exception):
    """Raised in the thread, which would else wait for a buffer that nobody will give back."""


class Buffers:
    """A fixed number of arrays that go round: memory does not depend on how many batches there are."""

    def __init__(self, xp: ModuleType, arrays: Iterable[Array]) -> None:
        self.xp = xp
        self._free: SimpleQueue[tuple[Array, Point]] = SimpleQueue()
        self._stopped = False
        for array in arrays:
            self.give(array)

    def take(self) -> Array:
        """A free buffer; waits for one."""
        array, read_point = self._free.get()
        if self._stopped:
            raise _Stopped
        wait_for(self.xp, read_point)
        return array

    def give(self, array: Array) -> None:
        """Hand a buffer back; what this thread has asked for may still read it."""
        # The point lies in the stream of the networks, and `take` makes the perturbing stream wait for it: so nobody
        # overwrites images that a session still reads, and neither thread waits for the GPU.
        self._free.put((array, point(self.xp)))

    def stop(self) -> None:
        """Stop the thread where it waits for a buffer, or asks for one from now on."""
        # First the flag: the thread may get a free buffer before the item that wakes it, and must go on with neither.
        self._stopped = True
        self._free.put((None, None))


@contextmanager
def prefetch(produce: Callable[[Callable[[], Array]], Iterator[T]], buffers: Buffers) -> Iterator[Iterator[T]]:
    """Run `produce(buffers.take)` in a thread and iterate over what it yields; its errors are raised here.

    Leaving the block ends the thread as soon as it asks for a buffer.
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
        except BaseException as error:  # noqa: BLE001 - any error is raised again where the items are awaited
            queue.put(("error", error, None))

    def items() -> Iterator[T]:
        while (message := queue.get())[0] == "item":
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
