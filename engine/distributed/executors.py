"""Who computes the tasks: this process, or workers on a Ray cluster. What comes of them goes to a sink."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ...errors import BandlensError, DeviceError, ShardError
from ..tasks import Task
from .worker import Computed, Job, Worker

TRIES = 3
"""Of a task, before it is set aside."""


class Sink(Protocol):
    """Where results go."""

    def begin(self) -> None:
        """Hear that there is a worker; called before tasks are asked for, maybe more than once."""
        ...

    def still(self, task: Task) -> Task | None:
        """The task without what nobody waits for any more."""
        ...

    def accept(self, task: Task, computed: Computed) -> None:
        """Take what a worker made; ShardError where it is something else than the task."""
        ...

    def set_aside(self, task: Task, error: str) -> None:
        """Take note of a task that failed too often."""
        ...


@dataclass(frozen=True, slots=True)
class Attempt:
    task: Task
    number: int
    """From 1."""


@dataclass(slots=True)
class Queue:
    """Tasks that wait, those that are to be tried again first."""

    tasks: Iterator[Task]
    sink: Sink
    again: deque[Attempt] = field(default_factory=deque)

    def next(self) -> Attempt | None:
        """The next that somebody waits for, or None when there are no more."""
        while True:
            attempt = self.again.popleft() if self.again else None
            if attempt is None:
                task = next(self.tasks, None)
                if task is None:
                    return None
                attempt = Attempt(task, 1)
            if task := self.sink.still(attempt.task):
                return Attempt(task, attempt.number)

    def failed(self, attempt: Attempt, error: BaseException) -> None:
        """Try the task again, or set it aside. ShardError where results cannot be kept: nothing else would be."""
        if attempt.number < TRIES:
            self.again.append(Attempt(attempt.task, attempt.number + 1))
        elif isinstance(error, ShardError):
            raise error
        else:
            self.sink.set_aside(attempt.task, line_of(error))


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
    """An error in one line; those that are not ours with their kind."""
    text = " ".join(str(error).split())
    return text if isinstance(error, BandlensError) else f"{type(error).__name__}: {text}"
