"""Runs that are spread over workers: what a worker computes, and how its rows come into the database."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace

from ...core.errors import EngineError
from ...core.jobs import Advance
from ...core.log import log
from ...core.records import Cell, Failed, SessionInfo, Variant
from ...engine.processes import device_workers, environments_of
from ...engine.schedule import TRIES, Schedule, Worker
from ...engine.task_context import with_card_state
from ...engine.tasks import Outcome, Task, whole_tasks
from ...export.model_files import models_folder
from .file import Study
from .resolve import Work, resolve
from .result_writer import ResultWriter
from .reuse import count_remaining, missing_cells
from .run_monitor import RunMonitor
from .summary import Summary


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes that a run is spread over; one for each device of this machine, or as many as Ray has room for."""

    devices: tuple[str, ...] = ()
    """Numbers of GPUs, names of `nvidia-smi -L`, or `cpu`. Without devices the run is Ray's."""
    address: str | None = None
    """The address of a Ray cluster; RAY_ADDRESS by default."""


FIRST_SECONDS = 1.0
"""Seconds after which a worker answers first; later it does after as many as it has worked."""
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
    """Seconds after which it answers with what it has; at first sooner, so that a short session advances, too."""

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
        self.bench = self.work.workbench()
        self.bench.prepare(self.work.cells, [cell for cell in self.work.cells if str(cell.variant) in self.lacking])
        self.opened = time.monotonic()

    def compute(self, request: Request) -> Reply:
        """Compute cells for about a minute at most, each from the image on that it has come to."""
        if not request.keys() <= self.cells.keys():
            raise EngineError("the task has cells of another study; are all versions of bandlens the same?")
        cells = [self.cells[key] for key in request]
        task = Task(tuple(cells))
        start, ranges = time.monotonic(), list[list[Outcome]]()
        seconds = min(self.range_seconds, max(FIRST_SECONDS, start - self.opened))
        with closing(self.bench.compute(task, request, seconds)) as parts:
            for outcomes in parts:
                ranges += [outcomes] if outcomes else []  # a slow probe may take longer than that for its first images
                if ranges and time.monotonic() >= start + seconds:
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

    writer: ResultWriter
    advance: Advance

    def begin(self) -> None:
        self.writer.begin()

    def request(self, task: Task) -> Request:
        return {cell.key: self.writer.image_counts.get(cell.key, 0) for cell in task.cells}

    def accept(self, task: Task, reply: Reply) -> Task | None:
        predictions = self.writer.predictions
        for outcomes in reply.ranges:
            self.writer.commit(outcomes, lambda: reply.sessions)
        self.advance(self.writer.predictions - predictions)
        failed = {failure.cell.key for failure in self.writer.failed}
        rest = [cell for cell in missing_cells(task.cells, self.writer.image_counts) if cell.key not in failed]
        return task.limited_to(rest) if rest else None

    def fail(self, task: Task, error: str) -> None:
        self.writer.commit([Failed(cell, f"{error} (tried {TRIES} times)") for cell in task.cells])

    def tell(self, text: str) -> None:
        log.info(f"bandlens: {text}")


def run_on_workers(
    work: Work, writer: ResultWriter, workers: Workers, range_seconds: float, monitor: RunMonitor
) -> Summary:
    """Run the cells that are not complete on workers; a task that failed three times fails its cells.

    A worker answers after about `range_seconds`.
    """
    total = count_remaining(writer.todo, writer.image_counts)
    with monitor.saving(writer.save), writer, monitor.progress("running", total, "predictions") as advance:
        if writer.todo:
            with _open_workers(work, writer.todo, workers, range_seconds) as (pool, look):
                Schedule(pool, whole_tasks(writer.todo, work.grid), RunLedger(writer, advance), look).run()
        writer.begin()
    return writer.summarize()


def _open_workers(
    work: Work, todo: Sequence[Cell], workers: Workers, range_seconds: float
) -> AbstractContextManager[tuple[Sequence[Worker], Callable[[], None]]]:
    """The workers while the block lasts, and a function that looks after the cluster that they are in."""
    engine, threads = work.study.engine, work.study.thread_count
    if workers.devices:
        environments = environments_of(workers.devices, engine)
        threads = work.study.threads or max(threads // len(environments), 1)
        return device_workers(environments, computer_of(work, todo, threads, range_seconds))
    from ...engine.cluster import ray_workers

    return ray_workers(workers.address, engine, threads, computer_of(work, todo, threads, range_seconds))
