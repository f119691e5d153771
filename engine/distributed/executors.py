"""Who computes the tasks: this process, or workers on a Ray cluster. What comes of them goes to a sink."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from ...errors import BandlensError, DeviceError, ShardError
from ..tasks import Task
from .worker import Computed, Job, Worker

TRIES = 3
"""Of a task, before it is set aside."""
SILENCE = 120.0
"""Seconds in which a worker that computes gives a sign of life: longer than any library keeps Python waiting."""
START = 300.0
"""Seconds in which a worker gives its first."""
SLOWEST = 20
"""A task may go without progress as many times longer than the slowest one took,"""
LEAST, UNKNOWN = 600.0, 3600.0
"""and so many seconds at least, and while none has ended."""
TELL_SECONDS = 60.0
"""Between two lines that say what a run waits for."""


class Sink(Protocol):
    """Where results go."""

    def begin(self) -> None:
        """Hear that there is a worker; called before tasks are asked for, maybe more than once."""
        ...

    def remaining(self, task: Task) -> Task | None:
        """The task without the cells that nobody waits for any more; None where there is no other."""
        ...

    def accept(self, task: Task, computed: Computed) -> None:
        """Take what a worker made; ShardError where it is something else than the task."""
        ...

    def set_aside(self, task: Task, error: str) -> None:
        """Take note of a task that failed too often."""
        ...

    def tell(self, text: str) -> None:
        """Tell whoever started the run; called from any thread."""
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
            if task := self.sink.remaining(attempt.task):
                return Attempt(task, attempt.number)

    def failed(self, attempt: Attempt, error: BaseException) -> None:
        """Try the task again, or set it aside. ShardError where results cannot be kept: nothing else would be."""
        if attempt.number < TRIES:
            self.again.append(Attempt(attempt.task, attempt.number + 1))
        elif isinstance(error, ShardError):
            raise error
        else:
            self.sink.set_aside(attempt.task, line_of(error))


@dataclass(slots=True)
class Seen:
    """What is known of a worker; times are those of the watch's clock."""

    started: float
    moved: float
    """When it last began a task, or got on with it."""
    heard: float | None = None
    """When it last gave a sign of life."""
    steps: int = 0
    """That it had made by then."""


@dataclass(slots=True)
class Watch:
    """When each worker was last heard of and last got on, and how long that may take."""

    timeout: float | None = None
    """Seconds without progress, where they are asked for; silence ends no later."""
    clock: Callable[[], float] = time.monotonic
    slowest: float | None = None
    """Seconds that the slowest task took so far."""
    seen: dict[Hashable, Seen] = field(default_factory=dict)
    last: float = field(init=False)
    """When any of them was last heard of."""
    moved: float = field(init=False)
    """When any of them last got on."""

    def __post_init__(self) -> None:
        self.last = self.moved = self.clock()

    @property
    def silence(self) -> float:
        return min(SILENCE, self.timeout or SILENCE)

    @property
    def limit(self) -> float:
        """Seconds without progress."""
        if self.timeout:
            return self.timeout
        return UNKNOWN if self.slowest is None else max(LEAST, SLOWEST * self.slowest)

    def starts(self, worker: Hashable) -> None:
        """A process of the worker's is started, maybe not its first."""
        self.seen[worker] = Seen(self.clock(), self.clock())

    def begins(self, worker: Hashable) -> None:
        """The worker is given a task."""
        self.seen[worker].moved = self.clock()

    def hears(self, worker: Hashable, steps: int) -> None:
        """The worker is alive, and has made so many steps in all."""
        seen, now = self.seen[worker], self.clock()
        seen.heard = self.last = now
        if steps != seen.steps:
            seen.steps, seen.moved, self.moved = steps, now, now

    def ends(self, began: float) -> None:
        """A task that was begun then is done."""
        self.last = self.moved = self.clock()
        self.slowest = max(self.last - began, self.slowest or 0)

    def fault(self, worker: Hashable) -> str | None:
        """Why a worker that starts or computes has to be replaced, if it has to."""
        seen, now = self.seen[worker], self.clock()
        if seen.heard is None:
            return f"has not started within {START:.0f} s" if now - seen.started > START else None
        if now - seen.heard > self.silence:
            return f"has given no sign of life for {self.silence:.0f} s"
        if now - seen.moved > self.limit:
            return f"has made no progress for {self.limit:.0f} s (--task-timeout allows more)"
        return None


@contextmanager
def told(watch: Watch, waits_for: Callable[[], str], tell: Callable[[str], None]) -> Iterator[None]:
    """While the block lasts, say every minute in which no worker got on what the run waits for.

    From a thread of its own, since the run may be waiting in a library.
    """
    end = threading.Event()

    def say() -> None:
        while not end.wait(TELL_SECONDS):
            if (quiet := watch.clock() - watch.moved) >= TELL_SECONDS:
                tell(f"no progress for {quiet:.0f} s; waiting for {waits_for()}")

    thread = threading.Thread(target=say, name="told", daemon=True)
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
    """An error in one line; those that are not ours with their kind."""
    text = " ".join(str(error).split())
    return text if isinstance(error, BandlensError) else f"{type(error).__name__}: {text}".removesuffix(": ")
