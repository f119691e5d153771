"""Run a module in a child process that has limits, for files of others that may hang, exhaust or crash a parser.

    python -P -m MODULE PARENT FOLDER ARGUMENTS...

PARENT is the process id of the parent, with which the child ends. The two exchange files in FOLDER, a temporary one. A
child that refuses its input writes why into error.txt.
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
    """Run a module as a program on a folder, and wait for its end; an interruption kills it.

    Raises what the child refused as `error_class`, TimeoutError after `timeout_s` seconds, and ChildProcessError, whose
    message says how the process ended, for one that crashed.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", module, str(os.getpid()), str(folder), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in a terminal reaches this process, which ends that one
    )
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"takes more than {timeout_s:.0f} s") from error
    finally:
        process.kill()
        process.wait()  # an interrupted subprocess.run would leave a zombie to a notebook
    if (refusal := folder / ERROR_FILE).exists():
        raise error_class(refusal.read_text(encoding="utf-8"))
    if process.returncode:
        raise ChildProcessError(describe_exit(process.returncode))


def serve_parent(work: Callable[..., None]) -> None:
    """Do the work of a child process that `run_child` started: call `work` with the folder and the arguments."""
    parent, name, *arguments = sys.argv[1:]
    end_with_parent(int(parent))
    folder = Path(name)
    try:
        work(folder, *arguments)
    except BandlensError as error:
        (folder / ERROR_FILE).write_text(str(error), encoding="utf-8")


@contextmanager
def limit_memory(size: int) -> Iterator[None]:
    """Limit the memory of this process to `size` bytes in the block, on Linux; beyond that Python raises MemoryError.

    The limit is gone again when the error arrives outside, so that there is memory to report it.
    """
    if sys.platform != "linux":  # macOS accepts the limit and does not apply it
        yield
        return
    from resource import RLIM_INFINITY, RLIMIT_AS, getrlimit, setrlimit

    soft, hard = getrlimit(RLIMIT_AS)
    setrlimit(RLIMIT_AS, (min([size, *(limit for limit in (soft, hard) if limit != RLIM_INFINITY)]), hard))
    try:
        yield
    finally:
        setrlimit(RLIMIT_AS, (soft, hard))
