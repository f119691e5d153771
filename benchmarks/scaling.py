"""A model of what a study takes on many workers. Nothing of it is measured here: it computes from the figures given.

The tasks are those that a run would plan. Workers start when their sessions are open, compute a task at the rate given,
write its shard, and wait until the driver hears of it; the driver hands out the next task and then commits the one that
came, one after another. docs/guide/cluster.md says where each figure comes from.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from _common import table

from bandlens.engine.tasks import Task, passes, tasks_of
from bandlens.probes.grid import PUBLISHED, make_grid
from bandlens.records import Cell, ImageSetInfo, Model, Variant


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


def cells_of(models: int, images: int, engine: str, conditions: int | None = None) -> tuple[list[Cell], object]:
    """The grid over so many checkpoints and images."""
    grid = make_grid(PUBLISHED, Path())
    info = ImageSetInfo("images", "imagenet", "images", images, 224, "none", labelled=True)
    cells = []
    for condition in grid.conditions[:conditions]:
        for number in range(models):
            path = Path(f"{number}.onnx")
            model = Model(str(number), "own", "resnet50", str(number), "", "none", path, str(number), 224, 1000)
            cells.append(Cell(Variant(model, engine, "fp16", path, str(number)), info, condition, 0))
    assert all(passes(cell) == 1 for cell in cells)
    return cells, grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer workers; nothing is run in any case")
    parser.add_argument(
        "--rate", type=float, default=34_667, help="predictions a second of a worker (default: the aim)"
    )
    parser.add_argument("--start", type=float, default=60, help="seconds until a worker computes (default 60)")
    parser.add_argument("--per-task", type=float, default=0.2, help="seconds of a task beside its work (default 0.2)")
    parser.add_argument("--write", type=float, default=0.2, help="seconds to write a million rows (default 0.2)")
    parser.add_argument("--commit", type=float, default=0.35, help="seconds to commit a million rows (default 0.35)")
    parser.add_argument("--bytes", type=float, default=5.9, help="of a shard for a prediction (default 5.9)")
    parser.add_argument("--models", type=int, default=48, help="checkpoints (default 48)")
    parser.add_argument("--images", type=int, default=50_000, help="images (default 50000)")
    parser.add_argument("--batch", type=int, default=256, help="images of a batch (default 256)")
    parser.add_argument("--engine", default="tensorrt", help="engine, which says how large tasks are")
    options = parser.parse_args()
    terms = Terms(options.rate, options.start, options.per_task, options.write, options.commit, options.bytes)
    cells, grid = cells_of(options.models, options.images, options.engine)
    rows, single_seconds = [], None
    for workers in (1, 2, 8) if options.quick else (1, 2, 8, 16, 32, 64, 128, 256, 512):
        tasks = list(tasks_of(cells, grid, options.batch, workers, lambda *_: True))  # type: ignore[arg-type]
        outcome = simulated(tasks, workers, terms)
        single_seconds = single_seconds or outcome.seconds
        rows.append(
            [
                str(workers),
                f"{outcome.tasks:,}",
                f"{outcome.seconds:,.0f}",
                f"{single_seconds / outcome.seconds:.1f}",
                f"{outcome.busy:.2f}",
                f"{outcome.driver:.2f}",
                f"{outcome.written / 1e6:.1f}",
            ]
        )
    print(f"{len(cells):,} cells, {len(cells) * options.images:,} predictions, modelled from {terms}\n")
    table(["workers", "tasks", "seconds", "speed-up", "computing", "driver busy", "MB/s of shards"], rows)


if __name__ == "__main__":
    main()
