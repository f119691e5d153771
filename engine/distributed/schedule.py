"""The schedule of a run on several workers: each is handed one task at a time, and one that dies gets another process.

A task of a worker that died is handed to whichever is free next, so a task's tries are counted in one place, and none
waits for a device that never comes back. A worker that gives no sign of life, or makes no progress, is killed and
started again in the same way.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from ...core.errors import BandlensError, DeviceError, EngineError
from ..tasks import Task
from .executors import Attempt, Queue, Watch, line_of, reported
from .worker import Computed

LOOK_SECONDS = 0.5
"""Seconds between two looks for workers that have to be replaced."""
CRASHES = 3
"""The number of crashes in a row after which a worker is left alone."""

NEW_PROCESS = (DeviceError, MemoryError)
"""The errors after which a worker gets a new process, which has what the present one lacks."""

Call = Hashable
"""A call of a worker that has not come back, or whose result has not been fetched."""


class CallResult(NamedTuple):
    """The end of a call of a worker."""

    value: Any = None
    error: Exception | None = None
    """The exception that the call raised, or an EngineError that says how the worker's process ended."""
    is_lost: bool = False
    """Whether the worker's process ended with the call."""


class Workers(Protocol):
    """Workers, by number from 0: processes of this machine, or actors of a Ray cluster."""

    count: int

    def open(self, worker: int) -> Call:
        """Have the worker open its sessions, in another process where its last one has ended."""
        ...

    def compute(self, worker: int, task: Task) -> Call:
        """Have the worker compute a task; the value is `Computed`."""
        ...

    def ended(self, calls: Sequence[Call], watch: Watch) -> Sequence[Call]:
        """Wait for LOOK_SECONDS at most, and give the calls that have come back; the watch hears of signs of life.

        EngineError where no worker can come back any more.
        """
        ...

    def result(self, call: Call) -> CallResult:
        """The result of a call that has come back."""
        ...

    def kill(self, worker: int) -> None:
        """End the worker's process, even where that is stopped; its call may still come back."""
        ...


class Schedule:
    """Workers that start, wait or are busy, until no task is left."""

    def __init__(self, workers: Workers, queue: Queue, timeout: float | None) -> None:
        """`timeout` is that of `Watch`."""
        self.workers, self.queue = workers, queue
        self.watch = Watch(timeout)
        self.idle: list[int] = []
        self.starting: dict[Call, int] = {}
        self.busy: dict[Call, tuple[int, Attempt, float]] = {}
        """The worker, the attempt and its beginning."""
        self.late: dict[Call, Attempt] = {}
        """The attempts of workers that have been replaced while they computed."""
        self.crashes = dict.fromkeys(range(workers.count), 0)
        self.errors: list[str] = []
        """The errors of workers that were left alone, until the sink is told of them."""

    def run(self) -> None:
        """Compute all tasks; EngineError where no worker can."""
        for worker in self.crashes:
            self._start(worker)
        with reported(self.watch, self._waits_for, self.queue.sink.tell):
            while True:
                self._hand_out()
                if not self.busy and (self.idle or not self.starting):
                    return
                # A worker that starts, on a node that may never come, is waited for only while there is work for it.
                calls = self.workers.ended([*self.busy, *self.starting, *self.late], self.watch)
                heard = self.watch.clock()
                for call in calls:
                    if call in self.starting:
                        self._started(self.workers.result(call), self.starting.pop(call))
                    elif call in self.busy:
                        self._computed(self.workers.result(call), *self.busy.pop(call))
                    else:
                        self._came_late(self.workers.result(call), self.late.pop(call))
                # Results were stored meanwhile, which may take longer than a worker may be silent.
                self.watch.listens_again(heard)
                self._look_after()
                while self.errors and (self.busy or self.idle):  # where no worker works, the run ends with the error
                    self.queue.sink.tell(
                        f"a worker did not start {CRASHES} times, and is left alone: {self.errors.pop()}"
                    )

    def _hand_out(self) -> None:
        while self.idle and (attempt := self.queue.next()):
            worker = self.idle.pop()
            self.watch.begins(worker)
            self.busy[self.workers.compute(worker, attempt.task)] = (worker, attempt, self.watch.clock())

    def _start(self, worker: int) -> None:
        self.watch.starts(worker)
        self.starting[self.workers.open(worker)] = worker

    def _start_after(self, worker: int, error: Exception) -> None:
        if isinstance(error, NEW_PROCESS):
            self.workers.kill(worker)
        self._start(worker)

    def _started(self, result: CallResult, worker: int) -> None:
        if result.error is not None:
            self._crashed(worker, result.error)
            return
        self.crashes[worker] = 0
        self.queue.sink.begin()
        self.idle.append(worker)

    def _crashed(self, worker: int, error: Exception) -> None:
        self.crashes[worker] += 1
        if self.crashes[worker] < CRASHES:
            self._start_after(worker, error)
        elif self.busy or self.idle or self.starting:
            self.errors.append(line_of(error))
        else:
            raise EngineError(f"no worker can run the study: {line_of(error)}") from error

    def _computed(self, result: CallResult, worker: int, attempt: Attempt, began: float) -> None:
        if result.error is None:
            self.watch.ends(began)
            self.idle.append(worker)
            self._hand_out()  # the worker goes on while this is stored
            self._accept(attempt, result.value)
            return
        if result.is_lost or isinstance(result.error, NEW_PROCESS):
            self._start_after(worker, result.error)
        else:
            self.idle.append(worker)
        lost = EngineError(f"its worker was lost: {line_of(result.error)}")
        self.queue.failed(attempt, lost if result.is_lost else result.error)

    def _came_late(self, result: CallResult, attempt: Attempt) -> None:
        """Take the results that a replaced worker had before it was killed; stored rows are not stored again.

        Where a cell failed, killing the worker may be the cause: Ray ends the process of a probe first.
        """
        if result.error is None and not result.value.failed:
            with suppress(BandlensError):
                self.queue.sink.accept(attempt.task, result.value)

    def _accept(self, attempt: Attempt, computed: Computed) -> None:
        try:
            self.queue.sink.accept(attempt.task, computed)
        except BandlensError as error:
            self.queue.failed(attempt, error)

    def _look_after(self) -> None:
        """Replace workers that give no sign of life or make no progress."""
        for call, (worker, attempt, _) in list(self.busy.items()):
            if fault := self.watch.fault(worker):
                del self.busy[call]
                self.late[call] = attempt
                self.workers.kill(worker)
                self._start(worker)
                self.queue.failed(attempt, EngineError(f"its worker {fault}"))
        for call, worker in list(self.starting.items()):
            if fault := self.watch.fault(worker):
                del self.starting[call]
                self.workers.kill(worker)
                self._crashed(worker, EngineError(f"a worker {fault}"))

    def _waits_for(self) -> str:
        """The tasks and workers that the run waits for, in a line; any thread may ask."""
        tasks = [str(attempt.task) for _, attempt, _ in list(self.busy.values())]
        words = [f"{len(tasks)} tasks on workers, the first: {tasks[0]}"] if tasks else []
        words += [f"{len(self.starting)} workers to start"] if self.starting else []
        return " and ".join(words) or "workers"
