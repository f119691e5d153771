"""A process beside the driver of a cluster: when the driver ends, however it does, the rest of the cluster is killed.

It is this file, started as a program, since it must outlive the driver. It waits for the end of its standard input, of
which the first line is a text that every process of the cluster, and no other, has in its environment, and the second
is the cluster's folder, which is removed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

SECONDS = 10
"""Seconds for which the guard tries to kill: a process that the kernel holds does not die."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Kills the rest of a cluster when this process ends, or earlier, and removes its folder."""

    token: str
    folder: str
    """A folder that nobody else can enter. Ray's own lies in it, with sockets and logs; anybody may write into that."""
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        self.process.communicate()  # it waits for the end of its input


@contextmanager
def guarded(token: str) -> Iterator[Guard]:
    """A guard of the processes that have the token in their environment, and a folder for them."""
    program = [sys.executable, "-I", "-S", __file__]
    folder = tempfile.mkdtemp(prefix="ray")  # short: paths of sockets lie in it
    # The guard is in a session of its own: signals of a terminal are for this process, whose end the guard sees.
    with subprocess.Popen(program, stdin=subprocess.PIPE, start_new_session=True) as process:
        if process.stdin:
            process.stdin.write(os.fsencode(f"{token}\n{folder}\n"))
            process.stdin.flush()
        yield Guard(token, folder, process)


def cluster_processes(token: bytes) -> list[int]:
    """The processes of this user that were started with the token in their environment."""
    numbers = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended, or is another user's
            if token in (folder / "environ").read_bytes():
                numbers.append(int(folder.name))
    return numbers


def main() -> None:
    token, folder = (sys.stdin.buffer.readline().strip() for _ in range(2))
    sys.stdin.buffer.read()
    end = time.monotonic() + SECONDS
    # More than once, since a process may start another one after it was looked for.
    while token and (processes := cluster_processes(token)) and time.monotonic() < end:
        for process in processes:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
    if folder:
        shutil.rmtree(os.fsdecode(folder), ignore_errors=True)


if __name__ == "__main__":
    main()
