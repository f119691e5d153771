"""Workers on a Ray cluster: one actor per device, placed by Ray on a node with free resources.

Some Ray calls block forever if one of Ray's processes has been suspended. Every call therefore has a timeout here.
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
"""Timeout of a Ray call, in seconds."""
END_SECONDS = 15.0
"""Timeout for Ray to shut down, in seconds."""
CONNECT_SECONDS = 20.0
"""Timeout for a connection to the address of the cluster, in seconds."""
NO_ANSWER = (
    "Ray has not answered for {seconds:.0f} s: a process of the cluster (raylet, gcs_server) is stopped, or its "
    "machine; what was committed stays, run again when it answers"
)
"""Error message for a Ray call that timed out."""


@contextmanager
def ray_workers(
    address: str | None, engine: str, threads: int, computer: Computer
) -> Iterator[tuple[list[RayWorker], Callable[[], None]]]:
    """Create as many workers as the cluster has resources for.

    The second value is the health check that `Schedule` expects. It raises EngineError once the cluster no longer
    responds.

    Args:
        address: Address of the cluster. By default RAY_ADDRESS, or the cluster to which this process is already
            connected.
        engine: The engine that each worker runs. An engine on a GPU reserves a whole GPU.
        threads: Number of CPUs that a worker without a GPU reserves.
        computer: Sent to each worker, which opens it.
    """
    ray, calls = import_ray(), TimedCalls(ANSWER_SECONDS, NO_ANSWER)
    address = address or os.environ.get("RAY_ADDRESS")
    connects, workers = not ray.is_initialized(), list[RayWorker]()
    try:
        if connects:
            _connect(ray, calls, address)
        name, amount = ("GPU", 1) if engine_of(engine).arrays == "cupy" else ("CPU", threads)
        # A worker cannot span nodes, so the resources of each node are divided and rounded down separately.
        room = sum(int(node["Resources"].get(name, 0) / amount) for node in calls(ray.nodes) if node["Alive"])
        if not room:
            advice = "add a node with a GPU" if name == "GPU" else "set `threads` in the study"
            raise UsageError(f"a worker takes {amount} {name}s, and no node of the Ray cluster has them; {advice}")
        # Ray must neither restart actors nor repeat calls, because the schedule does both itself.
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
                # Ray registers its shutdown for the exit of the interpreter, where it would block again
                atexit.unregister(ray.shutdown)


def import_ray() -> Any:
    """Import Ray with its usage reports and warnings turned off. Raises EngineError if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with naming_extras("--executor ray", EngineError):
        import ray
        from ray._private import worker
    # Ray prints a notice to standard output when a worker dies, regardless of its logging settings.
    worker.print_to_stdstream = lambda *_, **__: None
    return ray


def _connect(ray: Any, calls: TimedCalls, address: str | None) -> None:
    """Connect to the cluster. Raises EngineError with a one-line message if that fails."""
    if address is None:
        raise UsageError(
            "--executor ray needs a cluster: name its --address HOST:PORT, or auto for one of this machine; "
            "--devices spreads a run over this machine without Ray"
        )
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        if port.isdecimal():  # if nothing listens at the port, Ray would retry for minutes and log a warning each time
            socket.create_connection((host.strip("[]"), int(port[:9])), CONNECT_SECONDS).close()
        # Ray's workers import modules from the driver's current folder first, which may contain untrusted files. They
        # do not if the driver is declared a client of the cluster.
        config = ray.job_config.JobConfig(_client_job=True)
        calls(lambda: ray.init(address=address, job_config=config, log_to_driver=False, logging_level="ERROR"))
    except Exception as error:  # Ray passes on exceptions of any class from its internals
        text = str(error) if isinstance(error, OSError) else line_of(error)
        raise EngineError(
            f"cannot reach a Ray cluster at {address}: {text}; `ray status` shows the clusters that are there"
        ) from error


class Actor:
    """The Ray actor that runs in the process of a worker."""

    def __init__(self, computer: Computer) -> None:
        self._computer = computer

    def answer(self, request: Any) -> Any:
        """Handle a request. An error at startup is prefixed with the host name."""
        reply = answer(self._computer, request)
        if request is None and isinstance(reply, EngineError):
            return type(reply)(f"on {socket.gethostname()}: {reply}")
        return reply


@dataclass(slots=True)
class RayWorker:
    """A worker that is a Ray actor. If it dies, a new actor replaces it on any node with free resources."""

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
    """Return a function that raises EngineError if the cluster no longer responds. It checks at most once a minute."""
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
