"""The rate of a run over the grid or another study with ResNet-50 at batch 32, against a bare loop over its session.

`bare loop`: session.infer as often as the run calls it, on two batches that are ready.
`run`: engine.run.run, which reads and perturbs the images, infers, and reduces the logits.
`run and store`: the same with Store.commit for what it yields.

The two take turns every other batch: the run is held while the bare loop has its turn. By then the thread that perturbs
has filled its buffers and waits too, so it works neither in the bare loop's time nor ahead of its own. The weights are
random: they do not change the speed. Of a map of waves every 32nd condition is run.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import _common as common
import numpy as np
from _common import BATCH, MODEL, SOME_PROBES

from bandlens.analysis.database.open import open_store
from bandlens.core.records import Cell
from bandlens.engine.backends.base import Session, open_session, variant_of
from bandlens.engine.run import make_resources, run
from bandlens.export.model_files import load_model
from bandlens.probes.grid import Grid, make_grid
from bandlens.probes.images.image_set import ImageSet, open_image_set

BARE, RUN, STORE = "bare loop", "run", "run and store"
MANY, THINNED = 1_000, 32
"""A group of more than MANY conditions runs every THINNED-th of them."""


@dataclass(frozen=True)
class Job:
    """The cells of a group of conditions."""

    cells: Sequence[Cell]
    images: ImageSet
    grid: Grid
    session: Session
    ready: Sequence[np.ndarray]

    @property
    def predictions(self) -> int:
        return len(self.cells) * self.images.info.count

    def seconds(self) -> dict[str, float]:
        """Time the bare loop, and the run without and with storing; making the database does not count."""
        sessions = {self.session.variant: self.session}
        infos = {variant: session.info for variant, session in sessions.items()}
        turn = Turn(self.session, self.ready)
        with tempfile.TemporaryDirectory() as scratch, open_store(Path(scratch) / "results.duckdb") as store:
            store.begin_study("benchmark", "", self.cells, [self.images])
            start, storing = time.perf_counter(), 0.0
            cells = [(cell, 0) for cell in self.cells]
            place = make_resources(np, self.images, sessions)
            for outcomes in run(cells, self.grid, place, progress=turn.after_a_batch):
                storing += common.timed(lambda outcomes=outcomes: store.commit(outcomes, infos))()
            total = time.perf_counter() - start - turn.seconds
        turn.take()
        return {BARE: turn.seconds, RUN: total - storing, STORE: total}


@dataclass
class Turn:
    """The bare loop, which has its turn after every other batch of the run."""

    session: Session
    ready: Sequence[np.ndarray]
    waiting: int = 0
    seconds: float = 0.0

    def after_a_batch(self, _: int) -> None:
        self.waiting += 1
        if self.waiting == 2:
            self.take()

    def take(self) -> None:
        start = time.perf_counter()
        for k in range(self.waiting):
            self.session.infer(self.ready[k])
        self.seconds += time.perf_counter() - start
        self.waiting = 0


def jobs(grid: Grid, images: ImageSet, session: Session) -> dict[str, Job]:
    ready = [np.random.default_rng(k).random((BATCH, *images.pixels.shape[1:]), np.float32) for k in range(2)]
    group_jobs = {}
    for _, all_of_it in grid.groups(grid.conditions):
        conditions = all_of_it[::THINNED] if len(all_of_it) > MANY else all_of_it
        cells = [Cell(session.variant, images.info, condition, 0) for condition in conditions]
        name = " + ".join(dict.fromkeys(condition.probe for condition in conditions))
        group_jobs[name] = Job(cells, images, grid, session, ready)
    return group_jobs


def main() -> None:
    options = common.arguments(
        __doc__,
        repeats=3,
        quick=1,
        study=("grid", "study that comes along, such as grid or octaves: see `bandlens init --help`"),
        images=(32, "images, a multiple of 32"),
        threads=(2, "threads of the session"),
    )
    study = files("bandlens.app").joinpath("studies", f"{options.study}.toml").read_text(encoding="utf-8")
    grid = make_grid(SOME_PROBES if options.quick else tomllib.loads(study)["probes"], Path())
    count = max(options.images // BATCH, 1) * BATCH
    with common.folder(options.keep) as prepared:
        common.resnet50(prepared / "models")
        images = open_image_set(common.image_set(prepared / f"{count}.set", count))
        model = load_model(prepared / "models", MODEL)
        with open_session(variant_of(model, "onnxruntime", "fp32"), BATCH, options.threads) as session:
            common.machine("numpy", "onnxruntime", "duckdb")
            groups = jobs(grid, images, session)
            ran = sum(len(job.cells) for job in groups.values())
            print(f"{ran} of {len(grid.conditions)} conditions, {count} images, {options.threads} threads")
            next(iter(groups.values())).seconds()  # a warm-up
            seconds = [{name: job.seconds() for name, job in groups.items()} for _ in range(options.repeats)]
    report({name: job.predictions for name, job in groups.items()}, seconds)


def report(predictions: dict[str, int], seconds: list[dict[str, dict[str, float]]]) -> None:
    """The rates of each group, and of the whole grid."""
    rows = []
    for name, count in {**predictions, "all": sum(predictions.values())}.items():
        members = predictions if name == "all" else [name]
        totals = {kind: [sum(once[k][kind] for k in members) for once in seconds] for kind in (BARE, RUN, STORE)}
        rates = [f"{statistics.median(count / s for s in values):.1f}" for values in totals.values()]
        rows.append([name, *rates, *(common.ratios(totals[BARE], totals[kind]) for kind in (RUN, STORE))])
    common.table(["images/s", BARE, RUN, STORE, "run / bare", "run and store / bare"], rows)
    for kind in (RUN, STORE):
        common.ratio(f"{kind} over bare loop", common.ratios(totals[BARE], totals[kind]), ">= 0.95")


if __name__ == "__main__":
    main()
