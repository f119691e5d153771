"""The process of a worker on a device of this machine: `python -P -m bandlens.engine.distributed.worker_process`.

Standard input is this end of a `Channel`. The first message is the command's `sys.path` and the `Job`, and has all
sessions opened; each later one is a task, or None to open them again. While that lasts, this process sends its number
of steps now and then, as a sign of life, and waits for an answer; its last message is the `CallResult`.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor, wait

from ...channels import open_channel
from ...core.errors import DeviceError, EngineError, ShardError
from ..tasks import Task
from .executors import line_of
from .schedule import CallResult
from .worker import Job, Worker

BEAT_SECONDS = 0.25
"""Seconds between two signs of life: a quarter of the least that `--task-timeout` takes."""
SENT = (DeviceError, ShardError, MemoryError)
"""The classes of errors that a schedule tells from others."""


class Calls:
    """The calls of a worker, which is made with the first."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.worker: Worker | None = None

    def answer(self, task: Task | None) -> CallResult:
        """Open all sessions, or compute a task."""
        try:
            self.worker = self.worker or Worker(self.job)
            if task is not None:
                return CallResult(self.worker.compute(task))
            self.worker.open()
            return CallResult()
        except Exception as error:  # noqa: BLE001 - the command decides what it means
            # Not all classes can be sent.
            kind = next((kind for kind in SENT if isinstance(error, kind)), None)
            return CallResult(error=kind(str(error)) if kind else EngineError(line_of(error)))

    @property
    def steps(self) -> int:
        return self.worker.steps if self.worker else 0


def main() -> None:
    channel = open_channel()
    try:
        sys.path[:], (job,) = channel.receive()
        calls, task = Calls(job), None
        # A stream of CUDA is a thread's, so that all calls have the same one.
        with ThreadPoolExecutor(1) as thread:
            while True:
                call = thread.submit(calls.answer, task)
                while not wait([call], BEAT_SECONDS).done:
                    channel.send(calls.steps)
                    channel.receive()
                channel.send(call.result())
                task = channel.receive()
    except (EOFError, OSError):  # the command is gone
        os._exit(0)


if __name__ == "__main__":
    main()
