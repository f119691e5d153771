"""A worker: it computes tasks one after another and leaves a shard of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

import numpy as np

from ...core.errors import EngineError
from ...core.records import PREDICTION_COLUMNS, Cell, Failed, Finished, Variant
from ...core.user_code import UserSource, parse_source, source_digest
from ...probes.grid import Grid, make_grid
from ...probes.images.image_set import ImageSet
from ..cell_progress import joined
from ..tasks import Task, by_attack
from ..workbench import Workbench, with_card_state
from .files import FileSource, NodeFiles, PackedSet
from .shards import Folder, Shard, open_folder, write_shard


@dataclass(frozen=True)
class Job:
    """The parts of a study that workers know beside their tasks. A job can be sent to other machines."""

    probes: Mapping[str, Mapping[str, Any]]
    folder: Path
    """The folder of the study file."""
    sources: Mapping[str, str]
    """The digest of the source of each probe of the user's."""
    image_sets: Mapping[str, PackedSet]
    """The image sets by digest."""
    batch: int
    threads: int
    shards: str
    """The results folder."""
    variants: tuple[Variant, ...]
    """The variants that see perturbed images and miss predictions; attacked ones are not among them."""
    complete: tuple[Variant, ...] = ()
    """The variants that see perturbed images and miss none; no worker opens them."""


def job_of(
    probes: Mapping[str, Mapping[str, Any]],
    folder: Path,
    image_sets: Sequence[ImageSet],
    batch: int,
    threads: int,
    shards: str,
    cells: Sequence[Cell],
    complete: Sequence[Cell] = (),
) -> Job:
    """Make the job of `cells`, with absolute paths, since a worker has another current folder.

    `complete` are the cells of the study that lack nothing.
    """
    variants, complete_variants = (
        dict.fromkeys(cell.variant for cell in by_attack(some_cells)[0]) for some_cells in (cells, complete)
    )
    return Job(
        probes=probes,
        folder=folder.absolute(),
        sources={name: source_digest(source) for name, source in probe_sources(probes, folder).items()},
        image_sets={
            images.info.digest: PackedSet(images.folder.absolute(), images.packed, images.draw, images.numbers)
            for images in image_sets
        },
        batch=batch,
        threads=threads,
        shards=shards if "://" in shards else str(Path(shards).absolute()),
        variants=tuple(variants),
        complete=tuple(variant for variant in complete_variants if variant not in variants),
    )


def probe_sources(probes: Mapping[str, Mapping[str, Any]], folder: Path) -> dict[str, UserSource]:
    """The source of each probe of the user's."""
    return {
        name: parse_source(f"probe {name}", table, folder.absolute())
        for name, table in probes.items()
        if "file" in table
    }


@dataclass(frozen=True)
class Computed:
    """The outcome of a task."""

    shard: Shard | None
    """The shard of the cells that did not fail; None where all did."""
    failed: tuple[tuple[str, str], ...]
    """The key and the error of each cell that failed."""


class Worker:
    """A workbench that leaves shards. A context manager."""

    def __init__(self, job: Job, source: FileSource | None = None) -> None:
        self.job = job
        self.steps = 0
        """The progress of the worker: sessions that it opened, predictions that it made, pieces that it fetched."""
        files = NodeFiles(source, self._step)
        self._grid = _grid(job, files)
        self._shards: Folder = open_folder(job.shards)

        def images(digest: str) -> ImageSet:
            return files.images(job.image_sets[digest])

        self._bench = Workbench(self._grid, job.batch, job.threads, images, files.variant)

    def open(self) -> None:
        """Open all sessions, so that an engine that opens none of them fails before there are results."""
        self._bench.open(self.job.variants, self._step)
        self._bench.require_opened((*self.job.variants, *self.job.complete))

    def _step(self, number: int = 1) -> None:
        self.steps += number

    def compute(self, task: Task) -> Computed:
        """Compute a task and write its shard.

        Raises DeviceError when the device is lost or out of memory, ShardError where the shard cannot be written, and
        what image sets and probes raise when they are opened.
        """
        conditions = {*self._grid.conditions, *self._grid.attacks}
        if missing := {cell.condition for cell in task.cells} - conditions:
            raise EngineError(f"{min(map(str, missing))} is another probe here; are all versions of bandlens the same?")
        outcomes = [outcome for outcomes in self._bench.compute(task, progress=self._step) for outcome in outcomes]
        failed = tuple((outcome.cell.key, outcome.error) for outcome in outcomes if isinstance(outcome, Failed))
        lost = {key for key, _ in failed}
        finished = [outcome for outcome in outcomes if isinstance(outcome, Finished)]
        parts = _joined(task, [part for part in finished if part.cell.key not in lost])
        shard = write_shard(self._shards, task.key, parts, with_card_state(self._bench.infos())) if parts else None
        return Computed(shard, failed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._bench.__exit__(kind, error, trace)


def _grid(job: Job, files: NodeFiles) -> Grid:
    local_probes = {
        name: {**job.probes[name], "file": str(files.probe(source, job.sources[name]))}
        for name, source in probe_sources(job.probes, job.folder).items()
    }
    return make_grid({**job.probes, **local_probes}, job.folder)


_columns = attrgetter(*PREDICTION_COLUMNS)


def _joined(task: Task, parts: list[Finished]) -> list[Finished]:
    """Join the parts of each cell, in the task's order: where a probe fails, its neighbours come in several."""
    by_cell: dict[str, list[Finished]] = {}
    for part in parts:
        by_cell.setdefault(part.cell.key, []).append(part)
    sequences = (sorted(by_cell[cell.key], key=lambda part: part.first) for cell in task.cells if cell.key in by_cell)
    return [
        Finished(
            sequence[0].cell,
            task.first,
            joined(np, (_columns(part.predictions) for part in sequence)),
            sum(part.seconds for part in sequence),
        )
        for sequence in sequences
    ]
