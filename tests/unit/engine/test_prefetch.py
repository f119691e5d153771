"""Buffers that go round, and a thread that fills them ahead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from bandlens.engine.prefetch import COUNT, Buffers, prefetch
from bandlens.probes.arrays import Array

Take = Callable[[], Array]


def buffers_of(size: int) -> Buffers:
    return Buffers(np, [np.empty(size, np.float32) for _ in range(COUNT)])


def fill_buffers(take: Take, until: int, numbers: list[int] | None = None) -> Iterator[Array]:
    for k in range(until):
        buffer = take()
        buffer[...] = k
        if numbers is not None:
            numbers.append(k)
        yield buffer


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "perturb"]


def test_items_come_in_order_and_memory_does_not_grow_with_their_number() -> None:
    buffers = buffers_of(2)
    numbers, places = [], set()
    with prefetch(lambda take: fill_buffers(take, 50), buffers) as items:
        for item in items:
            numbers.append(int(item[0]))
            places.add(item.ctypes.data)
            buffers.give(item)
    assert numbers == list(range(50))
    assert len(places) <= COUNT
    assert not threads()


class WatchedBuffers(Buffers):
    """Buffers of one number that tell of each wish for one, and of their end."""

    def __init__(self) -> None:
        super().__init__(np, [np.empty(1, np.float32) for _ in range(COUNT)])
        self.wishes = threading.Semaphore(0)
        self.stopped = threading.Event()

    def take(self) -> Array:
        self.wishes.release()
        return super().take()

    def stop(self) -> None:
        super().stop()
        self.stopped.set()

    def await_wishes(self, count: int) -> None:
        for _ in range(count):
            assert self.wishes.acquire(timeout=60)


def test_no_further_ahead_than_there_are_buffers() -> None:
    buffers, numbers = WatchedBuffers(), list[int]()
    with prefetch(lambda take: fill_buffers(take, 50, numbers), buffers) as items:
        first = next(items)
        buffers.await_wishes(COUNT + 1)
        assert len(numbers) == COUNT
        buffers.give(first)
        buffers.await_wishes(1)
        assert len(numbers) == COUNT + 1


def test_leaving_stops_the_thread_before_it_fills_the_buffers_that_are_free() -> None:
    buffers, numbers = WatchedBuffers(), list[int]()

    def slow(take: Take) -> Iterator[Array]:
        for k in range(COUNT):
            buffer = take()
            numbers.append(k)
            buffers.stopped.wait(60)
            yield buffer

    with prefetch(slow, buffers):
        buffers.await_wishes(1)
    assert numbers == [0]
    assert not threads()


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_an_error_of_the_thread_comes_out_where_items_are_awaited(error: BaseException) -> None:
    def fails(take: Take) -> Iterator[Array]:
        yield from fill_buffers(take, 2)
        raise error

    buffers, numbers = buffers_of(1), []

    def consume() -> None:
        with prefetch(fails, buffers) as items:
            for item in items:
                numbers.append(int(item[0]))
                buffers.give(item)

    with pytest.raises(type(error)) as failure:
        consume()
    assert failure.value is error
    assert numbers == [0, 1]
    assert not threads()
