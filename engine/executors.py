"""Who computes the units: this process, or workers on a Ray cluster. What comes of them goes to a sink."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import BandlensError, DeviceError, ShardError
from .units import Unit
from .worker import Computed, Job, Worker

EXECUTORS = ("local", "ray")
TRIES = 3
"""Of a unit, before it is set aside."""


class Sink(Protocol):
    """Where results go."""

    def begin(self) -> None:
        """Hear that there is a worker; called before units are asked for, maybe more than once."""
        ...

    def still(self, unit: Unit) -> Unit | None:
        """The unit without what nobody waits for any more."""
        ...

    def accept(self, unit: Unit, computed: Computed) -> None:
        """Take what a worker made; ShardError where it is something else than the unit."""
        ...

    def set_aside(self, unit: Unit, error: str) -> None:
        """Take note of a unit that failed too often."""
        ...


@dataclass(frozen=True, slots=True)
class Attempt:
    unit: Unit
    number: int
    """From 1."""


@dataclass(slots=True)
class Queue:
    """Units that wait, those that are to be tried again first."""

    units: Iterator[Unit]
    sink: Sink
    again: deque[Attempt] = field(default_factory=deque)

    def next(self) -> Attempt | None:
        """The next that somebody waits for, or None when there are no more."""
        while True:
            attempt = self.again.popleft() if self.again else None
            if attempt is None:
                unit = next(self.units, None)
                if unit is None:
                    return None
                attempt = Attempt(unit, 1)
            if unit := self.sink.still(attempt.unit):
                return Attempt(unit, attempt.number)

    def failed(self, attempt: Attempt, error: BaseException) -> None:
        """Try the unit again, or set it aside. ShardError where results cannot be kept: nothing else would be."""
        if attempt.number < TRIES:
            self.again.append(Attempt(attempt.unit, attempt.number + 1))
        elif isinstance(error, ShardError):
            raise error
        else:
            self.sink.set_aside(attempt.unit, line_of(error))


def run_here(job: Job, units: Iterator[Unit], sink: Sink) -> None:
    """Compute the units in this process, in their order. DeviceError ends it."""
    queue = Queue(units, sink)
    with Worker(job) as worker:
        worker.open()
        sink.begin()
        while attempt := queue.next():
            try:
                sink.accept(attempt.unit, worker.compute(attempt.unit))
            except DeviceError:
                raise
            except BandlensError as error:
                queue.failed(attempt, error)


def line_of(error: BaseException) -> str:
    """An error in one line; those that are not ours with their kind."""
    text = " ".join(str(error).split())
    return text if isinstance(error, BandlensError) else f"{type(error).__name__}: {text}"
