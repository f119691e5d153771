"""Runs that are spread over workers: what a worker computes, and how its rows come into the database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from ...analysis.database.store import Store
from ...core.errors import EngineError
from ...core.progress import Advance, Progress, silent
from ...core.records import Cell, Failed, SessionInfo, Variant
from ...engine.cell_progress import Outcome
from ...engine.tasks import Task, whole_tasks
from ...engine.workbench import Workbench, with_card_state
from ...engine.workers.processes import device_workers, environments_of
from ...engine.workers.schedule import TRIES, Schedule, Worker
from ...export.model_files import models_folder
from ..console import log
from .file import Study
from .record import Committed, Summary, images_left, missing_cells
from .resolve import Work, resolve
from .sessions import Commit, background_commits, make_workbench, open_sessions


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes that a run is spread over; one for each device of this machine, or as many as Ray has room for."""

    devices: tuple[str, ...] = ()
    """Numbers of GPUs, names of `nvidia-smi -L`, or `cpu`. Without devices the run is Ray's."""
    address: str | None = None
    """The address of a Ray cluster; RAY_ADDRESS by default."""


Request = Mapping[str, int]
"""A task as a worker gets it: the key of each cell, and the number of its images that are stored."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The outcomes of a task after a minute, in the order in which they are stored."""

    ranges: list[list[Outcome]]
    sessions: dict[Variant, SessionInfo]


@dataclass
class StudyComputer:
    """The computer of a worker: it resolves the study by itself, from the same paths as the driver."""

    study: Study
    """The study, with absolute paths."""
    identities: Mapping[str, str]
    """The identities of the driver's files: see `identities_of`."""
    lacking: frozenset[str]
    """The names of the variants that lack predictions, whose sessions are opened first."""
    range_seconds: float
    """Seconds after which it answers with what it has."""

    def open(self) -> None:
        """Resolve the study and open its sessions; EngineError where a file is another than the driver's."""
        self.work = resolve(self.study)
        identities = identities_of(self.work)
        for name, digest in self.identities.items():
            if identities.get(name) != digest:
                raise EngineError(
                    f"{name} is another than where the run was started; make files and versions of all machines equal"
                )
        self.cells = {cell.key: cell for cell in self.work.cells}
        self.bench: Workbench = make_workbench(self.work)
        todo = [cell for cell in self.work.cells if str(cell.variant) in self.lacking]
        open_sessions(self.bench, self.work.cells, todo)

    def compute(self, request: Request) -> Reply:
        """Compute cells for about a minute, each from the image on that it has come to."""
        if not request.keys() <= self.cells.keys():
            raise EngineError("the task has cells of another study; are all versions of bandlens the same?")
        cells = [self.cells[key] for key in request]
        task = Task(tuple(cells), 0, cells[0].image_set.count)
        end, ranges = time.monotonic() + self.range_seconds, list[list[Outcome]]()
        with closing(self.bench.compute(task, request, self.range_seconds)) as parts:
            for outcomes in parts:
                ranges += [outcomes] if outcomes else []  # a slow probe may take longer than that for its first images
                if ranges and time.monotonic() >= end:
                    break
        return Reply(ranges, with_card_state(self.bench.infos()))


def identities_of(work: Work) -> dict[str, str]:
    """Name -> digest of each file or implementation that the cells of a study depend on."""
    identities = {f"image set {images.info.name}": images.info.digest for images in work.image_sets}
    identities |= {f"the ONNX file of {cell.variant}": cell.variant.sha256 for cell in work.cells}
    return identities | {f"probe {cell.condition}": cell.condition.digest for cell in work.cells}


def computer_of(work: Work, todo: Sequence[Cell], threads: int, range_seconds: float) -> StudyComputer:
    """The computer of workers, which have other current folders, and environments of their own."""
    study = replace(
        work.study,
        folder=work.study.folder.absolute(),
        models=work.study.models or str(models_folder().absolute()),
        measures={},
        threads=threads,
    )
    return StudyComputer(study, identities_of(work), frozenset(str(cell.variant) for cell in todo), range_seconds)


@dataclass
class RunLedger:
    """The ledger of a run: rows are committed in the order of each cell's images, since it is in one task at a time."""

    record: Callable[[], str]
    """Records the study, and gives its label."""
    image_counts: dict[str, int]
    """Cell key -> number of its images that are stored."""
    commit: Commit
    advance: Advance
    committed: Committed
    label: str | None = None

    def begin(self) -> None:
        self.label = self.label or self.record()

    def request(self, task: Task) -> Request:
        return {cell.key: self.image_counts.get(cell.key, 0) for cell in task.cells}

    def accept(self, task: Task, reply: Reply) -> Task | None:
        for outcomes in reply.ranges:
            self._store(outcomes, reply.sessions)
        failed = {failure.cell.key for failure in self.committed.failed}
        rest = [cell for cell in missing_cells(task.cells, self.image_counts) if cell.key not in failed]
        return task.limited_to(rest) if rest else None

    def fail(self, task: Task, error: str) -> None:
        self._store([Failed(cell, f"{error} (tried {TRIES} times)") for cell in task.cells], {})

    def _store(self, outcomes: Sequence[Outcome], sessions: Mapping[Variant, SessionInfo]) -> None:
        self.commit(outcomes, sessions)
        for outcome in outcomes:
            if not isinstance(outcome, Failed):
                count = len(outcome.predictions.predicted)
                self.image_counts[outcome.cell.key] = outcome.first + count
                self.advance(count)
        self.committed.add(outcomes)

    def tell(self, text: str) -> None:
        log.info(f"bandlens: {text}")


def run_on_workers(
    work: Work,
    store: Store,
    begin: Callable[[], str],
    image_counts: dict[str, int],
    workers: Workers,
    range_seconds: float,
    progress: Progress = silent,
) -> Summary:
    """Run the cells that are not complete on workers; a task that failed three times fails its cells.

    `image_counts` has the number of stored images of each key. `begin` records all cells and gives the label of the
    summary. A worker answers after about `range_seconds`.
    """
    todo, committed = missing_cells(work.cells, image_counts), Committed()
    with (
        progress("running", images_left(todo, image_counts), "predictions") as advance,
        background_commits(store, committed.throttled, dict) as commit,
    ):
        ledger = RunLedger(begin, image_counts, commit, advance, committed)
        if todo:
            with _start(work, todo, workers, range_seconds) as (started, look):
                Schedule(started, whole_tasks(todo, work.grid), ledger, look).run()
        ledger.begin()
    for line in committed.throttled:
        log.warning(f"bandlens: warning: {line}")
    return committed.summarize(str(ledger.label), work.cells, todo)


@contextmanager
def _start(
    work: Work, todo: Sequence[Cell], workers: Workers, range_seconds: float
) -> Iterator[tuple[Sequence[Worker], Callable[[], None]]]:
    """The workers while the block lasts, and a function that looks after the cluster that they are in."""
    study, threads = work.study, work.study.thread_count
    if workers.devices:
        environments = environments_of(workers.devices, study.engine)
        threads = study.threads or max(threads // len(environments), 1)
        with device_workers(environments, computer_of(work, todo, threads, range_seconds)) as processes:
            yield processes, lambda: None
    else:
        from ...engine.workers.cluster import ray_workers

        computer = computer_of(work, todo, threads, range_seconds)
        with ray_workers(workers.address, study.engine, threads, computer) as (actors, look):
            yield actors, look
