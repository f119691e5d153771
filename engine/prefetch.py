"""Perturbing ahead: a thread fills a few buffers while the caller runs the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from types import ModuleType
from typing import TypeVar, cast

from ..probes.arrays import Array

T = TypeVar("T")

COUNT = 4
"""A family may hold two that it has not yielded, one waits, and one is being run."""


class _Stopped(Exception):
    """Ends the thread while it waits for a buffer that nobody will give back."""


class Buffers:
    """A fixed number of arrays that go round: memory does not depend on how many batches there are."""

    def __init__(self, xp: ModuleType, shape: tuple[int, ...], count: int = COUNT) -> None:
        self._free: SimpleQueue[Array | None] = SimpleQueue()
        self._stopped = False
        for _ in range(count):
            self._free.put(xp.empty(shape, dtype=xp.float32))

    def take(self) -> Array:
        """A free buffer; waits for one."""
        array = self._free.get()
        if self._stopped:
            raise _Stopped
        return array

    def give(self, array: Array) -> None:
        """Hand a buffer back once its content has been used."""
        self._free.put(array)

    def stop(self) -> None:
        """Whoever waits for a buffer, or asks for one from now on, is stopped."""
        self._stopped = True
        self._free.put(None)


@contextmanager
def prefetch(produce: Callable[[Callable[[], Array]], Iterator[T]], buffers: Buffers) -> Iterator[Iterator[T]]:
    """Run `produce(buffers.take)` in a thread and iterate over what it yields; its errors are raised here.

    Leaving the block ends the thread as soon as it asks for a buffer.
    """
    ready: SimpleQueue[tuple[str, object]] = SimpleQueue()

    def work() -> None:
        try:
            for item in produce(buffers.take):
                ready.put(("item", item))
            ready.put(("end", None))
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised again where the items are awaited
            ready.put(("error", error))

    def items() -> Iterator[T]:
        while (message := ready.get())[0] == "item":
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
