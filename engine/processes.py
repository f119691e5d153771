"""Workers on the devices of this machine: a process for each, which sees no other GPU.

The process is this module, run as a program: `python -P -m bandlens.engine.processes`. Its standard input is
a socket, on which it gets its `sys.path` and its Computer, then requests, and answers each.
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
CPU = "cpu"
"""The device of a process that computes on the CPU."""
CARD_NAMES = ("GPU-", "MIG-")
"""The beginnings of the names that `nvidia-smi -L` has for cards and for their instances."""
PROGRAM = __name__
END_SECONDS = 1.0
"""Seconds that a killed process has to end: one that waits for a driver dies when that comes back."""


def environments_of(names: Sequence[str], engine: str) -> list[dict[str, str]]:
    """The environment variables of the process of each device, which sees that GPU alone.

    Raises UsageError where a device is not there, named twice, or none that the engine runs on, and EngineError where
    no GPU can be used.
    """
    option = f"--devices {','.join(names)}"
    if engine_of(engine).arrays == "numpy":
        if set(names) != {CPU}:
            raise UsageError(f"{option}: engine {engine} runs on the CPU; give {CPU},{CPU}, or --engine tensorrt")
        return [{} for _ in names]
    usable(gpus())
    machine = cast("tuple[Gpu, ...]", gpus())
    # Cards that are hidden from this process are hidden from its processes too.
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
    """A worker for each environment, whose processes end with the block; there is no cluster to look after."""
    workers = [ProcessWorker(computer, environment) for environment in environments]
    try:
        yield workers, lambda: None
    finally:
        for worker in workers:
            worker.end()


class ProcessWorker:
    """A worker in a process of this machine.

    Args:
        computer: is sent to the process, unopened.
        environment: variables in addition to those of this process.
    """

    def __init__(self, computer: Computer, environment: Mapping[str, str]) -> None:
        self._computer, self._environment = computer, environment
        self._process: subprocess.Popen[bytes] | None = None

    def restart(self) -> None:
        self.end()
        near_end, far_end = socket.socketpair()
        # Where standard error was closed, its number may be another file's by now.
        prints = 2 if sys.__stderr__ else subprocess.DEVNULL
        with far_end:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", PROGRAM],
                stdin=far_end.fileno(),
                stdout=prints,
                stderr=prints,
                env=os.environ | self._environment,  # there before the process imports a library of CUDA
                start_new_session=True,  # Ctrl-C is for this process, which ends the other
            )
        self._connection = Connection(near_end.detach())
        with suppress(OSError):  # it has ended, as the first request will tell
            for message in (sys.path, self._computer):
                self._connection.send(message)

    def submit(self, request: Any) -> Future[Any]:
        future: Future[Any] = Future()
        # A daemon, since a process that the kernel holds keeps its socket open, and this thread waiting.
        threading.Thread(target=self._ask, args=[future, self._process, self._connection, request], daemon=True).start()
        return future

    @staticmethod
    def _ask(future: Future[Any], process: subprocess.Popen[bytes], connection: Connection, request: Any) -> None:
        try:
            connection.send(request)
            reply = connection.recv()
        except (OSError, EOFError):
            future.set_exception(EngineError(f"its process {describe_end(process)}"))
        except Exception as error:  # noqa: BLE001 - a message that cannot be read
            future.set_exception(error)
        else:
            future.set_result(reply)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)


def describe_end(process: subprocess.Popen[bytes]) -> str:
    """Say how a process ended that does not answer any more."""
    try:
        return describe_exit(process.wait(END_SECONDS))
    except subprocess.TimeoutExpired:
        return "closed its connection"


def main() -> None:
    """Answer requests until there is nobody to ask."""
    end_with_parent()
    connection = Connection(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        sys.path[:] = connection.recv()
        computer = connection.recv()
        while True:
            connection.send(answer(computer, connection.recv()))
    except (EOFError, OSError):  # the process that started this one is gone
        os._exit(0)


if __name__ == "__main__":
    main()
