"""A worker: it computes tasks one after another, and keeps sessions and images open between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ...errors import EngineError
from ...probes.grid import ATTACKS, Grid, make_grid
from ...probes.images.image_set import ImageSet
from ...probes.user import source_digest
from ...records import Cell, Failed, Finished, Predictions, SessionInfo, Variant
from ..attack import attack_info, run_attacks
from ..backends.base import Session, arrays_of, open_session
from ..cell_progress import Outcome
from ..run import Place, make_place, run
from .files import FileSource, NodeFiles
from .shards import Folder, Shard, open_folder, write_shard
from .tasks import Task

if TYPE_CHECKING:
    from ..backends.torch import Attackable

WHOLE = float("inf")


@dataclass(frozen=True)
class Job:
    """What workers know of a study beside their tasks. It can be sent to other machines."""

    probes: Mapping[str, Mapping[str, Any]]
    folder: Path
    """Of the study file."""
    sources: Mapping[str, str]
    """Digest of the source of each probe of the user's."""
    image_sets: Mapping[str, Path]
    """Digest -> folder."""
    batch: int
    threads: int
    shards: str
    """The results folder."""
    variants: tuple[Variant, ...]
    """What perturbed images are shown to."""


def job_of(
    probes: Mapping[str, Mapping[str, Any]],
    folder: Path,
    image_sets: Sequence[ImageSet],
    batch: int,
    threads: int,
    shards: str,
    cells: Sequence[Cell],
) -> Job:
    """The job, with paths that do not depend on where a process is."""
    return Job(
        probes=probes,
        folder=folder.absolute(),
        sources={name: source_digest(file) for name, file in probe_files(probes, folder).items()},
        image_sets={images.info.digest: images.folder.absolute() for images in image_sets},
        batch=batch,
        threads=threads,
        shards=shards,
        variants=tuple(dict.fromkeys(cell.variant for cell in cells if cell.condition.probe not in ATTACKS)),
    )


def probe_files(probes: Mapping[str, Mapping[str, Any]], folder: Path) -> dict[str, Path]:
    """The file of each probe of the user's."""
    return {name: folder.absolute() / str(table["file"]) for name, table in probes.items() if "file" in table}


@dataclass(frozen=True)
class Computed:
    """What became of a task."""

    shard: Shard | None
    """Of the cells that did not fail."""
    failed: tuple[tuple[str, str], ...]
    """Key and error of each cell that did."""


class Worker:
    """A context manager."""

    def __init__(self, job: Job, source: FileSource | None = None) -> None:
        self.job = job
        self._files = NodeFiles(source)
        self._grid = _grid(job, self._files)
        self._shards: Folder = open_folder(job.shards)
        self._opened = ExitStack()
        self._sessions: dict[Variant, Session] = {}
        self._images: ImageSet | None = None
        self._place: Place | None = None
        self._network: Attackable | None = None

    def open(self) -> None:
        """Open all sessions; what cannot be opened is known before there are results."""
        self._open(self.job.variants)

    def compute(self, task: Task) -> Computed:
        """Compute a task and write its shard.

        Raises DeviceError when the device is lost or out of memory, ShardError where the shard cannot be written, and
        what sessions, image sets and probes raise when they are opened.
        """
        attack = task.cells[0].condition.probe in ATTACKS
        images = self._image_set(task.cells[0])
        outcomes, infos = self._attack(task, images) if attack else self._perturb(task, images)
        failed = tuple((one.cell.key, one.error) for one in outcomes if isinstance(one, Failed))
        lost = {key for key, _ in failed}
        parts = _joined(task, [one for one in outcomes if isinstance(one, Finished) and one.cell.key not in lost])
        return Computed(write_shard(self._shards, task.key, parts, infos) if parts else None, failed)

    def _perturb(self, task: Task, images: ImageSet) -> tuple[list[Outcome], dict[Variant, SessionInfo]]:
        self._network = None
        wanted = {cell.condition for cell in task.cells}
        if missing := wanted - set(self._grid.conditions):
            raise EngineError(f"{min(map(str, missing))} is another probe here; are all versions of bandlens the same?")
        self._open(task.variants)
        xp = arrays_of(task.cells[0].variant.engine)
        self._place = self._place or make_place(xp, images, self._sessions)
        cells = [(cell, task.first) for cell in task.cells]
        ranges = run(cells, images, self._grid, self._sessions, xp, WHOLE, last=task.last, place=self._place)
        outcomes = [outcome for outcomes in ranges for outcome in outcomes]
        return outcomes, {variant: self._sessions[variant].info for variant in task.variants}

    def _attack(self, task: Task, images: ImageSet) -> tuple[list[Outcome], dict[Variant, SessionInfo]]:
        self.close()  # an attack needs the memory
        job, cells = self.job, [(cell, task.first) for cell in task.cells]
        ranges = run_attacks(cells, images, job.batch, job.threads, WHOLE, last=task.last, network=self._attackable)
        outcomes = [outcome for outcomes in ranges for outcome in outcomes]
        return outcomes, {variant: attack_info(variant, job.batch, job.threads) for variant in task.variants}

    def _open(self, variants: Iterable[Variant]) -> None:
        for variant in variants:
            if variant not in self._sessions:
                session = open_session(self._files.variant(variant), self.job.batch, self.job.threads)
                self._sessions[variant] = self._opened.enter_context(session)

    def _attackable(self, variant: Variant) -> Attackable:
        from ..backends.torch import Attackable

        if self._network is None or self._network.variant != variant:
            self._network = None
            network = Attackable(self._files.variant(variant))
            network.variant = variant
            self._network = network
        return self._network

    def _image_set(self, cell: Cell) -> ImageSet:
        """One set at a time stays open: on a GPU it lies on the card."""
        digest = cell.image_set.digest
        if self._images is None or self._images.info.digest != digest:
            self._place = None
            self._images = self._files.images(self.job.image_sets[digest], digest)
        return self._images

    def close(self) -> None:
        self._place = None
        self._sessions.clear()
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _grid(job: Job, files: NodeFiles) -> Grid:
    here = {
        name: {**job.probes[name], "file": str(files.probe(file, job.sources[name]))}
        for name, file in probe_files(job.probes, job.folder).items()
    }
    return make_grid({**job.probes, **here}, job.folder)


def _joined(task: Task, parts: list[Finished]) -> list[Finished]:
    """One part a cell, in the task's order: where a probe fails, its neighbours come in several."""
    by_cell: dict[str, list[Finished]] = {}
    for part in parts:
        by_cell.setdefault(part.cell.key, []).append(part)
    found = (sorted(by_cell[cell.key], key=lambda part: part.first) for cell in task.cells if cell.key in by_cell)
    return [
        Finished(
            several[0].cell,
            task.first,
            Predictions(*(_column([getattr(part.predictions, name) for part in several]) for name in COLUMNS)),
            sum(part.seconds for part in several),
        )
        for several in found
    ]


COLUMNS = ("predicted", "label_rank", "confidence")


def _column(pieces: list[Any]) -> Any:
    return None if pieces[0] is None else np.concatenate(pieces)
