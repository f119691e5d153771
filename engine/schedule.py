"""The schedule of a run on several workers: each is handed one task at a time, and one that dies is started again.

A task is done once its worker has answered. The answer comes after a minute, with what there is by then, and the rest
is a task again. So whatever is killed, no more is lost than that minute of each worker; and a worker that has not
answered for an hour hangs.
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
"""The number of times that a task is tried before its cells are failed."""
STARTS = 3
"""The number of starts in a row without success after which a worker is left alone."""
HANG_SECONDS = 3600.0
"""Seconds without an answer after which a worker counts as hung at its task."""
OPEN_SECONDS = 3600.0
"""The same while it opens, which may take a node that is started first."""
LOOK_SECONDS = 0.5
"""Seconds between two looks for workers that hang."""
TELL_SECONDS = 120.0
"""Seconds between two lines about what the run waits for."""
ERROR_CHARACTERS = 240
"""The most characters of another program's error in a message."""

NEW_PROCESS = (DeviceError, MemoryError)
"""The errors after which a worker is started again: a new process has what the present one lacks."""


class Computer(Protocol):
    """The object in a worker's process that answers its requests."""

    def open(self) -> None:
        """Get ready for tasks; raises where that is not possible."""
        ...

    def compute(self, request: Any) -> Any:
        """Work on a task for about a minute."""
        ...


class Worker(Protocol):
    """A process, on this machine or another, which has a Computer."""

    def restart(self) -> None:
        """End the process, if there is one, even where it is stopped, and start another."""
        ...

    def submit(self, request: Any) -> Future[Any]:
        """Send a request; None has the Computer opened.

        The result is that of `answer`. An exception says that the process has ended, and how.
        """
        ...


class Ledger(Protocol):
    """The driver's account of a run: what a task is in a request, and where its rows go."""

    def begin(self) -> None:
        """Hear that there is a worker; called before the first request, maybe more than once."""
        ...

    def request(self, task: Task) -> Any: ...

    def accept(self, task: Task, reply: Any) -> Task | None:
        """Store the rows of a reply; gives what is left of the task."""
        ...

    def fail(self, task: Task, error: str) -> None:
        """Fail the cells of a task that was tried too often."""
        ...

    def tell(self, text: str) -> None:
        """Show a line to the user."""
        ...


def answer(computer: Computer, request: Any) -> Any:
    """Give what the computer gives, or the error that it raised, of a class that any process can read."""
    try:
        return computer.open() if request is None else computer.compute(request)
    except Exception as error:  # noqa: BLE001 - the schedule decides what it means
        kind = next((kind for kind in NEW_PROCESS if isinstance(error, kind)), None)
        return kind(str(error)) if kind else EngineError(line_of(error))


def line_of(error: BaseException) -> str:
    """An error in one line; an error of another program's with its kind."""
    text = " ".join(str(error).split())
    if isinstance(error, BandlensError):
        return text
    text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text if len(text) <= ERROR_CHARACTERS else f"{text[:ERROR_CHARACTERS]}…"


@dataclass(frozen=True, slots=True)
class Attempt:
    task: Task
    number: int
    """The count of attempts at the task, this one included."""


class Schedule:
    """Workers that open, wait or compute, until no task is left.

    Args:
        workers: the workers, none of them started.
        tasks: the tasks, in the order in which they are handed out.
        ledger: takes the replies.
        look: called now and then; raises where no worker can answer any more.
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
        """The time at which each request was sent."""
        self.failed_starts = Counter[int]()
        """The starts in a row that failed, by the worker's id()."""
        self.errors: list[str] = []
        """The errors of workers that are left alone, until the ledger is told of them."""

    def run(self) -> None:
        """Compute all tasks; EngineError where no worker can."""
        last_answer = time.monotonic()
        for worker in self.workers:
            self._start(worker)
        while True:
            self._hand_out()
            # A worker that opens, on a node that may never come, is waited for only while there is work for it.
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
        worker.restart()
        self.opening[self._submit(worker, None)] = worker

    def _submit(self, worker: Worker, request: Any) -> Future[Any]:
        future = worker.submit(request)
        self.began[future] = time.monotonic()
        return future

    def _hand_out(self) -> None:
        while self.idle and self.queue:
            self._divide(len(self.idle) + len(self.opening))
            attempt, worker = self.queue.pop(0), self.idle.pop()
            self.busy[self._submit(worker, self.ledger.request(attempt.task))] = (worker, attempt)

    def _divide(self, workers: int) -> None:
        """Halve the largest tasks until there is one for each of so many workers, or each is of one cell."""
        while len(self.queue) < workers:
            place, attempt = max(enumerate(self.queue), key=lambda item: len(item[1].task.cells))
            halves = attempt.task.halves()
            if len(halves) == 1:
                return
            self.queue[place : place + 1] = [Attempt(half, attempt.number) for half in halves]

    def _receive(self, future: Future[Any]) -> None:
        """Take an answer, or note the end of a worker's process."""
        del self.began[future]
        try:
            reply = future.result()
            is_lost = isinstance(reply, NEW_PROCESS)
        except Exception as error:  # noqa: BLE001 - Ray raises whatever its parts do
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
            self.queue.insert(0, Attempt(rest, 1))

    def _failed(self, attempt: Attempt, error: Exception) -> None:
        """Try a task again, each condition by itself, so that one that aborts fails alone; or fail its cells."""
        if attempt.number == TRIES:
            self.ledger.fail(attempt.task, line_of(error))
        else:
            self.queue[:0] = [Attempt(task, attempt.number + 1) for task in attempt.task.by_condition()]

    def _start_failed(self, worker: Worker, error: Exception) -> None:
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
        """Tell of workers that are left alone; where no worker opens at all, the run ends with the error instead."""
        while self.errors:
            self.ledger.tell(f"a worker did not start {STARTS} times, and is left alone: {self.errors.pop()}")

    def _replace_hung(self, pending: Iterable[Future[Any]]) -> None:
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
        """The tasks and workers that the run waits for, in a line."""
        tasks = [str(attempt.task) for _, attempt in self.busy.values()]
        words = [f"{len(tasks)} tasks on workers, the first: {tasks[0]}"] if tasks else []
        words += [f"{len(self.opening)} workers to open"] if self.opening else []
        return " and ".join(words)
