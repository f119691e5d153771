"""A process beside the driver of a cluster: when the driver ends, however it does, the rest of the cluster is killed.

Started as a program, since it must outlive the driver. What it waits for is the end of its standard input; the first
line of it is a text that every process of the cluster, and no other, has in its environment, and the second the
cluster's folder, which is removed.
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

SECONDS = 10
"""How long it tries: a process that the kernel holds does not die."""


def members(mark: bytes) -> list[int]:
    """The processes of this user that were started with the mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended, or is another user's
            if mark in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def main() -> None:
    mark, folder = (sys.stdin.buffer.readline().strip() for _ in range(2))
    sys.stdin.buffer.read()
    end = time.monotonic() + SECONDS
    while mark and (left := members(mark)) and time.monotonic() < end:
        for process in left:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
    if folder:
        shutil.rmtree(os.fsdecode(folder), ignore_errors=True)


if __name__ == "__main__":
    main()
