"""Workers on a Ray cluster: one actor a device, placed and restarted by Ray, handed one task at a time.

Ray restarts an actor that died, on another node where its own is gone; its task is handed to whichever worker is free
next. So a task's tries are counted in one place, and none waits for a node that never comes back. A worker that gives
no sign of life, or makes no progress, is killed and started again in the same way.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from ...errors import BandlensError, DeviceError, EngineError
from ..tasks import Task
from .cluster import ANSWER_SECONDS, Cluster, lost
from .executors import Attempt, Queue, Sink, Watch, reported
from .files import DriverFiles, KeptFiles
from .loopback import END_SECONDS
from .worker import Computed, Job, Worker

BEAT_SECONDS = 5.0
"""Seconds between two questions whether a worker lives."""
LOOK_SECONDS = 0.5
"""Seconds between two looks for workers that have to be replaced."""
CRASHES = 3
"""The number of crashes in a row after which a worker is left alone."""


def run_on(cluster: Cluster, job: Job, tasks: Iterator[Task], sink: Sink, files: Mapping[str, KeptFiles]) -> None:
    """Compute the tasks on all workers; EngineError where no worker can be started, or Ray does not answer."""
    ray, calls = cluster.ray, cluster.calls
    environment = {"runtime_env": {"env_vars": dict(cluster.environment)}} if cluster.environment else {}
    options = {"max_restarts": -1, "max_task_retries": 0, **cluster.options, **environment}
    actors: list[Any] = []

    def start() -> None:
        # Workers stand first in the list, and the process with the files behind them: it is killed with them below.
        source = _source(ray, files) if cluster.shared else None
        actors.extend((source or ())[1:])
        remote = ray.remote(concurrency_groups={BEAT: 1})(RayWorker).options(**options)
        actors[:0] = [remote.remote(job, source and source[0]) for _ in range(cluster.workers)]

    try:
        calls(start)
        _Run(cluster, Queue(tasks, sink), actors[: cluster.workers]).all()
    finally:
        with suppress(ray.exceptions.RayError, EngineError):
            calls(lambda: [ray.kill(actor) for actor in actors], END_SECONDS)


BEAT = "beat"
"""The group of calls that a worker answers while it computes."""


class RayWorker:
    """The actor that runs in a worker's process."""

    def __init__(self, job: Job, source: str | None) -> None:
        self._arguments = job, source  # no more: until this is through, a worker gives no sign of life
        self._worker: Worker | None = None

    def ready(self) -> int:
        """Open all sessions; gives the process."""
        self._opened().open()
        return os.getpid()

    def _opened(self) -> Worker:
        if self._worker is None:  # in compute, where Ray started the process again between two calls
            job, source = self._arguments
            self._worker = Worker(job, Remote(source) if source else None)
        return self._worker

    def compute(self, task: Task) -> Computed:
        return self._opened().compute(task)

    def beat(self) -> int:
        """The number of steps so far."""
        return self._worker.steps if self._worker else 0


class Remote:
    """The driver's files, read through Ray."""

    def __init__(self, name: str) -> None:
        self.name = name
        """The actor that has them: a worker whose arguments held a reference to it might not be restarted."""

    def listing(self, digest: str) -> list[tuple[str, int]]:
        return list(self._call("listing", digest))

    def read(self, digest: str, name: str, offset: int) -> bytes:
        return bytes(self._call("read", digest, name, offset))

    def _call(self, method: str, *arguments: Any) -> Any:
        import ray

        try:
            return ray.get(getattr(ray.get_actor(self.name), method).remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None


class _Run:
    """Workers that start, wait or are busy, until no task is left."""

    def __init__(self, cluster: Cluster, queue: Queue, actors: list[Any]) -> None:
        self.ray, self.calls, self.queue, self.actors = cluster.ray, cluster.calls, queue, actors
        self.watch = Watch(cluster.task_timeout)
        self.beat_seconds = min(BEAT_SECONDS, self.watch.silence / 4)
        self.nodes_seen = self.next_beat = self.watch.clock()
        """The time at which the cluster was last known to have nodes."""
        self.idle: list[Any] = []
        self.starting: dict[Any, Any] = {}
        self.busy: dict[Any, tuple[Any, Attempt, float]] = {}
        """The worker, the attempt and its beginning, by the reference of the call."""
        self.late: dict[Any, Attempt] = {}
        """The attempts of workers that have been replaced while they computed."""
        self.beats: dict[Any, Any] = {}
        self.crashes = dict.fromkeys(actors, 0)
        self.errors: list[str] = []
        """The errors of workers that were left alone, until the sink is told of them."""
        for actor in actors:
            self._start(actor)

    def all(self) -> None:
        with reported(self.watch, self._waits_for, self.queue.sink.tell):
            while True:
                self._hand_out()
                if not self.busy and (self.idle or not self.starting):
                    return
                # A worker that starts, on a node that may never come, is waited for only while there is work for it.
                for reference in self._ended():
                    if reference in self.beats:
                        self._note_beat(reference, self.beats.pop(reference))
                    elif reference in self.starting:
                        self._started(reference, self.starting.pop(reference))
                    elif reference in self.busy:
                        self._computed(reference, *self.busy.pop(reference))
                    else:
                        self._came_late(reference, self.late.pop(reference))
                self._look_after()
                while self.errors and (self.busy or self.idle):  # where no worker works, the run ends with the error
                    self.queue.sink.tell(
                        f"a worker did not start {CRASHES} times, and is left alone: {self.errors.pop()}"
                    )

    def _ended(self) -> list[Any]:
        """Wait a moment for calls to come back, and give those that have."""
        if (now := self.watch.clock()) >= self.next_beat:
            self.next_beat = now + self.beat_seconds
            for actor in set(self.actors) - set(self.beats.values()):
                self.beats[self.calls(actor.beat.options(concurrency_group=BEAT).remote)] = actor
        pending = [*self.busy, *self.starting, *self.late, *self.beats]
        ended, _ = self.calls(partial(self.ray.wait, pending, num_returns=1, timeout=LOOK_SECONDS))
        return list(ended)

    def _get(self, reference: Any) -> Any:
        return self.calls(partial(self.ray.get, reference))

    def _hand_out(self) -> None:
        while self.idle and (attempt := self.queue.next()):
            actor = self.idle.pop()
            self.watch.begins(actor)
            reference = self.calls(partial(actor.compute.remote, attempt.task))
            self.busy[reference] = (actor, attempt, self.watch.clock())

    def _start(self, actor: Any) -> None:
        """Have the sessions opened, in a process that Ray starts now or has started already."""
        self.watch.starts(actor)
        # Ray may repeat this call where the process dies, unlike `compute`: it is no try of a task.
        self.starting[self.calls(actor.ready.options(max_task_retries=-1).remote)] = actor

    def _replace(self, actor: Any) -> None:
        """Give the actor another process: Ray kills its present one, even where that is stopped."""
        self.calls(partial(self.ray.kill, actor, no_restart=False))
        self._start(actor)

    def _note_beat(self, reference: Any, actor: Any) -> None:
        with suppress(self.ray.exceptions.RayError):  # another call of the same worker tells of its end
            self.watch.hears(actor, self._get(reference))

    def _started(self, reference: Any, actor: Any) -> None:
        try:
            self._get(reference)
        except self.ray.exceptions.RayError as error:
            self._crashed(actor, error, self._start)
        else:
            self.crashes[actor] = 0
            self.queue.sink.begin()
            self.idle.append(actor)

    def _crashed(self, actor: Any, error: BaseException, again: Callable[[Any], None]) -> None:
        self.crashes[actor] += 1
        if self.crashes[actor] < CRASHES:
            again(actor)
        elif self.busy or self.idle or self.starting:
            self.errors.append(lost(error))
        else:
            raise EngineError(f"no worker can run the study: {lost(error)}") from error

    def _computed(self, reference: Any, actor: Any, attempt: Attempt, began: float) -> None:
        errors = self.ray.exceptions
        try:
            computed = self._get(reference)
        except errors.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, (DeviceError, MemoryError)):  # a new process has what this one lacks
                self._replace(actor)
            else:
                self.idle.append(actor)
            self.queue.failed(attempt, cause)
        except errors.RayError as error:
            self._start(actor)
            self.queue.failed(attempt, EngineError(f"its worker was lost: {lost(error)}"))
        else:
            self.watch.ends(began)
            self.idle.append(actor)
            self._hand_out()  # the worker goes on while this is stored
            self._accept(attempt, computed)

    def _came_late(self, reference: Any, attempt: Attempt) -> None:
        """Take the results that a replaced worker had before it was killed; stored rows are not stored again."""
        with suppress(self.ray.exceptions.RayError, BandlensError):
            self.queue.sink.accept(attempt.task, self._get(reference))

    def _accept(self, attempt: Attempt, computed: Computed) -> None:
        try:
            self.queue.sink.accept(attempt.task, computed)
        except BandlensError as error:
            self.queue.failed(attempt, error)

    def _look_after(self) -> None:
        """Replace workers that give no sign of life or make no progress; EngineError where there are none to have."""
        for reference, (actor, attempt, _) in list(self.busy.items()):
            if fault := self.watch.fault(actor):
                del self.busy[reference]
                self.late[reference] = attempt
                self._replace(actor)
                self.queue.failed(attempt, EngineError(f"its worker {fault}"))
        for reference, actor in list(self.starting.items()):
            if fault := self.watch.fault(actor):
                del self.starting[reference]
                self._crashed(actor, EngineError(f"a worker {fault}"), self._replace)
        now, patience = self.watch.clock(), min(ANSWER_SECONDS, self.watch.silence)
        if now - max(self.watch.last_sign, self.nodes_seen) > patience:
            if not any(node["Alive"] for node in self.calls(self.ray.nodes)):
                raise EngineError("the Ray cluster has no machine left; what was committed stays, run again")
            self.nodes_seen = now

    def _waits_for(self) -> str:
        """The tasks and workers that the run waits for, in a line; any thread may ask."""
        tasks = [str(attempt.task) for _, attempt, _ in list(self.busy.values())]
        words = [f"{len(tasks)} tasks on workers, the first: {tasks[0]}"] if tasks else []
        words += [f"{len(self.starting)} workers to start"] if self.starting else []
        return " and ".join(words) or "Ray"


def _source(ray: Any, files: Mapping[str, KeptFiles]) -> tuple[str, Any]:
    """The driver's files, handed out by a process beside it: its name, and its handle, which keeps it alive."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    name = f"bandlens-files-{secrets.token_hex(8)}"
    options = {"name": name, "num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
    return name, ray.remote(DriverFiles).options(**options).remote(files)
