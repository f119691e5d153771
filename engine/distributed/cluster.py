"""A connection to a Ray cluster: one that is there, or one of this machine alone that ends with this process.

Ray has calls that wait for ever where one of its processes was stopped, so each call has its time here.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from ...core.errors import EngineError, UsageError
from ...core.timeouts import TimedCalls
from ..backends.base import engine_of
from .executors import line_of
from .loopback import QUIET, disconnect, own_cluster

SEE = "`ray status` shows the clusters that are there"
WORDS = 240
"""The most characters of what Ray says about a worker."""
ANSWER_SECONDS = 60.0
"""Seconds that Ray has for an answer."""
HELLO_SECONDS = 20.0
"""Seconds that a cluster has to answer its first caller."""
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""The first bytes of a gRPC client (RFC 9113, 3.4): a preface, and settings that ask for nothing."""
NO_ANSWER = (
    "Ray has not answered for {seconds:.0f} s: a process of the cluster (raylet, gcs_server) is stopped, or its "
    "machine; what was committed stays, run again when it answers"
)


@dataclass(frozen=True, slots=True)
class RayOptions:
    """The workers that a run has on a Ray cluster."""

    address: str | None = None
    """The address of the cluster; without it, and without RAY_ADDRESS, one is started on this machine."""
    gpus_per_worker: float = 1
    workers: int | None = None
    """The number of workers; by default as many as the cluster has room for."""

    def __post_init__(self) -> None:
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise UsageError(
                f"{self.gpus_per_worker:g} GPUs for a worker: give a part of one, or whole ones, as Ray does"
            )


@dataclass(frozen=True, slots=True)
class Cluster:
    """A connection to Ray, and the resources that each worker takes."""

    ray: Any
    calls: TimedCalls
    options: dict[str, float]
    """The resources of a worker: num_gpus or num_cpus."""
    workers: int
    shared: bool
    """Whether the cluster may have other machines than this one."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of workers, beside those of their node."""


@contextmanager
def connected(options: RayOptions, engine: str, threads: int) -> Iterator[Cluster]:
    """A cluster with room for a worker of that engine; EngineError where there is none, in one line."""
    ray, calls = import_ray(), TimedCalls(ANSWER_SECONDS, NO_ANSWER)
    address = options.address or os.environ.get("RAY_ADDRESS")
    connects = not ray.is_initialized()
    with ExitStack() as stack:
        if connects:
            if address:
                _check_answers(address)
            try:
                stack.enter_context(_connection(ray, calls, address) if address else own_cluster(ray, calls))
            except Exception as error:  # Ray raises whatever its parts do
                where = f"a Ray cluster at {address}" if address else "Ray"
                raise EngineError(f"cannot reach {where}: {lost(error)}; {SEE}") from error
        yield _fitted(ray, calls, options, engine, threads, shared=bool(address) or not connects)


@contextmanager
def _connection(ray: Any, calls: TimedCalls, address: str) -> Iterator[None]:
    """Connect to a cluster that is there, while the block lasts."""
    try:
        calls(lambda: ray.init(address=address, **QUIET))
        yield
    finally:
        disconnect(ray, calls)


def lost(error: BaseException) -> str:
    """The error of Ray in a line, without Ray's advice."""
    cause = getattr(error, "cause", None)
    text = line_of(cause if isinstance(cause, Exception) else error)
    return text if len(text) <= WORDS else f"{text[:WORDS]}…"


def _check_answers(address: str) -> None:
    """EngineError where nothing answers at host:port: Ray would ask again for minutes, and warn each time.

    The system takes connections for a process that is stopped. Whatever comes back is an answer, an end too.
    """
    if (place := place_of(address)) is None:
        return
    try:
        with socket.create_connection(place, timeout=HELLO_SECONDS) as connection:
            connection.sendall(HELLO)
            with suppress(ConnectionError):
                connection.recv(1)
    except TimeoutError:
        why = NO_ANSWER.format(seconds=HELLO_SECONDS)
        raise EngineError(f"cannot reach a Ray cluster at {address}: {why}; {SEE}") from None
    except (OSError, OverflowError) as error:
        raise EngineError(f"cannot reach a Ray cluster at {address}: {error}; {SEE}") from error


def place_of(address: str) -> tuple[str, int] | None:
    """Host and port of an address; None for a word that Ray looks up, such as `auto`."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    # Nine digits are too many for a port, and Python converts no more than 4,300 of them.
    return (host.strip("[]"), int(port[:9])) if port.isdecimal() else None


def import_ray() -> Any:
    """Ray, told to be quiet; EngineError where it is not installed."""
    # Ray's own messages are not for the terminal of a run, which has errors and progress of its own.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Clusters that this process starts use it: by default a worker gets about a thirtieth of a busy core.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
        from ray._private import worker
    except ImportError:
        raise EngineError("the ray executor needs Ray: pip install 'bandlens[ray]'") from None
    # Ray prints that a worker died into standard output, whatever its logging is set to.
    worker.print_to_stdstream = lambda *_, **__: None
    return ray


def _fitted(ray: Any, calls: TimedCalls, options: RayOptions, engine: str, threads: int, *, shared: bool) -> Cluster:
    """The cluster, with as many workers as are asked for or have room; UsageError where there is room for none."""
    name = "GPU" if engine_of(engine).arrays == "cupy" else "CPU"
    each = options.gpus_per_worker if name == "GPU" else threads
    resources: dict[str, float] = {"num_gpus": each} if name == "GPU" else {"num_cpus": each}
    # A worker lies on one node; a fraction of a GPU is allowed.
    room = sum(int(node["Resources"].get(name, 0) / each) for node in calls(ray.nodes) if node["Alive"])
    if not room:
        raise UsageError(
            f"a worker takes {each:g} {name}s, and no node of the Ray cluster has them; "
            + ("ask for fewer with --gpus-per-worker" if name == "GPU" else "set `threads` in the study")
        )
    return Cluster(ray, calls, resources, options.workers or room, shared)


# Whether a cluster asks for a token


ASK = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, timeout=5)
except AuthenticationError:
    sys.exit(3)
"""


def asks_for_token(address: str) -> bool | None:
    """Whether the cluster at host:port turns away callers without a token; None where it does not answer."""
    try:
        _check_answers(address)
        # In a process of its own, since Ray reads its settings, and whether it has a token, once in a process.
        answer = subprocess.run(
            [sys.executable, "-P", "-c", ASK, address],
            env=os.environ | {"RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            timeout=20,
        )
    except (EngineError, subprocess.TimeoutExpired):
        return None
    return {0: False, 3: True}.get(answer.returncode)
