"""Workers are handed tasks one at a time, and a worker counts as silent by what it could say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bandlens.engine.distributed.executors import SILENCE, Queue, Watch
from bandlens.engine.distributed.schedule import Call, CallResult, Schedule
from bandlens.engine.distributed.worker import Computed
from bandlens.engine.tasks import Task


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class MadeUpWorkers:
    """Workers that open at once, and take so many seconds for their tasks; they give signs of life all the time."""

    clock: Clock
    seconds: Sequence[float]
    """Seconds of each worker's tasks."""
    ends: dict[Call, float] = field(default_factory=dict)
    """When each call that was made comes back."""
    killed: list[int] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.seconds)

    def open(self, worker: int) -> Call:
        return self._call("open", worker, 0.0)

    def compute(self, worker: int, task: Task) -> Call:
        return self._call("compute", worker, self.seconds[worker])

    def _call(self, kind: str, worker: int, seconds: float) -> Call:
        call = (kind, worker, len(self.ends))
        self.ends[call] = self.clock.now + seconds
        return call

    def ended(self, calls: Sequence[Call], watch: Watch) -> Sequence[Call]:
        self.clock.now += 1
        ready = [call for call in calls if self.ends[call] <= self.clock.now]
        if not ready:  # a sign that comes while results are stored is heard afterwards
            for worker in range(self.count):
                watch.hears(worker, int(self.clock.now))
        return ready

    def result(self, call: Call) -> CallResult:
        return CallResult(Computed(None, ()))

    def kill(self, worker: int) -> None:
        self.killed.append(worker)


@dataclass
class SlowSink:
    """A sink that takes so many seconds to store the results of a task."""

    clock: Clock
    seconds: float
    accepted: list[Task] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def begin(self) -> None:
        pass

    def remaining(self, task: Task) -> Task | None:
        return task

    def accept(self, task: Task, computed: Computed) -> None:
        self.clock.now += self.seconds
        self.accepted.append(task)

    def set_aside(self, task: Task, error: str) -> None:
        raise AssertionError(error)

    def tell(self, text: str) -> None:
        self.lines.append(text)


FIRST = ("compute", 0, 1)
"""The call of the first task."""


class KilledWorkers(MadeUpWorkers):
    """One worker, which falls silent in its first task; once it is killed, it says that its probe failed."""

    def ended(self, calls: Sequence[Call], watch: Watch) -> Sequence[Call]:
        if self.killed:
            return super().ended(calls, watch)
        self.clock.now += 1
        return [call for call in calls if call != FIRST]

    def result(self, call: Call) -> CallResult:
        return CallResult(Computed(None, (("key", "its process was killed"),) if call == FIRST else ()))

    def kill(self, worker: int) -> None:
        super().kill(worker)
        self.ends[FIRST] = self.clock.now


def run(
    seconds: Sequence[float], storing: float, kind: type[MadeUpWorkers] = MadeUpWorkers
) -> tuple[MadeUpWorkers, SlowSink, list[Task]]:
    clock = Clock()
    workers, sink = kind(clock, seconds), SlowSink(clock, storing)
    tasks = [Task((), first, first + 1) for first in range(len(seconds))]
    made_up: Any = workers
    schedule = Schedule(made_up, Queue(iter(tasks), sink), None)
    schedule.watch.clock = clock
    schedule.run()
    return workers, sink, tasks


def test_a_worker_is_not_silent_while_results_are_stored() -> None:
    """One worker is done after 10 s, and to store that takes longer than the other one may be silent."""
    workers, sink, tasks = run([10.0, 500.0], 2 * SILENCE)
    assert workers.killed == []
    assert sorted(sink.accepted, key=lambda task: task.first) == tasks


def test_what_fails_since_its_worker_was_killed_is_computed_again() -> None:
    """A worker outlives the process of its probe for a moment, and says that the probe failed."""
    workers, sink, tasks = run([10.0], 0.0, KilledWorkers)
    assert workers.killed == [0]
    assert sink.accepted == tasks, "once, and not the failure"


def test_a_worker_that_hangs_is_silent_all_the_same() -> None:
    """Time in which nobody listened is left out of its silence, and the rest is not."""
    clock = Clock(100.0)
    watch = Watch(None, clock)
    watch.starts("a")
    watch.hears("a", 0)
    clock.now += SILENCE - 1
    began = clock.now
    clock.now += 10 * SILENCE
    watch.listens_again(began)
    assert watch.fault("a") is None
    clock.now += 2
    assert watch.fault("a") == "has given no sign of life for 120 s"
