"""Run a module in a child process with a time limit and a memory limit.

Use it to parse untrusted files, which may hang the parser, exhaust memory or crash the process.

    python -P -m MODULE PARENT FOLDER ARGUMENTS...

PARENT is the process id of the parent. The child is killed when the parent ends. FOLDER is a temporary folder in which
parent and child exchange files. A child that rejects its input writes the reason to `error.txt` in this folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import BandlensError
from .jobs import describe_exit, end_with_parent

ERROR_FILE = "error.txt"


def run_child(
    module: str, folder: Path, *arguments: str, timeout_s: float, error_class: type[BandlensError] = BandlensError
) -> None:
    """Run a module in a child process and wait for it. An interrupt in the parent kills the child.

    Args:
        module: Full name of a module that calls `serve_parent` when it is run.
        folder: Temporary folder in which parent and child exchange files.
        arguments: Further command-line arguments of the child.
        timeout_s: Time limit in seconds.
        error_class: Class of the error that is raised if the child rejects its input.

    Raises:
        BandlensError: The child rejected its input. The error is an `error_class` with the child's message.
        TimeoutError: The child ran for more than `timeout_s` seconds and was killed.
        ChildProcessError: The child crashed. The message contains its exit status or signal.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", module, str(os.getpid()), str(folder), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # the terminal sends Ctrl-C to the parent only, which then kills the child
    )
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"takes more than {timeout_s:.0f} s") from error
    finally:
        process.kill()
        process.wait()  # reap the child: an interrupted `subprocess.run` would leave a zombie process in a notebook
    if (refusal := folder / ERROR_FILE).exists():
        raise error_class(refusal.read_text(encoding="utf-8"))
    if process.returncode:
        raise ChildProcessError(describe_exit(process.returncode))


def serve_parent(work: Callable[..., None]) -> None:
    """Run `work` in a child process that `run_child` started, with the folder and the arguments of the command line."""
    parent, name, *arguments = sys.argv[1:]
    end_with_parent(int(parent))
    folder = Path(name)
    try:
        work(folder, *arguments)
    except BandlensError as error:
        (folder / ERROR_FILE).write_text(str(error), encoding="utf-8")


@contextmanager
def limit_memory(size: int) -> Iterator[None]:
    """Limit the address space of this process to `size` bytes within the block (Linux only).

    An allocation beyond the limit raises MemoryError. The limit is lifted before the error leaves the block, so that
    enough memory is available to report it.
    """
    if sys.platform != "linux":  # macOS accepts the limit but does not enforce it
        yield
        return
    from resource import RLIM_INFINITY, RLIMIT_AS, getrlimit, setrlimit

    soft, hard = getrlimit(RLIMIT_AS)
    setrlimit(RLIMIT_AS, (min([size, *(limit for limit in (soft, hard) if limit != RLIM_INFINITY)]), hard))
    try:
        yield
    finally:
        setrlimit(RLIMIT_AS, (soft, hard))
