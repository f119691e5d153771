"""A connection to a Ray cluster: one that is there, or one of this machine alone that ends with this process.

Ray has calls that wait for ever where one of its processes was stopped, so each call has its time here. A cluster that
is started here listens on the loopback interface alone, and answers those who know a token that is made for it.
"""

from __future__ import annotations

import atexit
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import EngineError, UsageError
from ...timeouts import TimedCalls
from ..backends.base import engine_of
from .executors import line_of

SEE = "`ray status` shows the clusters that are there"
WORDS = 240
"""Of what Ray says about a worker, in characters."""
START_SECONDS = 300.0
"""In which a cluster of this machine starts; a first start from a slow disk takes a minute."""
ANSWER_SECONDS = 60.0
"""In which Ray answers anything else."""
END_SECONDS = 15.0
"""In which it lets go."""
HELLO_SECONDS = 20.0
"""In which a cluster that is there says that it is."""
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a client of gRPC begins (RFC 9113, 3.4): a preface, and settings that ask for nothing."""
NO_ANSWER = (
    "Ray has not answered for {seconds:.0f} s: a process of the cluster (raylet, gcs_server) is stopped, or its "
    "machine; what was committed stays, run again when it answers"
)


@dataclass(frozen=True, slots=True)
class RayOptions:
    """What is asked of Ray."""

    address: str | None = None
    """Where the cluster is; without it, and without RAY_ADDRESS, one is started on this machine."""
    gpus_per_worker: float = 1
    workers: int | None = None
    """As many as the cluster has room for, by default."""
    task_timeout: float | None = None
    """Seconds without progress after which a task is handed to another worker; by what tasks took, by default."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A connection to Ray, and what each worker takes of it."""

    ray: Any
    calls: TimedCalls
    options: dict[str, float]
    """num_gpus or num_cpus of a worker."""
    workers: int
    shared: bool
    """Whether it may have other machines than this one."""
    task_timeout: float | None
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that workers are started with, beside those of their node."""


@contextmanager
def connected(wanted: RayOptions, engine: str, threads: int) -> Iterator[Cluster]:
    """A cluster with room for a worker of that engine; EngineError where there is none, in one line."""
    ray, calls = imported(), TimedCalls(ANSWER_SECONDS, NO_ANSWER)
    address = wanted.address or os.environ.get("RAY_ADDRESS")
    mine = not ray.is_initialized()
    with ExitStack() as stack:
        if mine and address:
            _check_answers(address)
        if mine:
            guard = None if address else stack.enter_context(_guarded(secrets.token_hex(32)))
            stack.callback(_let_go, ray, calls, guard)
            try:
                _connect(ray, calls, address, guard)
            except Exception as error:  # Ray raises whatever its parts do
                where = f"a Ray cluster at {address}" if address else "Ray"
                raise EngineError(f"cannot reach {where}: {lost(error)}; {SEE}") from error
        yield _fitted(ray, calls, wanted, engine, threads, shared=bool(address) or not mine)


def _connect(ray: Any, calls: TimedCalls, address: str | None, guard: Guard | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "ignore_reinit_error": True}
    if guard is None:
        calls(lambda: ray.init(address=address, **quiet))
        return
    with _alone(guard.token):
        calls(
            lambda: ray.init(address="local", include_dashboard=False, _temp_dir=f"{guard.folder}/r", **quiet),
            START_SECONDS,
        )


@contextmanager
def _alone(token: str) -> Iterator[None]:
    """Ray, while the block lasts: a cluster that starts listens on the loopback interface, and asks for the token.

    Its processes inherit both, and this one remembers the token; others that it starts need not know it.
    """
    from ray._private import ray_constants

    before, clusters = dict(os.environ), ray_constants.ENABLE_RAY_CLUSTER
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    _read_again()
    # Ray takes any address that is given for the loopback interface for one of a network; not where it has no networks.
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            os.environ.pop(name)
            os.environ |= {name: before[name]} if name in before else {}


def _read_again() -> None:
    """Ray reads its settings once a process, and the token, too."""
    from ray import _raylet

    native: Any = _raylet
    native.Config.initialize("")
    native.AuthenticationTokenLoader.instance().reset_cache()


@dataclass(frozen=True, slots=True)
class Guard:
    """Kills what is left of a cluster when this process ends, or earlier, and removes its folder."""

    token: str
    folder: str
    """That nobody else can enter. Ray's own lies in it, with sockets and logs, and everybody may write into that."""
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        self.process.communicate()  # it waits for the end of its input


@contextmanager
def _guarded(token: str) -> Iterator[Guard]:
    program = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py"))]
    folder = tempfile.mkdtemp(prefix="ray")  # short: paths of sockets lie in it
    # In a session of its own: the signals of a terminal are for this process, whose end it sees.
    with subprocess.Popen(program, stdin=subprocess.PIPE, start_new_session=True) as process:
        if process.stdin:
            process.stdin.write(os.fsencode(f"{token}\n{folder}\n"))
            process.stdin.flush()
        yield Guard(token, folder, process)


def _let_go(ray: Any, calls: TimedCalls, guard: Guard | None) -> None:
    """Disconnect. A cluster of one's own that does not end is killed; one that is not is left as it is."""
    try:
        calls(ray.shutdown, END_SECONDS)
    except EngineError:
        atexit.unregister(ray.shutdown)  # it would wait again
    if guard:
        guard.kill()
        _read_again()


def lost(error: BaseException) -> str:
    """What Ray says, without its advice."""
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
    return (host.strip("[]"), int(port)) if port.isdigit() else None


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


def _fitted(ray: Any, calls: TimedCalls, wanted: RayOptions, engine: str, threads: int, *, shared: bool) -> Cluster:
    name = "GPU" if engine_of(engine).arrays == "cupy" else "CPU"
    each = wanted.gpus_per_worker if name == "GPU" else threads
    options: dict[str, float] = {"num_gpus": each} if name == "GPU" else {"num_cpus": each}
    # A worker lies on one node; a fraction of a GPU is allowed.
    room = sum(int(node["Resources"].get(name, 0) / each) for node in calls(ray.nodes) if node["Alive"])
    if not room:
        raise UsageError(
            f"a worker takes {each:g} {name}s, and no node of the Ray cluster has them; "
            + ("ask for fewer with --gpus-per-worker" if name == "GPU" else "set `threads` in the study")
        )
    return Cluster(ray, calls, options, wanted.workers or room, shared, wanted.task_timeout)


# Of a cluster that is there


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
    """Whether the cluster at host:port turns away who knows no token; None where it does not answer."""
    try:
        _check_answers(address)
        asked = subprocess.run(
            [sys.executable, "-P", "-c", ASK, address],
            env=os.environ | {"RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            timeout=20,
        )
    except (EngineError, subprocess.TimeoutExpired):
        return None
    return {0: False, 3: True}.get(asked.returncode)
