"""The time of perturbations, of `reduce_logits` and of an event between two streams, and CuPy's memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from types import ModuleType
from typing import Any

import numpy as np

from bandlens.core.protocol import CLASSES
from bandlens.core.records import Condition
from bandlens.engine.decision import reduce_logits
from bandlens.engine.device.streams import finish, new_stream, point, wait_for

from .bench import Bench, device_seconds, seconds_of
from .kernels import GROUPS


def speed(bench: Bench) -> Iterator[tuple[str, float]]:
    xp, sizes = bench.xp, bench.sizes
    with new_stream(xp):
        batch = bench.batch(xp, sizes.batch)
        buffers = cycle([xp.empty(batch.pixels.shape, dtype=xp.float32) for _ in range(4)])

        def perturbed(perturb: Any, conditions: Sequence[Condition]) -> None:
            for _ in perturb(xp, batch, conditions, buffers.__next__):
                pass

        groups = bench.grid.groups(bench.grid.conditions)
        for perturb, conditions in groups:
            taken = seconds_of(xp, lambda: perturbed(perturb, conditions), max(sizes.rounds // 10, 1))  # noqa: B023
            yield GROUPS[conditions[0].probe], taken * 1e3
        before = pool_bytes(xp)
        for perturb, conditions in groups:
            perturbed(perturb, conditions)
        finish(xp)
        yield "pool", pool_bytes(xp) / 2**30
        yield "growth", pool_bytes(xp) - before
        logits = xp.zeros((sizes.batch, CLASSES), dtype=xp.float32)
        labels = xp.zeros(sizes.batch, dtype=xp.int32)
        yield "reduce", device_seconds(xp, lambda: reduce_logits(xp, logits, labels), sizes.rounds) * 1e6
        yield "hop", hop_seconds(xp, sizes.rounds) * 1e6


def pool_bytes(xp: ModuleType) -> int:
    """The memory that CuPy has taken from the card."""
    return 0 if xp is np else int(xp.get_default_memory_pool().total_bytes())


def hop_seconds(xp: ModuleType, rounds: int) -> float:
    """How much longer small work takes where it goes to and fro between two streams."""
    small, [stream_a, stream_b] = xp.zeros(32, dtype=xp.float32), [new_stream(xp) for _ in range(2)]

    def ask(stream: Any) -> Any:
        with stream:
            for _ in range(2):
                xp.add(small, 1, out=small)
            return point(xp)

    def to_and_fro() -> None:
        for first, second in ((stream_a, stream_b), (stream_b, stream_a)):
            reached = ask(first)
            with second:
                wait_for(xp, reached)

    def alone() -> None:
        for _ in range(2):
            ask(stream_a)

    with stream_a:
        taken_alone, taken = (device_seconds(xp, work, rounds) for work in (alone, to_and_fro))
    return (taken - taken_alone) / 2
