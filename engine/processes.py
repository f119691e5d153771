"""Workers on this machine: one process per device, each of which sees only its own GPU.

The worker process runs this module as a program: `python -P -m bandlens.engine.processes`. Its standard input is a
socket. It first receives its `sys.path` and its pickled Computer through the socket, then requests, and it sends a
reply to each request.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, cast

from ..core.errors import EngineError, UsageError, some_of
from ..core.jobs import describe_exit, end_with_parent
from .backends.base import engine_of
from .device.devices import gpus
from .device.requirements import usable
from .schedule import Computer, answer

if TYPE_CHECKING:
    from .device.nvidia import Gpu

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Environment variable that selects the GPUs a process can use."""
CPU = "cpu"
"""Device name of a worker that computes on the CPU."""
CARD_NAMES = ("GPU-", "MIG-")
"""Prefixes of the UUIDs that `nvidia-smi -L` prints for GPUs and for MIG instances."""
PROGRAM = __name__
"""Module that a worker process runs."""
END_SECONDS = 1.0
"""Seconds to wait for a killed process to exit.

A process blocked in a driver call exits only when that call returns.
"""


def environments_of(names: Sequence[str], engine: str) -> list[dict[str, str]]:
    """Return the environment variables of the worker process of each device, which make only that GPU visible.

    Raises:
        UsageError: If a device does not exist, is named twice, or cannot run the engine.
        EngineError: If no GPU can be used.
    """
    option = f"--devices {','.join(names)}"
    if engine_of(engine).arrays == "numpy":
        if set(names) != {CPU}:
            raise UsageError(f"{option}: engine {engine} runs on the CPU; give {CPU},{CPU}, or --engine tensorrt")
        return [{} for _ in names]
    usable(gpus())
    machine = cast("tuple[Gpu, ...]", gpus())
    # If CUDA_VISIBLE_DEVICES hides GPUs from this process, they must stay hidden from its workers. The numbers in
    # `names` therefore index the visible GPUs, not all GPUs of the machine.
    visible = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    card_of_number = dict(zip(map(str, range(len(machine))), visible or map(str, range(len(machine))), strict=False))
    for name in names:
        if name not in card_of_number and not name.startswith(CARD_NAMES):
            cards = some_of(f"{number} ({gpu.name})" for number, gpu in enumerate(machine))
            raise UsageError(f"{option}: there is no GPU {name!r} here; CUDA offers {cards}")
    cards_of_names = [card_of_number.get(name, name) for name in names]
    if duplicates := [name for name, card in zip(names, cards_of_names, strict=True) if cards_of_names.count(card) > 1]:
        raise UsageError(f"{option}: GPU {duplicates[-1]} is there twice; a process takes a whole GPU")
    return [{VISIBLE: card} for card in cards_of_names]


@contextmanager
def device_workers(
    environments: Sequence[Mapping[str, str]], computer: Computer
) -> Iterator[tuple[list[ProcessWorker], Callable[[], None]]]:
    """Create a worker for each environment. All worker processes are killed when the block ends.

    The second value is the health check that `Schedule` expects. It does nothing here, because there is no cluster to
    check.
    """
    workers = [ProcessWorker(computer, environment) for environment in environments]
    try:
        yield workers, lambda: None
    finally:
        for worker in workers:
            worker.end()


class ProcessWorker:
    """A worker in a process on this machine.

    Args:
        computer: Sent to the process, which opens it.
        environment: Environment variables in addition to those of this process.
    """

    def __init__(self, computer: Computer, environment: Mapping[str, str]) -> None:
        self._computer, self._environment = computer, environment
        self._process: subprocess.Popen[bytes] | None = None

    def restart(self) -> None:
        self.end()
        near_end, far_end = socket.socketpair()
        # If standard error was closed, file descriptor 2 may since have been reused for another file.
        prints = 2 if sys.__stderr__ else subprocess.DEVNULL
        with far_end:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", PROGRAM],
                stdin=far_end.fileno(),
                stdout=prints,
                stderr=prints,
                # Set at startup, since CUDA libraries read CUDA_VISIBLE_DEVICES only once.
                env=os.environ | self._environment,
                start_new_session=True,  # so that Ctrl-C reaches only this process, which then ends the worker
            )
        self._connection = Connection(near_end.detach())
        with suppress(OSError):  # the process has already exited; the first request reports it
            for message in (sys.path, self._computer):
                self._connection.send(message)

    def submit(self, request: Any) -> Future[Any]:
        future: Future[Any] = Future()
        # A daemon thread, because a worker process stuck in the kernel cannot be killed. Its socket then stays open and
        # this thread would keep the interpreter from exiting.
        threading.Thread(target=self._ask, args=[future, self._process, self._connection, request], daemon=True).start()
        return future

    @staticmethod
    def _ask(future: Future[Any], process: subprocess.Popen[bytes], connection: Connection, request: Any) -> None:
        try:
            connection.send(request)
            reply = connection.recv()
        except (OSError, EOFError):
            future.set_exception(EngineError(f"its process {describe_end(process)}"))
        except Exception as error:  # noqa: BLE001 - the message cannot be unpickled
            future.set_exception(error)
        else:
            future.set_result(reply)

    def end(self) -> None:
        """Kill the process and wait up to `END_SECONDS` for its exit."""
        if self._process is not None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)


def describe_end(process: subprocess.Popen[bytes]) -> str:
    """Describe how a process that no longer replies has ended."""
    try:
        return describe_exit(process.wait(END_SECONDS))
    except subprocess.TimeoutExpired:
        return "closed its connection"


def main() -> None:
    """Handle requests until the parent process closes the connection."""
    end_with_parent()
    connection = Connection(os.dup(0))
    # Standard input is the socket. Replace it, so that code which reads standard input cannot consume requests.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        sys.path[:] = connection.recv()
        computer = connection.recv()
        while True:
            connection.send(answer(computer, connection.recv()))
    except (EOFError, OSError):  # the parent process has exited
        os._exit(0)


if __name__ == "__main__":
    main()
