"""Workers on a Ray cluster: one actor a device, placed by Ray, and restarted on another node where its own is gone."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from ...core.errors import EngineError
from ..tasks import Task
from .cluster import ANSWER_SECONDS, Cluster, lost
from .executors import Queue, Sink, Watch
from .files import DriverFiles, KeptFiles
from .loopback import END_SECONDS
from .schedule import LOOK_SECONDS, CallResult, Schedule
from .worker import Computed, Job, Worker

BEAT_SECONDS = 5.0
"""Seconds between two questions whether a worker lives."""


def run_on(
    cluster: Cluster,
    job: Job,
    tasks: Iterator[Task],
    sink: Sink,
    files: Mapping[str, KeptFiles],
    timeout: float | None = None,
) -> None:
    """Compute the tasks on all workers; EngineError where no worker can be started, or Ray does not answer.

    `timeout` is that of `Watch`.
    """
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
        Schedule(RayWorkers(cluster, actors[: cluster.workers]), Queue(tasks, sink), timeout).run()
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


class RayWorkers:
    """Actors of a cluster as the workers of a schedule. Ray restarts an actor's process by itself where it dies."""

    def __init__(self, cluster: Cluster, actors: Sequence[Any]) -> None:
        self.ray, self.calls, self.actors = cluster.ray, cluster.calls, actors
        self.count = len(actors)
        self.beats: dict[Any, int] = {}
        """The worker of each question whether it lives."""
        self.nodes_seen = self.next_beat = float("-inf")
        """The time at which the cluster was last known to have nodes."""

    def open(self, worker: int) -> Any:
        # Ray may repeat this call where the process dies, unlike `compute`: it is no try of a task.
        return self.calls(self.actors[worker].ready.options(max_task_retries=-1).remote)

    def compute(self, worker: int, task: Task) -> Any:
        return self.calls(partial(self.actors[worker].compute.remote, task))

    def ended(self, calls: Sequence[Any], watch: Watch) -> list[Any]:
        now = watch.clock()
        if now >= self.next_beat:
            self.next_beat = now + min(BEAT_SECONDS, watch.silence / 4)
            for worker in set(range(self.count)) - set(self.beats.values()):
                self.beats[self.calls(self.actors[worker].beat.options(concurrency_group=BEAT).remote)] = worker
        pending = [*calls, *self.beats]
        ended, _ = self.calls(partial(self.ray.wait, pending, num_returns=1, timeout=LOOK_SECONDS))
        for beat in self.beats.keys() & ended:
            worker, steps = self.beats.pop(beat), self.result(beat)
            if steps.error is None:  # another call of the same worker tells of its end
                watch.hears(worker, steps.value)
        patience = min(ANSWER_SECONDS, watch.silence)
        if now - max(watch.last_sign, self.nodes_seen) > patience:
            if not any(node["Alive"] for node in self.calls(self.ray.nodes)):
                raise EngineError("the Ray cluster has no machine left; what was committed stays, run again")
            self.nodes_seen = now
        return [call for call in calls if call in ended]

    def result(self, call: Any) -> CallResult:
        errors = self.ray.exceptions
        try:
            return CallResult(self.calls(partial(self.ray.get, call)))
        except errors.RayTaskError as error:
            return CallResult(error=error.cause if isinstance(error.cause, Exception) else error)
        except errors.RayError as error:
            return CallResult(error=EngineError(lost(error)), is_lost=True)

    def kill(self, worker: int) -> None:
        """Have Ray kill the present process of the actor, and start another."""
        self.calls(partial(self.ray.kill, self.actors[worker], no_restart=False))


def _source(ray: Any, files: Mapping[str, KeptFiles]) -> tuple[str, Any]:
    """The driver's files, handed out by a process beside it: its name, and its handle, which keeps it alive."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    driver_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    name = f"bandlens-files-{secrets.token_hex(8)}"
    options = {"name": name, "num_cpus": 0, "max_restarts": -1, "scheduling_strategy": driver_node}
    return name, ray.remote(DriverFiles).options(**options).remote(files)
