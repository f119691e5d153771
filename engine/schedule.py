"""Schedule tasks across worker processes.

Each worker runs one task at a time and returns its results about once a minute. Whatever remains of the task is queued
again. A crash therefore loses at most one minute of work per worker.

Crashed workers are restarted. A worker that has not replied for an hour is considered hung and is restarted too.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, Protocol

from ..core.errors import BandlensError, DeviceError, EngineError
from .tasks import Task

TRIES = 3
"""Maximum attempts at a task. After the last one its cells are marked as failed."""
STARTS = 3
"""Consecutive failed starts after which a worker is abandoned."""
HANG_SECONDS = 3600.0
"""Seconds without a reply after which a worker that computes a task is considered hung."""
OPEN_SECONDS = 3600.0
"""Seconds after which a worker that starts up is considered hung.

Long, because a cluster may have to boot a node first.
"""
LOOK_SECONDS = 0.5
"""Interval in seconds at which the schedule checks for hung workers."""
TELL_SECONDS = 120.0
"""Seconds without any reply after which a status line is logged."""
ERROR_CHARACTERS = 240
"""Maximum length of an error message of a third-party library, in characters."""

NEW_PROCESS = (DeviceError, MemoryError)
"""Errors that a fresh process can recover from. The worker is restarted after them."""


class Computer(Protocol):
    """The object in a worker process that handles requests."""

    def open(self) -> None:
        """Load what is needed before the first task. Raise an error if that is impossible."""
        ...

    def compute(self, request: Any) -> Any:
        """Compute a task for about a minute and return the results so far."""
        ...


class Worker(Protocol):
    """A process, on this machine or on another one, that owns a `Computer`."""

    def restart(self) -> None:
        """Kill the process if there is one, even if it is suspended, and start a new one."""
        ...

    def submit(self, request: Any) -> Future[Any]:
        """Send a request without waiting for the reply. The request None calls `Computer.open`.

        The future resolves to the return value of `answer`. It raises an exception if the process has ended; the
        exception describes how it ended.
        """
        ...


class Ledger(Protocol):
    """Connects the schedule to a run: it builds the requests, stores the results and logs."""

    def begin(self) -> None:
        """Handle a worker that became ready. Called before the first request, possibly more than once."""
        ...

    def request(self, task: Task) -> Any:
        """Return the request that makes a worker compute the task."""
        ...

    def accept(self, task: Task, reply: Any) -> Task | None:
        """Store the predictions in `reply` and return the remainder of the task, or None if it is complete."""
        ...

    def fail(self, task: Task, error: str) -> None:
        """Mark the cells of a task as failed, because all attempts at it failed."""
        ...

    def tell(self, text: str) -> None:
        """Log one line for the user."""
        ...


def answer(computer: Computer, request: Any) -> Any:
    """Run a request and return its result or the error that it raised.

    Errors are converted to the classes in `NEW_PROCESS` or to EngineError. Other classes could come from a library that
    the receiving process cannot import, and then could not be unpickled there.
    """
    try:
        return computer.open() if request is None else computer.compute(request)
    except Exception as error:  # noqa: BLE001 - returned to the schedule, which decides whether to retry
        kind = next((kind for kind in NEW_PROCESS if isinstance(error, kind)), None)
        return kind(str(error)) if kind else EngineError(line_of(error))


def line_of(error: BaseException) -> str:
    """Format an error as one line. The class name is prepended unless the error is a BandlensError."""
    text = " ".join(str(error).split())
    if isinstance(error, BandlensError):
        return text
    text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) <= ERROR_CHARACTERS else f"{text[:ERROR_CHARACTERS]}…"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A queued task and the number of the attempt at it."""

    task: Task
    number: int
    """Number of this attempt, starting at 1."""


class Schedule:
    """Run tasks on workers that start, wait or compute, until no task is left.

    Args:
        workers: The workers. None of them has been started.
        tasks: The tasks, in the order in which they are assigned.
        ledger: Builds the requests and stores the replies.
        look: Called after each poll. Raises an error if no worker can reply any more, for example because the cluster
            is gone.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        tasks: Iterable[Task],
        ledger: Ledger,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self.workers, self.ledger, self.look = workers, ledger, look
        self.queue = [Attempt(task, 1) for task in tasks]
        self.idle: list[Worker] = []
        self.opening: dict[Future[Any], Worker] = {}
        self.busy: dict[Future[Any], tuple[Worker, Attempt]] = {}
        self.began: dict[Future[Any], float] = {}
        """Time at which each pending request was sent, from `time.monotonic`."""
        self.failed_starts = Counter[int]()
        """Consecutive failed starts of each worker. The key is the `id()` of the worker."""
        self.errors: list[str] = []
        """Errors of abandoned workers that have not been logged yet."""

    def run(self) -> None:
        """Compute all tasks. Raises EngineError if no worker can run them."""
        last_answer = time.monotonic()
        for worker in self.workers:
            self._start(worker)
        while True:
            self._hand_out()
            # Once all tasks are finished, do not wait for workers that are still starting: their node may never become
            # available.
            if not self.busy and (self.idle or not self.opening):
                return
            finished, pending = wait([*self.opening, *self.busy], LOOK_SECONDS, FIRST_COMPLETED)
            for future in finished:
                self._receive(future)
            self._replace_hung(pending)
            self.look()
            if finished:
                last_answer = time.monotonic()
            elif time.monotonic() - last_answer >= TELL_SECONDS:
                last_answer = time.monotonic()
                self.ledger.tell(f"nothing came for {TELL_SECONDS:.0f} s; waiting for {self._waits_for()}")

    def _start(self, worker: Worker) -> None:
        """Start or restart a worker's process, and request that it becomes ready."""
        worker.restart()
        self.opening[self._submit(worker, None)] = worker

    def _submit(self, worker: Worker, request: Any) -> Future[Any]:
        """Send a request, and record the time for the detection of hung workers."""
        future = worker.submit(request)
        self.began[future] = time.monotonic()
        return future

    def _hand_out(self) -> None:
        """Assign queued tasks to idle workers."""
        while self.idle and self.queue:
            self._divide(len(self.idle) + len(self.opening))
            attempt, worker = self.queue.pop(0), self.idle.pop()
            self.busy[self._submit(worker, self.ledger.request(attempt.task))] = (worker, attempt)

    def _divide(self, workers: int) -> None:
        """Split the largest tasks until there is one for each worker, or until each task has only one cell."""
        while len(self.queue) < workers:
            place, attempt = max(enumerate(self.queue), key=lambda item: len(item[1].task.cells))
            halves = attempt.task.halves()
            if len(halves) == 1:
                return
            # The halves keep the number of the attempt, because splitting a task is not a failure.
            self.queue[place : place + 1] = [Attempt(half, attempt.number) for half in halves]

    def _receive(self, future: Future[Any]) -> None:
        """Process a reply, or the end of a worker process."""
        del self.began[future]
        try:
            reply = future.result()
            is_lost = isinstance(reply, NEW_PROCESS)
        except Exception as error:  # noqa: BLE001 - Ray passes on exceptions of any class from its internals
            reply, is_lost = EngineError(f"its worker was lost: {line_of(error)}"), True
        if future in self.opening:
            worker = self.opening.pop(future)
            if isinstance(reply, Exception):
                self._start_failed(worker, reply)
                return
            self.failed_starts[id(worker)] = 0
            self.ledger.begin()
            self._tell_errors()
            self.idle.append(worker)
            return
        worker, attempt = self.busy.pop(future)
        if is_lost:
            self._start(worker)
        else:
            self.idle.append(worker)
        if isinstance(reply, Exception):
            self._failed(attempt, reply)
        elif rest := self.ledger.accept(attempt.task, reply):
            # The worker made progress, so the remainder counts as a new task with all its attempts.
            self.queue.insert(0, Attempt(rest, 1))

    def _failed(self, attempt: Attempt, error: Exception) -> None:
        """Retry a failed task, or mark its cells as failed after the last attempt.

        The retry runs each condition as a task of its own, so that a condition that crashes the process fails alone.
        """
        if attempt.number == TRIES:
            self.ledger.fail(attempt.task, line_of(error))
        else:
            self.queue[:0] = [Attempt(task, attempt.number + 1) for task in attempt.task.by_condition()]

    def _start_failed(self, worker: Worker, error: Exception) -> None:
        """Restart a worker that failed to start, or abandon it after too many failures.

        Raises EngineError if it was the last worker.
        """
        self.failed_starts[id(worker)] += 1
        if self.failed_starts[id(worker)] < STARTS:
            self._start(worker)
        elif self.busy or self.idle or self.opening:
            self.errors.append(line_of(error))
            if self.busy or self.idle:
                self._tell_errors()
        else:
            raise EngineError(f"no worker can run the study: {line_of(error)}") from error

    def _tell_errors(self) -> None:
        """Log the errors of abandoned workers.

        They are collected until another worker has started. If no worker starts at all, the run raises the last error
        instead.
        """
        while self.errors:
            self.ledger.tell(f"a worker did not start {STARTS} times, and is left alone: {self.errors.pop()}")

    def _replace_hung(self, pending: Iterable[Future[Any]]) -> None:
        """Restart the workers whose reply is overdue, and retry their tasks."""
        for future in pending:
            seconds = OPEN_SECONDS if future in self.opening else HANG_SECONDS
            if time.monotonic() - self.began[future] <= seconds:
                continue
            del self.began[future]
            error = EngineError(f"its worker did not answer for {seconds / 60:.0f} minutes")
            if future in self.opening:
                self._start_failed(self.opening.pop(future), error)
            else:
                worker, attempt = self.busy.pop(future)
                self._start(worker)
                self._failed(attempt, error)

    def _waits_for(self) -> str:
        """Describe the pending tasks and the workers that are starting, in one line."""
        tasks = [str(attempt.task) for _, attempt in self.busy.values()]
        words = [f"{len(tasks)} tasks on workers, the first: {tasks[0]}"] if tasks else []
        words += [f"{len(self.opening)} workers to open"] if self.opening else []
        return " and ".join(words)
