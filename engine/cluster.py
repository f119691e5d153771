"""Workers on a Ray cluster: an actor a device, which Ray places on a node that has room.

Ray has calls that wait for ever where one of its processes was stopped, so each call has its time here.
"""

from __future__ import annotations

import atexit
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ..core.errors import EngineError, UsageError
from ..core.extras import naming_extras
from ..core.timeouts import TimedCalls
from .backends.base import engine_of
from .schedule import Computer, answer, line_of

ANSWER_SECONDS = 60.0
"""Seconds that Ray has for an answer."""
END_SECONDS = 15.0
"""Seconds that Ray has to stop after it is told to."""
CONNECT_SECONDS = 20.0
"""Seconds that a cluster's address has to take a connection."""
NO_ANSWER = (
    "Ray has not answered for {seconds:.0f} s: a process of the cluster (raylet, gcs_server) is stopped, or its "
    "machine; what was committed stays, run again when it answers"
)


@contextmanager
def ray_workers(
    address: str | None, engine: str, threads: int, computer: Computer
) -> Iterator[tuple[list[RayWorker], Callable[[], None]]]:
    """The workers that a cluster has room for, and a function that raises EngineError once it cannot answer any more.

    Args:
        address: of the cluster; by default RAY_ADDRESS, or the cluster that this process is connected to.
        engine: the engine that each of them runs: one on a GPU takes a whole GPU.
        threads: the processors that a worker takes without a GPU.
        computer: is sent to each of them, unopened.
    """
    ray, calls = import_ray(), TimedCalls(ANSWER_SECONDS, NO_ANSWER)
    address = address or os.environ.get("RAY_ADDRESS")
    connects, workers = not ray.is_initialized(), list[RayWorker]()
    try:
        if connects:
            _connect(ray, calls, address)
        name, amount = ("GPU", 1) if engine_of(engine).arrays == "cupy" else ("CPU", threads)
        # A worker lies on one node.
        room = sum(int(node["Resources"].get(name, 0) / amount) for node in calls(ray.nodes) if node["Alive"])
        if not room:
            advice = "add a node with a GPU" if name == "GPU" else "set `threads` in the study"
            raise UsageError(f"a worker takes {amount} {name}s, and no node of the Ray cluster has them; {advice}")
        options = {f"num_{name.lower()}s": amount, "max_restarts": 0, "max_task_retries": 0}
        remote = ray.remote(Actor).options(**options)
        workers += [RayWorker(ray, calls, remote, computer) for _ in range(room)]
        yield workers, _look_at(ray, calls)
    finally:
        with suppress(ray.exceptions.RayError, EngineError):
            calls(lambda: [ray.kill(worker.actor) for worker in workers if worker.actor is not None], END_SECONDS)
        if connects:
            try:
                calls(ray.shutdown, END_SECONDS)
            except EngineError:
                atexit.unregister(ray.shutdown)  # it would wait again


def import_ray() -> Any:
    """Ray, told to be quiet; EngineError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with naming_extras("--executor ray", EngineError):
        import ray
        from ray._private import worker
    # Ray prints that a worker died into standard output, whatever its logging is set to.
    worker.print_to_stdstream = lambda *_, **__: None
    return ray


def _connect(ray: Any, calls: TimedCalls, address: str | None) -> None:
    """Connect to the cluster; EngineError in one line where that is not possible."""
    if address is None:
        raise UsageError(
            "--executor ray needs a cluster: name its --address HOST:PORT, or auto for one of this machine; "
            "--devices spreads a run over this machine without Ray"
        )
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        if port.isdecimal():  # Ray would try for minutes where nobody listens, and warn each time
            socket.create_connection((host.strip("[]"), int(port[:9])), CONNECT_SECONDS).close()
        # Ray has workers import modules from the current folder first, which may be somebody else's, unless the
        # driver is a client of the cluster.
        config = ray.job_config.JobConfig(_client_job=True)
        calls(lambda: ray.init(address=address, job_config=config, log_to_driver=False, logging_level="ERROR"))
    except Exception as error:  # Ray raises whatever its parts do
        text = str(error) if isinstance(error, OSError) else line_of(error)
        raise EngineError(
            f"cannot reach a Ray cluster at {address}: {text}; `ray status` shows the clusters that are there"
        ) from error


class Actor:
    """The actor that runs in a worker's process."""

    def __init__(self, computer: Computer) -> None:
        self._computer = computer

    def answer(self, request: Any) -> Any:
        reply = answer(self._computer, request)
        if request is None and isinstance(reply, EngineError):
            return type(reply)(f"on {socket.gethostname()}: {reply}")
        return reply


@dataclass(slots=True)
class RayWorker:
    """A worker that is an actor. A new one takes its place where it dies, on whichever node has room."""

    ray: Any
    calls: TimedCalls
    remote: Any
    computer: Computer
    actor: Any = None

    def restart(self) -> None:
        if self.actor is not None:
            with suppress(self.ray.exceptions.RayError):
                self.calls(lambda: self.ray.kill(self.actor))
        self.actor = self.calls(lambda: self.remote.remote(self.computer))

    def submit(self, request: Any) -> Future[Any]:
        future: Future[Any] = self.calls(lambda: self.actor.answer.remote(request).future())
        return future


def _look_at(ray: Any, calls: TimedCalls) -> Callable[[], None]:
    """A function that raises EngineError where the cluster cannot answer; it asks once a minute."""
    driver, last_check = calls(lambda: ray.get_runtime_context().get_node_id()), time.monotonic()

    def look() -> None:
        nonlocal last_check
        if time.monotonic() - last_check < ANSWER_SECONDS:
            return
        last_check = time.monotonic()
        if not any(node["Alive"] for node in calls(ray.nodes) if node["NodeID"] == driver):
            raise EngineError(
                "the Ray cluster has lost this machine (its raylet is stopped); what was committed stays, run again"
            )

    return look
