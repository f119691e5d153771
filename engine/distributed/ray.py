"""Workers on a Ray cluster: one actor a device, placed and restarted by Ray, handed one task at a time.

Ray restarts an actor that died, on another node where its own is gone; what it was busy with is handed to whichever
worker is free next. So a task's tries are counted in one place, and none waits for a node that never comes back.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from ...errors import BandlensError, DeviceError, EngineError, UsageError
from ..backends.base import engine_of
from ..tasks import Task
from .executors import Attempt, Queue, Sink, line_of
from .files import DriverFiles, KeptFiles
from .worker import Computed, Job, Worker

SEE = "`ray status` shows the clusters that are there"
WORDS = 240
"""Of what Ray says about a worker, in characters."""


@dataclass(frozen=True, slots=True)
class RayOptions:
    """What is asked of Ray."""

    address: str | None = None
    """Where the cluster is; without it, and without RAY_ADDRESS, one is started on this machine."""
    gpus_per_worker: float = 1
    workers: int | None = None
    """As many as the cluster has room for, by default."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A connection to Ray, and what each worker takes of it."""

    ray: Any
    options: dict[str, float]
    """num_gpus or num_cpus of a worker."""
    workers: int
    shared: bool
    """Whether it may have other machines than this one."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that workers are started with, beside those of their node."""

    def run(self, job: Job, tasks: Iterator[Task], sink: Sink, kept: dict[str, KeptFiles]) -> None:
        """Compute the tasks on all workers; EngineError where no worker can be started."""
        source = _source(self.ray, kept) if self.shared else None
        environment = {"runtime_env": {"env_vars": dict(self.environment)}} if self.environment else {}
        options = {"max_restarts": -1, "max_task_retries": 0, **self.options, **environment}
        remote = self.ray.remote(RayWorker).options(**options)
        actors = [remote.remote(job, source and source[0]) for _ in range(self.workers)]
        try:
            _Run(self.ray, Queue(tasks, sink), actors).all()
        finally:
            for actor in (*actors, *(source or ())[1:]):
                with suppress(self.ray.exceptions.RayError):
                    self.ray.kill(actor)


class RayWorker:
    """What runs in a worker's process."""

    def __init__(self, job: Job, source: str | None) -> None:
        self._worker = Worker(job, Remote(source) if source else None)

    def ready(self) -> int:
        """Open all sessions; gives the process."""
        self._worker.open()
        return os.getpid()

    def compute(self, task: Task) -> Computed:
        return self._worker.compute(task)


@dataclass(frozen=True, slots=True)
class Remote:
    """The driver's files, asked for through Ray."""

    name: str
    """The actor that has them: a worker whose arguments held a reference to it might not be restarted."""

    def listing(self, digest: str) -> list[tuple[str, int]]:
        return list(self._asked("listing", digest))

    def read(self, digest: str, name: str, offset: int) -> bytes:
        return bytes(self._asked("read", digest, name, offset))

    def _asked(self, method: str, *given: Any) -> Any:
        import ray

        try:
            return ray.get(getattr(ray.get_actor(self.name), method).remote(*given))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None


class _Run:
    """Workers that start, wait or are busy, until no task is left."""

    def __init__(self, ray: Any, queue: Queue, actors: list[Any]) -> None:
        self.ray, self.queue = ray, queue
        self.idle: list[Any] = []
        self.starting = {self._ready(actor): actor for actor in actors}
        self.busy: dict[Any, tuple[Any, Attempt]] = {}
        self.crashes = dict.fromkeys(actors, 0)

    def all(self) -> None:
        while True:
            self._hand_out()
            if not self.busy and (self.idle or not self.starting):
                return
            # A worker that starts, on a node that may never come, is waited for only while there is work for it.
            (done,), _ = self.ray.wait([*self.busy, *self.starting], num_returns=1)
            if done in self.starting:
                self._started(done, self.starting.pop(done))
            else:
                self._computed(done, *self.busy.pop(done))

    def _hand_out(self) -> None:
        while self.idle and (attempt := self.queue.next()):
            actor = self.idle.pop()
            self.busy[actor.compute.remote(attempt.task)] = (actor, attempt)

    def _ready(self, actor: Any) -> Any:
        return actor.ready.options(max_task_retries=-1).remote()

    def _started(self, reference: Any, actor: Any) -> None:
        try:
            self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            self.crashes[actor] += 1
            if self.crashes[actor] < 3:
                self.starting[self._ready(actor)] = actor
            elif not (self.busy or self.idle or self.starting):
                raise EngineError(f"no worker can run the study: {lost(error)}") from error
        else:
            self.crashes[actor] = 0
            self.queue.sink.begin()
            self.idle.append(actor)

    def _computed(self, reference: Any, actor: Any, attempt: Attempt) -> None:
        errors = self.ray.exceptions
        try:
            computed = self.ray.get(reference)
        except errors.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, (DeviceError, MemoryError)):  # a new process has what this one lacks
                self.ray.kill(actor, no_restart=False)
                self.starting[self._ready(actor)] = actor
            else:
                self.idle.append(actor)
            self.queue.failed(attempt, cause)
        except errors.RayError as error:
            self.starting[self._ready(actor)] = actor
            self.queue.failed(attempt, EngineError(f"its worker was lost: {lost(error)}"))
        else:
            self.idle.append(actor)
            self._hand_out()  # the worker goes on while this is stored
            try:
                self.queue.sink.accept(attempt.task, computed)
            except BandlensError as error:
                self.queue.failed(attempt, error)


def lost(error: BaseException) -> str:
    """What Ray says, without its advice."""
    cause = getattr(error, "cause", None)
    text = line_of(cause if isinstance(cause, Exception) else error)
    return text if len(text) <= WORDS else f"{text[:WORDS]}…"


@contextmanager
def connected(wanted: RayOptions, engine: str, threads: int) -> Iterator[Cluster]:
    """A cluster with room for a worker of that engine; EngineError where there is none, in one line."""
    ray = imported()
    address = wanted.address or os.environ.get("RAY_ADDRESS")
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "ignore_reinit_error": True}
    mine = not ray.is_initialized()
    if mine and address:
        _check_answers(address)
    try:
        if mine and address:
            ray.init(address=address, **quiet)
        elif mine:
            ray.init(include_dashboard=False, **quiet)
    except Exception as error:  # Ray raises whatever its parts do
        where = f"a Ray cluster at {address}" if address else "Ray"
        raise EngineError(f"cannot reach {where}: {lost(error)}; {SEE}") from error
    try:
        yield _fitted(ray, wanted, engine, threads, shared=bool(address) or not mine)
    finally:
        if mine:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """EngineError where nothing listens at host:port: Ray would ask again for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return  # `auto`, which Ray looks up
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise EngineError(f"cannot reach a Ray cluster at {address}: {error}; {SEE}") from error


def imported() -> Any:
    """Ray, told to be quiet; EngineError where it is not installed."""
    # What Ray says by itself is not for the terminal of a run: it has errors and progress of its own.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        from ray._private import worker
    except ImportError:
        raise EngineError("the ray executor needs Ray: pip install 'bandlens[ray]'") from None
    # Ray prints that a worker died into standard output, whatever its logging is set to.
    worker.print_to_stdstream = lambda *_, **__: None
    return ray


def _fitted(ray: Any, wanted: RayOptions, engine: str, threads: int, *, shared: bool) -> Cluster:
    name = "GPU" if engine_of(engine).arrays == "cupy" else "CPU"
    each = wanted.gpus_per_worker if name == "GPU" else threads
    options: dict[str, float] = {"num_gpus": each} if name == "GPU" else {"num_cpus": each}
    # A worker lies on one node; a fraction of a GPU is allowed.
    room = sum(int(node["Resources"].get(name, 0) / each) for node in ray.nodes() if node["Alive"])
    if not room:
        raise UsageError(
            f"a worker takes {each:g} {name}s, and no node of the Ray cluster has them; "
            + ("ask for fewer with --gpus-per-worker" if name == "GPU" else "set `threads` in the study")
        )
    return Cluster(ray, options, wanted.workers or room, shared)


def _source(ray: Any, kept: dict[str, KeptFiles]) -> tuple[str, Any]:
    """The driver's files, handed out by a process beside it: its name, and its handle, which keeps it alive."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    name = f"bandlens-files-{secrets.token_hex(8)}"
    options = {"name": name, "num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
    return name, ray.remote(DriverFiles).options(**options).remote(kept)
