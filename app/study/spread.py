"""Runs in tasks: workers write shards, and what they hold is committed here, each cell in the order of its images."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ...analysis.database.open import open_store
from ...analysis.database.store import Store
from ...engine.distributed.executors import TRIES, run_here
from ...engine.distributed.files import kept_files
from ...engine.distributed.ray import RayOptions, connected
from ...engine.distributed.shards import Folder, Shard, check_shard, open_folder, read_about, read_shard, shard_keys
from ...engine.distributed.tasks import Task, tasks_of
from ...engine.distributed.worker import Computed, job_of, probe_files
from ...errors import ShardError
from ...records import Cell, Failed, Finished, Predictions
from ..console import Advance, progress
from .file import Work
from .run import Kept, Summary, record


@dataclass(frozen=True, slots=True)
class Spread:
    """How a run is spread."""

    shards: str
    """The results folder: a path or a URI."""
    ray: RayOptions | None = None
    """Without it, in this process."""


@dataclass
class Committer:
    """Commits what shards hold. A cell's images are stored in their order, so a shard may have to wait for another."""

    store: Store
    folder: Folder
    cells: Mapping[str, Cell]
    """By key: shards may hold others, which are passed over."""
    record: Callable[[], str]
    """Records the study, and gives its label."""
    done: dict[str, int]
    """Cell key -> number of its images that are stored."""
    advance: Advance = lambda _=1, /: None
    kept: Kept = field(default_factory=Kept)
    lost: dict[str, str] = field(default_factory=dict)
    """Key and error of the cells that failed."""
    waiting: list[Shard] = field(default_factory=list)
    """In the order of their images."""
    label: str | None = None

    # What an executor calls

    def begin(self) -> None:
        if self.label is None:
            self.label = self.record()
            self.adopt()

    def still(self, task: Task) -> Task | None:
        cells = [cell for cell in task.cells if cell.key not in self.lost]
        return task.of(cells) if cells else None

    def accept(self, task: Task, computed: Computed) -> None:
        shard, lost = computed.shard, dict(computed.failed)
        left = tuple(cell.key for cell in task.cells if cell.key not in lost)
        found = (shard.cells, shard.first, shard.last) if shard else ((), task.first, task.last)
        if found != (left, task.first, task.last):
            raise ShardError(f"{task}: the worker's shard is of something else; are all versions of bandlens the same?")
        if shard:
            self.add([shard])
        self._fail([Failed(cell, lost[cell.key]) for cell in task.cells if cell.key in lost])

    def set_aside(self, task: Task, error: str) -> None:
        where = f"images {task.first} to {task.last - 1}, tried {TRIES} times"
        self._fail([Failed(cell, f"{error} ({where})") for cell in task.cells])

    # Rows

    def lacks(self, cell: Cell, first: int, last: int) -> bool:
        """Whether neither the database nor a shard that waits has all of the images."""
        reached = max(self.done.get(cell.key, 0), first)
        for shard in self.waiting:  # in the order of their images
            if shard.first <= reached < shard.last and cell.key in shard.places:
                reached = shard.last
        return reached < last

    def missing(self) -> list[Cell]:
        """The cells that are neither complete nor failed."""
        return [
            cell
            for key, cell in self.cells.items()
            if key not in self.lost and self.done.get(key, 0) < cell.image_set.count
        ]

    def adopt(self) -> None:
        """Commit what shards are there already; damaged ones are warned of and passed over."""
        found = []
        for key in shard_keys(self.folder):
            try:
                shard = read_about(self.folder, key)
                if self._wanted(shard):
                    check_shard(self.folder, shard)
                    found.append(shard)
            except ShardError as error:
                self._warn(error)
        self.add(found)

    def add(self, shards: Sequence[Shard]) -> None:
        """Commit what is next of each cell; the rest waits."""
        self.waiting = sorted([*self.waiting, *shards], key=lambda shard: (shard.first, shard.last))
        for shard in list(self.waiting):
            if ready := [key for key in self._wanted(shard) if self.done.get(key, 0) >= shard.first]:
                try:
                    held = read_shard(self.folder, shard)
                except ShardError as error:
                    self._warn(error)
                    self.waiting.remove(shard)
                else:
                    self._commit(shard, ready, held)
        self.waiting = [shard for shard in self.waiting if self._wanted(shard)]

    def _wanted(self, shard: Shard) -> list[str]:
        """The cells that it has images of which are not stored."""
        return [
            key
            for key in shard.cells
            if key in self.cells and key not in self.lost and self.done.get(key, 0) < shard.last
        ]

    def _commit(self, shard: Shard, keys: Sequence[str], held: Mapping[str, Predictions]) -> None:
        parts = []
        for key in keys:
            first = max(self.done.get(key, 0), shard.first)
            share = (shard.last - first) / (shard.last - shard.first)
            seconds = share * shard.seconds[shard.places[key]]
            parts.append(Finished(self.cells[key], first, _from(held[key], first - shard.first), seconds))
        self.store.commit(parts, {self.cells[key].variant: shard.session(key) for key in keys})
        for part in parts:
            self.done[part.cell.key] = shard.last
            self.kept.predictions += len(part.predictions.predicted)
            self.advance(len(part.predictions.predicted))

    def _fail(self, failures: Sequence[Failed]) -> None:
        new = [failure for failure in failures if failure.cell.key not in self.lost]
        self.store.commit(new, {})
        self.lost |= {failure.cell.key: failure.error for failure in new}
        self.kept.failed += new

    def _warn(self, error: ShardError) -> None:
        print(f"bandlens: warning: {error}", file=sys.stderr)


def _from(predictions: Predictions, row: int) -> Predictions:
    rank = predictions.label_rank
    return Predictions(predictions.predicted[row:], None if rank is None else rank[row:], predictions.confidence[row:])


def run_spread(work: Work, store: Store, begin: Callable[[], str], spread: Spread) -> Summary:
    """Run the cells that are not complete, in tasks; what shards the folder has of them is not computed again.

    Arguments and errors are those of `runner.run_missing`; a task that failed three times fails its cells.
    """
    started, study = time.monotonic(), work.study
    folder = open_folder(spread.shards)
    done = store.progress(work.cells)
    todo = [cell for cell in work.cells if done.get(cell.key, 0) < cell.image_set.count]
    committer = Committer(store, folder, {cell.key: cell for cell in todo}, begin, done)
    with ExitStack() as stack:
        job = job_of(study.probes, study.folder, work.image_sets, study.batch, study.thread_count, folder.name, todo)
        compute: Callable[..., None] = partial(run_here, job)
        workers = 1
        if spread.ray and todo:
            cluster = stack.enter_context(connected(spread.ray, study.engine, study.thread_count))
            probes = probe_files(study.probes, study.folder)
            kept = kept_files(work.image_sets, list({cell.variant for cell in todo}), list(probes.values()))
            compute, workers = partial(cluster.run, job, kept=kept), cluster.workers
        left = sum(cell.image_set.count - done.get(cell.key, 0) for cell in todo)
        committer.advance = stack.enter_context(progress("running", left, "predictions"))
        for _ in range(TRIES):  # more than once where a shard was damaged after it had been written
            if committer.missing():
                compute(tasks=tasks_of(todo, work.grid, study.batch, workers, committer.lacks), sink=committer)
    if committer.missing():
        raise ShardError(f"shards in {folder.name} were damaged {TRIES} times; name another folder with --shards")
    committer.begin()
    kept_ = committer.kept
    return Summary(
        str(committer.label), len(work.cells), len(todo), kept_.predictions, time.monotonic() - started, kept_.failed
    )


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a database has of a study after its shards were committed."""

    label: str
    cells: int
    predictions: int
    """That were committed."""
    missing: list[tuple[Cell, int]]
    """Cells that are not complete, with the number of their images that are there."""


def rebuild_study(work: Work, database: Path, shards: str) -> Rebuilt:
    """Commit what shards hold of a study and the database lacks; compute nothing."""
    folder = open_folder(shards, make=False)
    with open_store(database) as store:
        done = store.progress(work.cells)
        committer = Committer(
            store, folder, {cell.key: cell for cell in work.cells}, partial(record, work, store), done
        )
        left = sum(cell.image_set.count - done.get(cell.key, 0) for cell in work.cells)
        with progress("rebuilding", left, "predictions") as committer.advance:
            committer.begin()
        missing = [(cell, committer.done.get(cell.key, 0)) for cell in committer.missing()]
    return Rebuilt(str(committer.label), len(work.cells), committer.kept.predictions, missing)
