"""A model of what a study takes on many workers. Nothing of it is measured here: it computes from the figures given.

The tasks are those that a run would plan. Workers start when their sessions are open, compute a task at the rate given,
write its shard, and wait until the driver hears of it; the driver hands out the next task and then commits the one that
came, one after another. docs/guide/cluster.md says where each figure comes from.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from _common import parse_flags, table
from store import all_cells

from bandlens.core.records import ImageSetInfo
from bandlens.engine.tasks import Task, passes, tasks_of
from bandlens.probes.grid import PUBLISHED, make_grid


@dataclass(frozen=True)
class Terms:
    rate: float
    """Predictions a second of a worker."""
    start: float
    """Seconds until its sessions are open, that of the cluster included."""
    per_unit: float
    """Seconds of a task beside its predictions."""
    write: float
    """Seconds to write the shard of a million predictions."""
    commit: float
    """Seconds of the driver to read and commit them."""
    bytes: float
    """Bytes of a shard for each prediction."""


@dataclass(frozen=True)
class Outcome:
    tasks: int
    seconds: float
    busy: float
    """Share of the workers' time that they compute, from the start on."""
    driver: float
    """Share of the driver's time that it commits."""
    written: float
    """Bytes a second into the results folder."""


def simulated(tasks: Sequence[Task], workers: int, terms: Terms) -> Outcome:
    """List scheduling, as the driver does it."""
    free = [(terms.start, worker) for worker in range(workers)]
    arrived: list[tuple[float, int, int]] = []
    driver, computing, committing, waiting = 0.0, 0.0, 0.0, list(reversed(tasks))
    while waiting or arrived:
        while free and waiting:
            begun, worker = heapq.heappop(free)
            task = waiting.pop()
            seconds = task.predictions / terms.rate
            computing += seconds
            done = begun + seconds + terms.per_unit + task.predictions / 1e6 * terms.write
            heapq.heappush(arrived, (done, worker, task.predictions))
        done, worker, predictions = heapq.heappop(arrived)
        heard = max(done, driver)
        seconds = predictions / 1e6 * terms.commit
        driver, committing = heard + seconds, committing + seconds
        heapq.heappush(free, (heard, worker))
    total = sum(task.predictions for task in tasks)
    working = driver - terms.start
    return Outcome(
        len(tasks), driver, computing / (workers * working), committing / working, total * terms.bytes / working
    )


def main() -> None:
    options = parse_flags(
        __doc__,
        rate=(34_667.0, "predictions a second of a worker, the aim"),
        start=(60.0, "seconds until a worker computes"),
        per_task=(0.2, "seconds of a task beside its work"),
        write=(0.2, "seconds to write a million rows"),
        commit=(0.35, "seconds to commit a million rows"),
        bytes=(5.9, "of a shard for a prediction"),
        models=(48, "checkpoints"),
        images=(50_000, "images"),
        batch=(256, "images of a batch"),
        engine=("tensorrt", "engine, which says how large tasks are"),
    )
    terms = Terms(options.rate, options.start, options.per_task, options.write, options.commit, options.bytes)
    info = ImageSetInfo("images", "imagenet", "images", options.images, 224, "none", labelled=True)
    cells = list(itertools.chain(*zip(*all_cells(info, options.models, options.engine), strict=True)))
    assert all(passes(cell) == 1 for cell in cells)
    grid, rows, single_seconds = make_grid(PUBLISHED, Path()), [], None
    for workers in (1, 2, 8) if options.quick else (1, 2, 8, 16, 32, 64, 128, 256, 512):
        tasks = list(tasks_of(cells, grid, options.batch, workers, lambda *_: True))
        outcome = simulated(tasks, workers, terms)
        single_seconds = single_seconds or outcome.seconds
        figures = (single_seconds / outcome.seconds, outcome.busy, outcome.driver, outcome.written / 1e6)
        numbers = [f"{figure:.{digits}f}" for figure, digits in zip(figures, (1, 2, 2, 1), strict=True)]
        rows.append([workers, f"{outcome.tasks:,}", f"{outcome.seconds:,.0f}", *numbers])
    print(f"{len(cells):,} cells, {len(cells) * options.images:,} predictions, modelled from {terms}\n")
    table(["workers", "tasks", "seconds", "speed-up", "computing", "driver busy", "MB/s of shards"], rows)


if __name__ == "__main__":
    main()
