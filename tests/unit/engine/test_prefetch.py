"""Buffers that go round, and a thread that fills them ahead."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from deferred_card import DeferredCard

from bandlens.engine.device import streams
from bandlens.engine.prefetch import COUNT, Buffers, prefetch
from bandlens.probes.arrays import Array

Take = Callable[[], Array]


def buffers_of(size: int) -> Buffers:
    return Buffers(np, [np.empty(size, np.float32) for _ in range(COUNT)])


def counted(take: Take, until: int, seen: list[int] | None = None) -> Iterator[Array]:
    for k in range(until):
        buffer = take()
        buffer[...] = k
        if seen is not None:
            seen.append(k)
        yield buffer


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "perturb"]


def test_items_come_in_order_and_memory_does_not_grow_with_their_number() -> None:
    buffers = buffers_of(2)
    found, places = [], set()
    with prefetch(lambda take: counted(take, 50), buffers) as items:
        for item in items:
            found.append(int(item[0]))
            places.add(item.ctypes.data)
            buffers.give(item)
    assert found == list(range(50))
    assert len(places) <= COUNT
    assert not threads()


def test_no_further_ahead_than_there_are_buffers() -> None:
    buffers, seen = buffers_of(1), list[int]()
    with prefetch(lambda take: counted(take, 50, seen), buffers) as items:
        next(items)
        time.sleep(0.05)
        assert len(seen) == COUNT


def test_leaving_stops_the_thread_before_it_fills_the_buffers_that_are_free() -> None:
    started, seen = threading.Event(), list[int]()

    def slow(take: Take) -> Iterator[Array]:
        for k in range(COUNT):
            buffer = take()
            seen.append(k)
            started.set()
            time.sleep(0.1)
            yield buffer

    with prefetch(slow, buffers_of(1)):
        started.wait()
    assert seen == [0]
    assert not threads()


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_an_error_of_the_thread_comes_out_where_items_are_awaited(error: BaseException) -> None:
    def fails(take: Take) -> Iterator[Array]:
        yield from counted(take, 2)
        raise error

    buffers, found = buffers_of(1), []

    def consume() -> None:
        with prefetch(fails, buffers) as items:
            for item in items:
                found.append(int(item[0]))
                buffers.give(item)

    with pytest.raises(type(error)) as caught:
        consume()
    assert caught.value is error
    assert found == [0, 1]
    assert not threads()


def test_an_error_of_the_caller_ends_the_thread() -> None:
    def consume() -> None:
        with prefetch(lambda take: counted(take, 50), buffers_of(1)) as items:
            next(items)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume()
    assert not threads()


# Time on a card


DOCS = (Path(__file__).parents[3] / "docs" / "gpu.md").read_text(encoding="utf-8")
BATCH = {"fp16": 256 / 43_000, "int8": 256 / 85_000}
"""Seconds that a network takes of a batch, as docs/gpu.md predicts them for an H100."""
REDUCE = 4e-6
"""Seconds of `reduce_logits`: predicted there too."""
GROUPS = [
    (int(count), float(ms) / 1e3, float(shared) / 1e3)
    for count, ms, shared in re.findall(
        r"^\| (22|29) [a-z_, ]+(?: \| [\d.]+){3} \| ([\d.]+) \| ([\d.]+) \|$", DOCS, re.M
    )
]
"""Conditions that are perturbed together, the seconds that a batch of them takes, and how many of these several of them
share: reckoned there. What is shared comes before the first condition here.
"""
ASK = 20e-6
"""Seconds that an order between two streams costs: assumed."""


class OneAtATime(DeferredCard):
    """The work of all streams comes one after another, and first what could have begun first."""

    def __init__(self) -> None:
        super().__init__(0)
        self.time = 0.0

    def step(self) -> None:
        chosen = min((stream for stream in self.streams if stream.able()), key=lambda stream: stream.time)
        task = chosen.queue.popleft()
        if task.seconds:
            chosen.time = max(chosen.time, self.time)
        task()
        self.time = max(self.time, chosen.time)


def rate(card: DeferredCard, precision: str, networks: int, batches: int = 20) -> float:
    """What a run over 51 conditions reaches of the bare loop by these estimates."""
    network = card.cuda.Stream(non_blocking=True)

    def produce(count: int, seconds: float, shared: float, take: Take) -> Iterator[list[int]]:
        for _ in range(batches):
            card.ask(lambda: None, shared)
            held = []
            for _ in range(count):
                held.append(take())
                card.ask(lambda: None, (seconds - shared) / count)
                if len(held) == 2:  # a low-pass and the high-pass of the same radius
                    yield from held
                    held = []
            yield from held

    with streams.new_stream(card):  # type: ignore[arg-type]
        ahead = streams.new_stream(card)  # type: ignore[arg-type]
        for group in GROUPS:
            buffers = Buffers(card, [[0] for _ in range(COUNT)], ahead)  # type: ignore[arg-type]
            with prefetch(partial(produce, *group), buffers) as items:
                for buffer in items:
                    for _ in range(networks):
                        with streams.in_turn(card, network):  # type: ignore[arg-type]
                            network.put(lambda: None, BATCH[precision] + ASK)
                        card.ask(lambda: None, REDUCE + ASK)
                    buffers.give(buffer)
        streams.finish(card)  # type: ignore[arg-type]
        bare = batches * networks * BATCH[precision] * sum(count for count, *_ in GROUPS)
        return bare / float(card.current().time)


def test_in_virtual_time_a_run_reaches_of_the_bare_loop_what_docs_tell() -> None:
    """Perturbing beside the network costs nearly nothing, and one after the other what it takes; no simulation knows
    which of the two a card comes close to.
    """
    assert len(GROUPS) == 2
    rows = re.findall(r"^\| (\d+) \|((?: 0\.\d\d \|){4})$", DOCS, re.M)
    assert [networks for networks, _ in rows] == ["1", "2", "5"]
    for networks, told in rows:
        found = [
            rate(card, precision, int(networks)) for precision in BATCH for card in (DeferredCard(0), OneAtATime())
        ]
        np.testing.assert_allclose([float(one) for one in told.split(" |")[:4]], found, rtol=0, atol=6e-3)
