"""The share of the bare loop that a run reaches in virtual time, on a card that begins its work late."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from deferred_card import DeferredCard, DeferredStream

from bandlens.engine.device import streams
from bandlens.engine.prefetch import COUNT, Buffers, prefetch
from bandlens.probes.arrays import Array

Take = Callable[[], Array]


DOCS = (Path(__file__).parents[2] / "docs" / "guide" / "gpu.md").read_text(encoding="utf-8")


BATCH = {"fp16": 256 / 39_400, "int8": 256 / 65_000}
"""Seconds that a network takes of a batch, as docs/guide/gpu.md predicts them for an H100."""


DEMAND = {"fp16": 0.8, "int8": 1.0}
"""The share of a network's time in which it waits for the card's memory; perturbing does nothing else."""


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


class OneMemory(DeferredCard):
    """The work of all streams goes on side by side, and shares one memory.

    Where the streams together ask for more than its bandwidth, all of them take so many times longer.
    """

    def __init__(self) -> None:
        super().__init__(0)
        self.time = 0.0
        self.demands: dict[DeferredStream, float] = {}
        """The share of the bandwidth that a stream's work asks for, where it is not all."""

    def until(self, done: Callable[[], bool]) -> None:
        if threading.current_thread().name != "perturb":  # it needs no memory back, and all is to be asked for first
            super().until(done)

    def step(self) -> None:
        heads = [(stream, stream.queue[0]) for stream in self.streams if stream.able()]
        longer = max(sum(self.demands.get(stream, 1.0) for stream, task in heads if task.seconds), 1.0)
        chosen, first = min(heads, key=lambda head: head[1].seconds)
        passed = first.seconds
        for _, task in heads:
            task.seconds -= min(passed, task.seconds)
        self.time += passed * longer
        chosen.queue.popleft()()
        chosen.time = self.time


def rate(card: DeferredCard, precision: str, networks: int, batches: int = 20) -> float:
    """The share of the bare loop that a run over 51 conditions reaches by these estimates."""
    network = card.cuda.Stream(non_blocking=True)
    if isinstance(card, OneMemory):
        card.demands[network] = DEMAND[precision]

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
    """Perturbing beside the network costs what both ask of one memory, and one after the other all that it takes; no
    simulation knows which of the two a card comes close to.
    """
    assert len(GROUPS) == 2
    rows = re.findall(r"^\| (\d+) \|((?: 0\.\d\d \|){4})$", DOCS, re.M)
    assert [networks for networks, _ in rows] == ["1", "2", "5"]
    for networks, documented in rows:
        rates = [rate(card, precision, int(networks)) for precision in BATCH for card in (OneMemory(), OneAtATime())]
        np.testing.assert_allclose([float(number) for number in documented.split(" |")[:4]], rates, rtol=0, atol=6e-3)
