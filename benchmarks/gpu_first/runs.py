"""Runs beside the bare loop, what a flush costs, whether rows are the CPU's, and the share of the card's products."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
from _common import bare_seconds
from numpy.typing import NDArray

from bandlens.core.records import Condition, Finished, Variant
from bandlens.engine.backends.base import Session
from bandlens.engine.cell_progress import CellProgress, flush
from bandlens.engine.device.pixels import resident, streamed
from bandlens.engine.device.streams import finish, point
from bandlens.engine.run import make_resources, run

from .bench import Bench
from .networks import cells_of, open_files, open_networks, resnet50

GFLOP = 8.18
"""Operations of an image of 224 pixels: 4.09 G multiplications, each with an addition."""
TIE = 1e-4


def run_torch(bench: Bench) -> Iterator[tuple[str, float]]:
    with ExitStack() as stack:
        yield "differ", rows_that_differ(bench)
        sessions = open_networks(bench, stack, bench.sizes.networks)
        yield "flush", flush_seconds(bench, sessions)
        yield from over_bare(bench, sessions)


def run_exported(engine: str) -> Callable[[Bench], Iterator[tuple[str, float]]]:
    """The stage of an engine that takes ONNX files."""

    def stage(bench: Bench) -> Iterator[tuple[str, float]]:
        bench.require(engine)
        with ExitStack() as stack:
            yield from over_bare(bench, open_files(bench, stack, engine))

    return stage


def over_bare(bench: Bench, sessions: Mapping[Variant, Session]) -> Iterator[tuple[str, float]]:
    """The bare loop's images a second, and what the run reaches of it, for one session and for all of them."""
    sizes, xp = bench.sizes, bench.xp
    for label, count, last in (("1", 1, sizes.images), ("48", len(sessions), sizes.few)):
        if bench.late(4 * sizes.seconds):
            continue
        chosen = dict(list(sessions.items())[:count])
        place = make_resources(xp, bench.images, chosen)
        takes = {"resident": bench.images.take, "streamed": bench.images.take}
        if xp is not np:
            takes = {"resident": resident(xp, bench.images), "streamed": streamed(xp, bench.images, sizes.batch)}
        bare = bare_seconds(list(chosen.values()), xp, place.arrays, max(sizes.rounds // count, 1))
        yield f"{label}.bare", sizes.batch / bare
        every = bare * count * len(bench.grid.conditions) * last / sizes.batch / sizes.seconds
        conditions = bench.grid.conditions[:: math.ceil(every)]
        first = cells_of(bench, dict(list(chosen.items())[:1]), conditions)
        list(run(first, bench.grid, place, last=sizes.batch))  # kernels are compiled
        cells = cells_of(bench, chosen, conditions)
        for where, take in takes.items():
            started, inferring = time.perf_counter(), 0.0
            for outcomes in run(cells, bench.grid, replace(place, take=take), last=last):
                inferring += sum(outcome.seconds for outcome in outcomes if isinstance(outcome, Finished))
            taken = time.perf_counter() - started
            yield f"{label}.{where}", bare * len(cells) * last / sizes.batch / taken
            yield f"{label}.{where}.busy", inferring / taken


def rows_that_differ(bench: Bench) -> int:
    """The number of rows in fp32, of images under some conditions, that no rounding explains."""
    import torch

    sizes, xp = bench.sizes, bench.xp
    conditions = bench.grid.conditions[:: sizes.every]
    with ExitStack() as stack:
        sessions = open_networks(bench, stack, 1, "fp32")
        cells = cells_of(bench, sessions, conditions)
        predictions: dict[Condition, list[Any]] = {condition: [] for condition in conditions}
        for outcomes in run(cells, bench.grid, make_resources(xp, bench.images, sessions), last=sizes.compared):
            for outcome in outcomes:
                assert isinstance(outcome, Finished), outcome
                predictions[outcome.cell.condition].append(outcome.predictions)
    host = bench.batch(np, sizes.compared)
    labels = bench.images.labels[: sizes.compared]  # type: ignore[index]
    network, differ = resnet50(sizes.width, host.pixels), 0
    for perturb, members in bench.grid.groups(conditions):
        for condition, images in perturb(np, host, members, lambda: np.empty(host.pixels.shape, np.float32)):
            with torch.no_grad():
                logits = network(torch.from_numpy(images)).numpy()
            predicted, ranks = (
                np.concatenate([getattr(part, column) for part in predictions[condition]])
                for column in ("predicted", "label_rank")
            )
            differ += int((~possible(logits, labels, predicted, ranks)).sum())
    return differ


def possible(
    logits: NDArray[np.float32], labels: NDArray[np.int32], predicted: NDArray[Any], ranks: NDArray[Any]
) -> NDArray[np.bool_]:
    """Whether logits that differ from these by TIE of the largest can give each row's class and rank."""
    near, rows = TIE * np.abs(logits).max(), np.arange(len(logits))
    scores = logits[rows, labels][:, None]
    fewest, most = (logits > scores + near).sum(1), (logits >= scores - near).sum(1) - 1
    return (logits[rows, predicted] >= logits.max(1) - near) & (fewest <= ranks) & (ranks <= most)


def flush_seconds(bench: Bench, sessions: Mapping[Variant, Session]) -> float:
    """How long the card idles while a minute's columns of all networks are fetched, 7 batches of 29 conditions."""
    xp, sizes = bench.xp, bench.sizes
    works = []
    for cell, _ in cells_of(bench, sessions, bench.grid.conditions[-29:]):
        work = CellProgress(cell, 0)
        for _ in range(7):
            columns = [xp.zeros(sizes.batch, dtype=kind) for kind in (xp.uint16, xp.uint16, xp.float32)]
            work.columns.append((columns[0], columns[1], columns[2], None))
            work.times.append((point(xp), point(xp)))
            work.pending += sizes.batch
        works.append(work)
    finish(xp)
    started = time.perf_counter()
    flush(xp, works)
    return time.perf_counter() - started


# share


def share(bench: Bench) -> Iterator[tuple[str, float]]:
    import torch

    from bandlens.engine.backends.torch import CARD, exact

    device, side, rates = "cpu" if bench.pretended else CARD, bench.sizes.matrix, {}
    with exact(1):
        for precision, kind in (("fp16", torch.float16), ("fp32", torch.float32)):
            matrix = torch.randn(side, side, dtype=torch.float32, device=device).to(kind)

            def finished() -> None:
                if not bench.pretended:
                    torch.cuda.synchronize()

            torch.matmul(matrix, matrix)
            finished()
            started = time.perf_counter()
            for _ in range(bench.sizes.rounds // 5 + 1):
                torch.matmul(matrix, matrix)
            finished()
            taken = (time.perf_counter() - started) / (bench.sizes.rounds // 5 + 1)
            rates[precision] = 2 * side**3 / taken / 1e12
            yield precision, rates[precision]
    with ExitStack() as stack:
        sessions = open_networks(bench, stack, 1)
        ready = [bench.xp.zeros((bench.sizes.batch, *bench.images.shape[1:]), dtype=np.float32) for _ in range(2)]
        bare = bare_seconds(list(sessions.values()), bench.xp, ready, bench.sizes.rounds)
        yield "torch", bench.sizes.batch / bare * GFLOP / 1e3 / rates[bench.sizes.precision]
