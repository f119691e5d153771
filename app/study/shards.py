"""Runs in tasks that leave shards. Shards are committed as they come, or later, to rebuild a database."""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path

from ...analysis.database.open import open_store
from ...analysis.database.store import Store
from ...core.errors import ShardError
from ...core.progress import Advance, Progress, silent
from ...core.records import Cell, Failed, Finished, Predictions
from ...engine.distributed.cluster import RayOptions, connected
from ...engine.distributed.devices import environments_of, run_on_devices
from ...engine.distributed.executors import TRIES, run_here
from ...engine.distributed.files import kept_files
from ...engine.distributed.ray import run_on
from ...engine.distributed.shards import Folder, Shard, check_shard, open_folder, read_about, read_shard, shard_keys
from ...engine.distributed.worker import Computed, job_of, probe_sources
from ...engine.tasks import Task, tasks_of
from ..console import log
from .record import Committed, Summary, images_left, missing_cells, record_study, stored_images
from .resolve import Work


@dataclass(frozen=True, slots=True)
class Sharded:
    """The options of a run that is split into tasks which leave shards."""

    folder: str | PathLike[str]
    """The path or URI of the folder of the shards."""
    ray: RayOptions | None = None
    """The cluster whose workers compute the tasks."""
    devices: tuple[str, ...] = ()
    """The devices of this machine that have a process each: numbers of GPUs, names of `nvidia-smi -L`, or `cpu`.

    Without them and a cluster, this process computes the tasks.
    """
    task_timeout: float | None = None
    """Seconds without progress after which another worker gets a task; by default 20 times what the slowest took."""
    later: bool = False
    """Commit no shard, and leave them all for `rebuild_study`."""
    commit_seconds: float = 5.0
    """Seconds within which shards are committed in one transaction."""


def run_in_shards(
    work: Work,
    store: Store,
    begin: Callable[[], str],
    done: dict[str, int],
    sharded: Sharded,
    progress: Progress = silent,
) -> Summary:
    """Run the cells that are not complete in tasks; a task whose shard lies in the folder is not computed again.

    `done` has the number of images that are stored of each key. `begin` records all cells and gives the label of the
    summary. A task that failed three times fails its cells.
    """
    study, folder = work.study, open_folder(sharded.folder)
    todo = missing_cells(work.cells, done)
    cells = {cell.key: cell for cell in todo}
    committer = Committer(store, folder, cells, begin, done, sharded.later, sharded.commit_seconds)
    with ExitStack() as stack:
        sets, complete = work.image_sets, [cell for cell in work.cells if cell.key not in cells]
        threads = study.threads or max(study.thread_count // (len(sharded.devices) or 1), 1)
        job = job_of(study.probes, study.folder, sets, study.batch, threads, folder.name, todo, complete)
        compute: Callable[..., None] = partial(run_here, job)
        workers = 1
        if sharded.devices:
            environments, workers = environments_of(sharded.devices, study.engine), len(sharded.devices)
            compute = partial(run_on_devices, environments, job, timeout=sharded.task_timeout)
        elif sharded.ray and todo:
            cluster = stack.enter_context(connected(sharded.ray, study.engine, study.thread_count))
            probes = probe_sources(study.probes, study.folder)
            files = kept_files(work.image_sets, list({cell.variant for cell in todo}), list(probes.values()))
            compute = partial(run_on, cluster, job, files=files, timeout=sharded.task_timeout)
            workers = cluster.workers
        committer.advance = stack.enter_context(progress("running", images_left(todo, done), "predictions"))
        for _ in range(TRIES):  # more than once where a shard was damaged after it had been written
            if committer.missing():
                try:
                    compute(tasks=tasks_of(todo, work.grid, study.batch, workers, committer.lacks), sink=committer)
                except ShardError:
                    committer.flush()  # shards before the damaged one are whole
                    raise
                committer.flush()
    if committer.missing():
        raise ShardError(f"shards in {folder.name} were damaged {TRIES} times; name another folder with --shards")
    committer.begin()
    return committer.committed.summarize(str(committer.label), work.cells, todo)


MOST_PREDICTIONS = 2**23
"""A transaction takes shards until it has as many predictions: what is read and not yet stored takes some hundred
megabytes."""


@dataclass
class Committer:
    """Commits what shards hold. A cell's images are stored in their order, so a shard may have to wait for another."""

    store: Store
    folder: Folder
    cells: Mapping[str, Cell]
    """The cells by key. Shards may hold others, which are passed over."""
    record: Callable[[], str]
    """Records the study, and gives its label."""
    done: dict[str, int]
    """Cell key -> number of its images that are stored; or, with `later`, that shards have."""
    later: bool = False
    """Commit nothing: see `Sharded.later`."""
    every: float = 0
    """Seconds between transactions: see `Sharded.commit_seconds`."""
    advance: Advance = lambda _=1, /: None
    committed: Committed = field(default_factory=Committed)
    lost: dict[str, str] = field(default_factory=dict)
    """Key and error of the cells that failed."""
    waiting: list[Shard] = field(default_factory=list)
    """Shards that are not committed yet, in the order of their images."""
    label: str | None = None
    due: float = 0
    """The time of the next transaction, by the monotonic clock."""

    # The methods of a `Sink`, which an executor calls

    def begin(self) -> None:
        if self.label is None:
            self.label = self.record()
            self.adopt()

    def remaining(self, task: Task) -> Task | None:
        cells = [cell for cell in task.cells if cell.key not in self.lost and self.lacks(cell, task.first, task.last)]
        return task.limited_to(cells) if cells else None

    def accept(self, task: Task, computed: Computed) -> None:
        shard, lost = computed.shard, dict(computed.failed)
        expected = tuple(cell.key for cell in task.cells if cell.key not in lost)
        received = (shard.cells, shard.first, shard.last) if shard else ((), task.first, task.last)
        if received != (expected, task.first, task.last):
            raise ShardError(f"{task}: the worker's shard is of something else; are all versions of bandlens the same?")
        if shard:
            self.add(shard)
        self._fail([Failed(cell, lost[cell.key]) for cell in task.cells if cell.key in lost])

    def set_aside(self, task: Task, error: str) -> None:
        where = f"images {task.first} to {task.last - 1}, tried {TRIES} times"
        self._fail([Failed(cell, f"{error} ({where})") for cell in task.cells])

    def tell(self, text: str) -> None:
        log.info(f"bandlens: {text}")

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
        """Commit the shards that lie in the folder already; damaged ones are warned of and passed over."""
        stored = []
        for key in shard_keys(self.folder):
            try:
                shard = read_about(self.folder, key)
                if self._lacking(shard):
                    check_shard(self.folder, shard)
                    stored.append(shard)
            except ShardError as error:
                self._warn(error)
        self.waiting = sorted([*self.waiting, *stored], key=_images)
        self.flush()

    def add(self, shard: Shard) -> None:
        """Take a shard, and commit when it is time; what is not yet committed lies in the folder, for the next run."""
        insort(self.waiting, shard, key=_images)
        held = sum(len(shard.cells) * (shard.last - shard.first) for shard in self.waiting)
        if time.monotonic() >= self.due or held >= MOST_PREDICTIONS:
            self.flush()

    def flush(self) -> None:
        """Commit the shards that go on where their cells have come to, several in a transaction; the others wait."""
        while several := self._next():
            self._commit(several)
        self.waiting = [shard for shard in self.waiting if self._lacking(shard)]
        self.due = time.monotonic() + self.every

    def _next(self) -> list[tuple[Shard, list[str]]]:
        """Shards for one transaction, each with the cells that it goes on with."""
        batch, reached, predictions = [], dict(self.done), 0
        for shard in self.waiting:
            keys = [key for key in self._lacking(shard) if shard.first <= reached.get(key, 0) < shard.last]
            if keys:
                batch.append((shard, keys))
                reached |= dict.fromkeys(keys, shard.last)
                predictions += len(keys) * (shard.last - shard.first)
            if predictions >= MOST_PREDICTIONS:
                break
        return batch

    def _commit(self, several: Sequence[tuple[Shard, list[str]]]) -> None:
        """Commit them in one transaction, all or none. A damaged one is dropped, and so nothing goes on from it."""
        ranges, reached = [], dict(self.done)
        for (shard, keys), held in zip(several, self._read([shard for shard, _ in several]), strict=True):
            if held is None:
                self.waiting.remove(shard)
                continue
            # A shard before this one may have been dropped: then its cells have not come as far as this one begins.
            starts = {key: reached.get(key, 0) for key in keys if reached.get(key, 0) >= shard.first}
            parts = [self._part(shard, key, first, held[key]) for key, first in starts.items() if held]
            ranges.append((parts, {self.cells[key].variant: shard.session(key) for key in starts}))
            reached |= dict.fromkeys(starts, shard.last)
        self.store.commit_all(ranges)
        predictions = sum(reached.values()) - sum(self.done.values())
        self.done |= reached
        self.committed.predictions += predictions
        self.advance(predictions)

    def _read(self, shards: Sequence[Shard]) -> list[dict[str, Predictions] | None]:
        """The predictions that each of them holds: none, where they are for later; None for one that is damaged."""
        if self.later:
            return [{} for _ in shards]

        def read(shard: Shard) -> dict[str, Predictions] | ShardError:
            try:
                return read_shard(self.folder, shard)
            except ShardError as error:
                return error

        with ThreadPoolExecutor() as readers:
            contents = list(readers.map(read, shards))
        for content in contents:
            if isinstance(content, ShardError):
                self._warn(content)
        return [None if isinstance(content, ShardError) else content for content in contents]

    def _part(self, shard: Shard, key: str, first: int, held: Predictions) -> Finished:
        """The part of a cell that the shard has from image `first` on."""
        share = (shard.last - first) / (shard.last - shard.first)
        seconds = share * shard.seconds[shard.places[key]]
        return Finished(self.cells[key], first, held.select(slice(first - shard.first, None)), seconds)

    def _lacking(self, shard: Shard) -> list[str]:
        """Keys of the cells that still lack images which the shard has."""
        return [
            key
            for key in shard.cells
            if key in self.cells and key not in self.lost and self.done.get(key, 0) < shard.last
        ]

    def _fail(self, failures: Sequence[Failed]) -> None:
        new = [failure for failure in failures if failure.cell.key not in self.lost]
        if not new:
            return
        self.store.commit(new, {})
        self.lost |= {failure.cell.key: failure.error for failure in new}
        self.committed.failed += new

    def _warn(self, error: ShardError) -> None:
        self.tell(f"warning: {error}")


def _images(shard: Shard) -> tuple[int, int]:
    return shard.first, shard.last


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The state of a study in a database after its shards were committed."""

    label: str
    cells: int
    predictions: int
    """The number of predictions that were committed."""
    missing: list[tuple[Cell, int]]
    """Cells that are not complete, with the number of their images that are stored."""


def rebuild_study(work: Work, database: Path, shards: str | PathLike[str], progress: Progress = silent) -> Rebuilt:
    """Commit what shards hold of a study and the database lacks. Nothing is computed."""
    folder = open_folder(shards, make=False)
    with open_store(database) as store:
        done = stored_images(work, store)
        cells = {cell.key: cell for cell in work.cells}
        committer = Committer(store, folder, cells, partial(record_study, work, store), done)
        with progress("rebuilding", images_left(work.cells, done), "predictions") as committer.advance:
            committer.begin()
        missing = [(cell, committer.done.get(cell.key, 0)) for cell in committer.missing()]
    return Rebuilt(str(committer.label), len(work.cells), committer.committed.predictions, missing)
