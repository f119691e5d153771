"""From a study to rows: what is missing is run and committed, range by range, or in tasks that leave shards."""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ...advance import Advance, Progress
from ...analysis.comparison.verdicts import not_passed
from ...analysis.database.open import open_store
from ...analysis.database.snapshots import snapshots
from ...analysis.database.store import ClassNames, Store
from ...engine.cell_progress import RANGE_SECONDS
from ...engine.device.devices import readiness
from ...engine.distributed.cluster import RayOptions, connected
from ...engine.distributed.executors import TRIES, run_here
from ...engine.distributed.files import kept_files
from ...engine.distributed.ray import run_on
from ...engine.distributed.shards import Folder, Shard, check_shard, open_folder, read_about, read_shard, shard_keys
from ...engine.distributed.worker import Computed, job_of, probe_sources
from ...engine.tasks import Task, by_attack, tasks_of, whole_tasks
from ...engine.workbench import Workbench
from ...errors import BandlensError, EngineError, ShardError, some_of
from ...probes.images.decision_spaces import NAMES, decision_space
from ...protocol import CLASSES
from ...records import Cell, Failed, Finished, Predictions, SessionInfo, Variant
from ..console import log, progress
from .resolve import Work


@dataclass(frozen=True, slots=True)
class Sharded:
    """A run in tasks that leave shards."""

    folder: str
    """Where they lie: a path or a URI."""
    ray: RayOptions | None = None
    """Whose workers compute the tasks; without it, this process."""
    later: bool = False
    """Commit no shard, and leave them all for `rebuild_study`."""
    commit_seconds: float = 5.0
    """Shards that come within this time are committed in one transaction."""


@dataclass(slots=True)
class Committed:
    """What a run has brought into the database."""

    predictions: int = 0
    failed: list[Failed] = field(default_factory=list)


MOST_GAPS = 4
"""Metrics that a study will lack, of which `run` names so many."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run went."""

    label: str
    """name@version of the study; of a gate, what is compared with what."""
    cells: int
    ran: int
    """Cells that were not complete before."""
    predictions: int
    seconds: float
    failed: list[Failed]

    def check(self) -> Summary:
        """This, where no cell failed; or BandlensError, which names the first."""
        if self.failed:
            first = self.failed[0]
            raise BandlensError(
                f"{len(self.failed)} of {self.cells} cells failed, the first: {first.cell}: {first.error}; "
                f"the others are stored, and the next run tries the failed ones again"
            )
        return self


def run_study(
    work: Work,
    database: Path,
    range_seconds: float = RANGE_SECONDS,
    require_gate: bool = False,
    sharded: Sharded | None = None,
    snapshot: Path | None = None,
    progress: Progress = progress,
) -> Summary:
    """Run what the database lacks of a study. Interrupt it at will: what was committed stays and is not run again.

    Args:
        work: the study.
        database: made if there is none.
        range_seconds: how much work may be lost.
        require_gate: raise BandlensError, rather than warn, where the study's precision has not passed its gate.
        sharded: run in tasks that leave shards, here or on a cluster; what may be lost is then a task for each worker.
        snapshot: a copy for readers, renewed now and then while this runs.
        progress: shows how far it is; by default on stderr.
    """
    with open_store(database) as store:
        if snapshot:
            store.after_commit = snapshots(store, snapshot)
        _check_gate(work, store, require_gate)
        done = store.progress(work.cells)
        if images_left(work.cells, done):
            _tell_gaps(work)
        return run_missing(work, store, partial(record, work, store), done, range_seconds, sharded, progress)


def record(work: Work, store: Store) -> str:
    """Record the study and its cells; gives its label."""
    study = work.study
    return store.begin_study(study.name, study.toml, work.cells, work.image_sets, class_names(work))


def class_names(work: Work) -> ClassNames:
    """What the classes of each decision space are called; of `all`, where a model has those of ImageNet."""
    there = [name for name in NAMES if name != "all" or any(model.classes == CLASSES for model in work.models)]
    spaces = [decision_space(name) for name in there]
    return {space.name: dict(zip(space.ids, space.names, strict=True)) for space in spaces}


def run_missing(
    work: Work,
    store: Store,
    begin: Callable[[], str],
    done: dict[str, int],
    range_seconds: float = RANGE_SECONDS,
    sharded: Sharded | None = None,
    progress: Progress = progress,
) -> Summary:
    """Run the cells that are not complete; `done` has the number of images that are stored of each key.

    `begin` records all of them and gives the label of the summary.
    """
    started = time.monotonic()
    todo = [cell for cell in work.cells if done.get(cell.key, 0) < cell.image_set.count]
    if sharded:
        label, committed = _run_in_shards(work, store, begin, todo, done, sharded, progress)
    else:
        label, committed = _run_whole(work, store, begin, todo, done, range_seconds, progress)
    seconds = time.monotonic() - started
    return Summary(label, len(work.cells), len(todo), committed.predictions, seconds, committed.failed)


def workbench(work: Work) -> Workbench:
    """What computes tasks of the study in this process."""
    sets = {images.info.digest: images for images in work.image_sets}
    return Workbench(work.grid, work.study.batch, work.study.thread_count, sets.__getitem__)


def images_left(cells: Sequence[Cell], done: Mapping[str, int]) -> int:
    """The number of predictions that the cells lack; `done` has the number of images that are stored of each key."""
    return sum(cell.image_set.count - done.get(cell.key, 0) for cell in cells)


def _check_gate(work: Work, store: Store, required: bool) -> None:
    """Warn of a precision that has not passed its gate, or refuse it."""
    missing, total = not_passed(store, work.cells, work.study.gate)
    if not missing:
        return
    variant = work.cells[0].variant
    message = (
        f"{variant.engine} {variant.precision} has not passed the precision gate for {missing} of {total} pairs of "
        f"checkpoint and condition; see: bandlens gate STUDY.toml --candidate {variant.engine}:{variant.precision} "
        f"--db {store.path}"
    )
    if required:
        raise BandlensError(message)
    log.warning(f"bandlens: warning: {message}")


def _tell_gaps(work: Work) -> None:
    """Say in one line which metrics the study has some conditions for, and not all that they need."""
    from .plan import metrics_of  # SciPy, which takes longer to import than a run with nothing to do

    if gaps := [f"no {one}: {one.why}" for one in metrics_of(work) if one.why]:
        named = some_of(gaps, MOST_GAPS, "; ")
        log.info(f"bandlens: {named}; `bandlens plan` lists the metrics of a study")


def _run_whole(
    work: Work,
    store: Store,
    begin: Callable[[], str],
    todo: Sequence[Cell],
    done: Mapping[str, int],
    range_seconds: float,
    progress: Progress,
) -> tuple[str, Committed]:
    """Run the cells in this process and commit range by range; gives the label and what was committed."""
    committed = Committed()
    perturbed, attacked = by_attack(todo)
    with workbench(work) as bench:
        # What they run on comes first: a study that cannot run must not take the place of its last version in the
        # views. A network that cannot be attacked is no reason to leave the rest out, but an engine is.
        for engine in dict.fromkeys(cell.variant.engine for cell in attacked):
            if not readiness(engine).ready:
                raise EngineError(readiness(engine).line)
        variants = list(dict.fromkeys(cell.variant for cell in perturbed))
        with progress("opening", len(variants), "models") as opened:
            bench.open(variants, opened)
        label = begin()
        for what, cells in (("running", perturbed), ("attacking", attacked)):
            with progress(what, images_left(cells, done), "predictions") as advance, committing(store) as commit:
                for task in whole_tasks(cells, work.grid):
                    for outcomes in bench.compute(task, done, range_seconds, advance):
                        commit(outcomes, bench.infos())
                        for outcome in outcomes:
                            if isinstance(outcome, Failed):
                                committed.failed.append(outcome)
                            else:
                                committed.predictions += len(outcome.predictions.predicted)
    return label, committed


Commit = Callable[[Sequence[Finished | Failed], Mapping[Variant, SessionInfo]], None]


@contextmanager
def committing(store: Store) -> Iterator[Commit]:
    """`store.commit` in a thread of its own, so that the next range is computed meanwhile.

    Ranges are committed one after another, in their order. Where one fails, its error comes with the next range or at
    the end of the block, and nothing that comes after it is committed.
    """
    under_way: list[Future[None]] = []

    def wait() -> None:
        while under_way:
            under_way.pop().result()

    def commit(outcomes: Sequence[Finished | Failed], sessions: Mapping[Variant, SessionInfo]) -> None:
        wait()
        under_way.append(thread.submit(store.commit, outcomes, sessions))

    with ThreadPoolExecutor(1, "commit") as thread:
        yield commit
        wait()


def _run_in_shards(
    work: Work,
    store: Store,
    begin: Callable[[], str],
    todo: Sequence[Cell],
    done: dict[str, int],
    sharded: Sharded,
    progress: Progress,
) -> tuple[str, Committed]:
    """`_run_whole` in tasks; what shards the folder has of them is not computed again.

    A task that failed three times fails its cells.
    """
    study, folder = work.study, open_folder(sharded.folder)
    cells = {cell.key: cell for cell in todo}
    committer = Committer(store, folder, cells, begin, done, sharded.later, sharded.commit_seconds)
    with ExitStack() as stack:
        job = job_of(study.probes, study.folder, work.image_sets, study.batch, study.thread_count, folder.name, todo)
        compute: Callable[..., None] = partial(run_here, job)
        workers = 1
        if sharded.ray and todo:
            cluster = stack.enter_context(connected(sharded.ray, study.engine, study.thread_count))
            probes = probe_sources(study.probes, study.folder)
            kept = kept_files(work.image_sets, list({cell.variant for cell in todo}), list(probes.values()))
            compute, workers = partial(run_on, cluster, job, kept=kept), cluster.workers
        committer.advance = stack.enter_context(progress("running", images_left(todo, done), "predictions"))
        for _ in range(TRIES):  # more than once where a shard was damaged after it had been written
            if committer.missing():
                try:
                    compute(tasks=tasks_of(todo, work.grid, study.batch, workers, committer.lacks), sink=committer)
                except ShardError:
                    committer.flush()  # what came before is whole
                    raise
                committer.flush()
    if committer.missing():
        raise ShardError(f"shards in {folder.name} were damaged {TRIES} times; name another folder with --shards")
    committer.begin()
    return str(committer.label), committer.committed


# Shards


MOST_PREDICTIONS = 2**23
"""Of a transaction, and one shard more: what is read for it and not yet stored takes some hundred megabytes."""


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
    """Cell key -> number of its images that are stored; or, with `later`, that shards have."""
    later: bool = False
    every: float = 0
    """Seconds between transactions. This and `later` are those of `Sharded`."""
    advance: Advance = lambda _=1, /: None
    committed: Committed = field(default_factory=Committed)
    lost: dict[str, str] = field(default_factory=dict)
    """Key and error of the cells that failed."""
    waiting: list[Shard] = field(default_factory=list)
    """In the order of their images."""
    label: str | None = None
    due: float = 0
    """When the next transaction is."""

    # What an executor calls

    def begin(self) -> None:
        if self.label is None:
            self.label = self.record()
            self.adopt()

    def still(self, task: Task) -> Task | None:
        cells = [cell for cell in task.cells if cell.key not in self.lost and self.lacks(cell, task.first, task.last)]
        return task.of(cells) if cells else None

    def accept(self, task: Task, computed: Computed) -> None:
        shard, lost = computed.shard, dict(computed.failed)
        left = tuple(cell.key for cell in task.cells if cell.key not in lost)
        found = (shard.cells, shard.first, shard.last) if shard else ((), task.first, task.last)
        if found != (left, task.first, task.last):
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
        self.waiting = sorted([*self.waiting, *found], key=_images)
        self.flush()

    def add(self, shard: Shard) -> None:
        """Take a shard, and commit when it is time; what is not yet committed lies in the folder, for the next run."""
        insort(self.waiting, shard, key=_images)
        held = sum(len(shard.cells) * (shard.last - shard.first) for shard in self.waiting)
        if time.monotonic() >= self.due or held >= MOST_PREDICTIONS:
            self.flush()

    def flush(self) -> None:
        """Commit what is next of each cell, several shards in a transaction; the rest waits."""
        while several := self._next():
            self._commit(several)
        self.waiting = [shard for shard in self.waiting if self._wanted(shard)]
        self.due = time.monotonic() + self.every

    def _next(self) -> list[tuple[Shard, list[str]]]:
        """Shards for one transaction, each with the cells that it goes on with."""
        found, reached, predictions = [], dict(self.done), 0
        for shard in self.waiting:
            keys = [key for key in self._wanted(shard) if shard.first <= reached.get(key, 0) < shard.last]
            if keys:
                found.append((shard, keys))
                reached |= dict.fromkeys(keys, shard.last)
                predictions += len(keys) * (shard.last - shard.first)
            if predictions >= MOST_PREDICTIONS:
                break
        return found

    def _commit(self, several: Sequence[tuple[Shard, list[str]]]) -> None:
        """Commit them in one transaction, all or none. A damaged one goes, and so nothing goes on from it."""
        ranges, reached = [], dict(self.done)
        for (shard, keys), held in zip(several, self._read([shard for shard, _ in several]), strict=True):
            if held is None:
                self.waiting.remove(shard)
                continue
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
        """What each of them holds: nothing, where that is for later; None where it is damaged, which is warned of."""
        if self.later:
            return [{} for _ in shards]

        def read(shard: Shard) -> dict[str, Predictions] | ShardError:
            try:
                return read_shard(self.folder, shard)
            except ShardError as error:
                return error

        with ThreadPoolExecutor() as readers:
            found = list(readers.map(read, shards))
        for one in found:
            if isinstance(one, ShardError):
                self._warn(one)
        return [None if isinstance(one, ShardError) else one for one in found]

    def _part(self, shard: Shard, key: str, first: int, held: Predictions) -> Finished:
        """What the shard has of a cell from image `first` on."""
        share = (shard.last - first) / (shard.last - shard.first)
        seconds = share * shard.seconds[shard.places[key]]
        return Finished(self.cells[key], first, _from(held, first - shard.first), seconds)

    def _wanted(self, shard: Shard) -> list[str]:
        """The cells that it has images of which are not stored."""
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


def _from(predictions: Predictions, row: int) -> Predictions:
    rank = predictions.label_rank
    return Predictions(predictions.predicted[row:], None if rank is None else rank[row:], predictions.confidence[row:])


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
        with progress("rebuilding", images_left(work.cells, done), "predictions") as committer.advance:
            committer.begin()
        missing = [(cell, committer.done.get(cell.key, 0)) for cell in committer.missing()]
    return Rebuilt(str(committer.label), len(work.cells), committer.committed.predictions, missing)
