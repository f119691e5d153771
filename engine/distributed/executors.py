"""Tasks, their tries, and signs of life of workers; the executor in this process. The results go to a sink."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from ...core.errors import BandlensError, DeviceError, ShardError
from ..tasks import Task
from .worker import Computed, Job, Worker

TRIES = 3
"""The number of times that a task is tried before it is set aside."""
SILENCE = 120.0
"""Seconds after which a worker without a sign of life is replaced: longer than any library keeps Python waiting."""
START = 300.0
"""Seconds that a worker has for its first sign of life."""
SLOWEST = 20
"""A task counts as hung when it has made no progress for this many times the seconds of the slowest task so far."""
LEAST = 600.0
"""Seconds without progress before any task counts as hung."""
UNKNOWN = 3600.0
"""Seconds without progress before a task counts as hung while none has finished."""
TELL_SECONDS = 60.0
"""Seconds between two lines about what a run waits for."""


class Sink(Protocol):
    """Takes the results of a run."""

    def begin(self) -> None:
        """Hear that there is a worker; called before tasks are asked for, maybe more than once."""
        ...

    def remaining(self, task: Task) -> Task | None:
        """The task without the cells that nobody waits for any more; None where no cell remains."""
        ...

    def accept(self, task: Task, computed: Computed) -> None:
        """Take a worker's results; ShardError where they are not those of the task."""
        ...

    def set_aside(self, task: Task, error: str) -> None:
        """Take note of a task that failed too often."""
        ...

    def tell(self, text: str) -> None:
        """Show a line to the user; called from any thread."""
        ...


@dataclass(frozen=True, slots=True)
class Attempt:
    task: Task
    number: int
    """The count of attempts at the task, this one included."""


@dataclass(slots=True)
class Queue:
    """The tasks that wait; those that are tried again come first."""

    tasks: Iterator[Task]
    sink: Sink
    again: deque[Attempt] = field(default_factory=deque)

    def next(self) -> Attempt | None:
        """The next attempt that somebody waits for, or None when there are no more."""
        while True:
            attempt = self.again.popleft() if self.again else None
            if attempt is None:
                task = next(self.tasks, None)
                if task is None:
                    return None
                attempt = Attempt(task, 1)
            if task := self.sink.remaining(attempt.task):
                return Attempt(task, attempt.number)

    def failed(self, attempt: Attempt, error: BaseException) -> None:
        """Try the task again, or set it aside. ShardError where results cannot be kept: no task's would be."""
        if attempt.number < TRIES:
            self.again.append(Attempt(attempt.task, attempt.number + 1))
        elif isinstance(error, ShardError):
            raise error
        else:
            self.sink.set_aside(attempt.task, line_of(error))


@dataclass(slots=True)
class WorkerSigns:
    """The signs of life of a worker; times are those of the watch's clock."""

    started: float
    last_progress: float
    """The time at which it last began a task, or made a step in one."""
    last_sign: float | None = None
    """The time of its last sign of life; None before the first."""
    steps: int = 0
    """The number of steps that it had made by then."""


@dataclass(slots=True)
class Watch:
    """Watches when each worker last gave a sign of life and last made progress, and how long that may take."""

    timeout: float | None = None
    """The user's limit of seconds without progress; silence ends no later. By default it depends on `slowest`."""
    clock: Callable[[], float] = time.monotonic
    slowest: float | None = None
    """Seconds that the slowest task took so far."""
    workers: dict[Hashable, WorkerSigns] = field(default_factory=dict)
    last_sign: float = field(init=False)
    """The time at which any of them last gave a sign of life."""
    last_progress: float = field(init=False)
    """The time at which any of them last made progress."""

    def __post_init__(self) -> None:
        self.last_sign = self.last_progress = self.clock()

    @property
    def silence(self) -> float:
        """Seconds after which a worker without a sign of life is replaced."""
        return min(SILENCE, self.timeout or SILENCE)

    @property
    def limit(self) -> float:
        """Seconds without progress after which a worker is replaced."""
        if self.timeout:
            return self.timeout
        return UNKNOWN if self.slowest is None else max(LEAST, SLOWEST * self.slowest)

    def starts(self, worker: Hashable) -> None:
        """Note that a process of the worker's is started, maybe not its first."""
        self.workers[worker] = WorkerSigns(self.clock(), self.clock())

    def begins(self, worker: Hashable) -> None:
        """Note that a worker, which has shown that it lives, is given a task."""
        signs = self.workers[worker]
        signs.last_sign = signs.last_progress = self.clock()

    def hears(self, worker: Hashable, steps: int) -> None:
        """Note that the worker is alive, and has made so many steps in all."""
        signs, now = self.workers[worker], self.clock()
        if signs.last_sign is None or steps != signs.steps:  # START is the limit of what comes before the first sign
            signs.steps, signs.last_progress, self.last_progress = steps, now, now
        signs.last_sign = self.last_sign = now

    def listens_again(self, since: float) -> None:
        """Leave the time since then, in which nobody took what workers say, out of their silence and their progress."""
        now = self.clock()

        def later(time: float) -> float:
            return min(time + now - since, now)

        for signs in self.workers.values():
            signs.started, signs.last_progress = later(signs.started), later(signs.last_progress)
            signs.last_sign = None if signs.last_sign is None else later(signs.last_sign)
        self.last_sign = later(self.last_sign)

    def ends(self, began: float) -> None:
        """Note that a task is done, and when it was begun."""
        self.last_sign = self.last_progress = self.clock()
        self.slowest = max(self.last_sign - began, self.slowest or 0)

    def fault(self, worker: Hashable) -> str | None:
        """The reason to replace a worker that starts or computes; None where there is none."""
        signs, now = self.workers[worker], self.clock()
        if signs.last_sign is None:
            return f"has not started within {START:.0f} s" if now - signs.started > START else None
        if now - signs.last_sign > self.silence:
            return f"has given no sign of life for {self.silence:.0f} s"
        if now - signs.last_progress > self.limit:
            return f"has made no progress for {self.limit:.0f} s (--task-timeout allows more)"
        return None


@contextmanager
def reported(watch: Watch, waits_for: Callable[[], str], tell: Callable[[str], None]) -> Iterator[None]:
    """While the block lasts, tell what the run waits for, after every minute in which no worker made progress.

    A thread of its own tells it, since the run may be waiting in a library.
    """
    end = threading.Event()

    def report() -> None:
        while not end.wait(TELL_SECONDS):
            if (quiet := watch.clock() - watch.last_progress) >= TELL_SECONDS:
                tell(f"no progress for {quiet:.0f} s; waiting for {waits_for()}")

    thread = threading.Thread(target=report, name="report", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def run_here(job: Job, tasks: Iterator[Task], sink: Sink) -> None:
    """Compute the tasks in this process, in their order. DeviceError ends it."""
    queue = Queue(tasks, sink)
    with Worker(job) as worker:
        worker.open()
        sink.begin()
        while attempt := queue.next():
            try:
                sink.accept(attempt.task, worker.compute(attempt.task))
            except DeviceError:
                raise
            except BandlensError as error:
                queue.failed(attempt, error)


def line_of(error: BaseException) -> str:
    """An error in one line; an error of another program's with its kind."""
    text = " ".join(str(error).split())
    return text if isinstance(error, BandlensError) else f"{type(error).__name__}: {text}".removesuffix(": ")
