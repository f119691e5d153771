"""Workers on the devices of this machine: a process for each, which sees no other GPU."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, cast

from ...channels import ChannelProcess, describe_end
from ...core.errors import EngineError, UsageError, some_of
from ..backends.base import engine_of
from ..device.devices import gpus
from ..device.requirements import usable
from ..tasks import Task
from .executors import Queue, Sink, Watch
from .schedule import LOOK_SECONDS, Call, CallResult, Schedule
from .worker import Job

if TYPE_CHECKING:
    from ..device.driver import Gpu

VISIBLE = "CUDA_VISIBLE_DEVICES"
CPU = "cpu"
"""The device of a process that computes on the CPU."""
NAMED = ("GPU-", "MIG-")
"""The beginnings of the names that `nvidia-smi -L` has for cards and for their instances."""
PROGRAM = f"{__package__}.worker_process"


def environments_of(names: Sequence[str], engine: str) -> list[dict[str, str]]:
    """The environment variables of the process of each device, which sees that GPU alone.

    Raises UsageError where a device is not there, named twice, or none that the engine runs on, and EngineError where
    no GPU can be used.
    """
    option = f"--devices {','.join(names)}"
    if engine_of(engine).arrays == "numpy":
        if set(names) != {CPU}:
            raise UsageError(f"{option}: engine {engine} runs on the CPU; {CPU},{CPU} gives it two processes")
        return [{} for _ in names]
    usable(gpus())
    machine = cast("tuple[Gpu, ...]", gpus())
    # Cards that are hidden from this process are hidden from its processes too.
    shown = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    offered = dict(zip(map(str, range(len(machine))), shown or map(str, range(len(machine))), strict=False))
    for name in names:
        if name not in offered and not name.startswith(NAMED):
            cards = some_of(f"{number} ({gpu.name})" for number, gpu in enumerate(machine))
            raise UsageError(f"{option}: there is no GPU {name!r} here; CUDA offers {cards}")
    cards_of_names = [offered.get(name, name) for name in names]
    if twice := [name for name, card in zip(names, cards_of_names, strict=True) if cards_of_names.count(card) > 1]:
        raise UsageError(f"{option}: GPU {twice[-1]} is there twice; a process takes a whole GPU")
    return [{VISIBLE: card} for card in cards_of_names]


def run_on_devices(
    environments: Sequence[Mapping[str, str]], job: Job, tasks: Iterator[Task], sink: Sink, timeout: float | None
) -> None:
    """Compute the tasks in a process for each environment; EngineError where none can. `timeout` is that of `Watch`."""
    workers = ProcessWorkers(job, environments)
    try:
        Schedule(workers, Queue(tasks, sink), timeout).run()
    finally:
        for worker in range(workers.count):
            workers.kill(worker)


class ProcessWorkers:
    """Processes of this machine as the workers of a schedule."""

    def __init__(self, job: Job, environments: Sequence[Mapping[str, str]]) -> None:
        self.count = len(environments)
        self._job, self._environments = job, environments
        self._processes: dict[int, ChannelProcess] = {}
        self._calls: dict[Call, tuple[int, ChannelProcess]] = {}
        """The calls that have not come back, or whose results have not been fetched."""
        self._results: dict[Call, CallResult] = {}
        self._numbers = count()

    def open(self, worker: int) -> Call:
        if worker in self._processes:
            return self.compute(worker, None)
        # The variables are there before the process imports a library of CUDA, which reads them once. The process opens
        # its sessions without another message, which would take the place of this one in memory.
        self._processes[worker] = ChannelProcess(PROGRAM, self._job, **self._environments[worker])
        return self._note_call(worker)

    def compute(self, worker: int, task: Task | None) -> Call:
        self._processes[worker].send(task)
        return self._note_call(worker)

    def _note_call(self, worker: int) -> Call:
        call = next(self._numbers)
        self._calls[call] = worker, self._processes[worker]
        return call

    def ended(self, calls: Sequence[Call], watch: Watch) -> list[Call]:
        processes = {call: self._calls[call][1] for call in calls}
        ready = wait([process.fileno() for process in processes.values()], LOOK_SECONDS)
        for call, process in processes.items():
            if process.fileno() in ready or process.process.poll() is not None:
                self._receive(call, watch)
        return [call for call in calls if call in self._results]

    def _receive(self, call: Call, watch: Watch) -> None:
        """Take the worker's message: its number of steps, after which it waits for an answer, or the call's result."""
        worker, process = self._calls[call]
        try:
            message = process.receive(0)
        except (OSError, EOFError, pickle.UnpicklingError):
            message = CallResult(error=EngineError(f"its process {describe_end(process.process)}"), is_lost=True)
        is_present = self._processes.get(worker) is process
        if isinstance(message, CallResult):
            self._results[call] = message
            if message.is_lost and is_present:
                del self._processes[worker]
        else:
            process.send(None)
            if is_present:
                watch.hears(worker, message)

    def result(self, call: Call) -> CallResult:
        del self._calls[call]
        return self._results.pop(call)

    def kill(self, worker: int) -> None:
        if process := self._processes.pop(worker, None):
            process.process.kill()
