"""A database's first opening, in a process of its own: `python -m bandlens.analysis.database.trial FILE MODE PARENT`.

What a file defines can be nested so deeply that DuckDB crashes as it reads it, and the log beside it can change a table
again and again until time or memory are used up: both happen before anything can be compared. So a process with little
of either opens it first and compares its definitions with the schema's. It prints a JSON object: `error` says what is
wrong with the file or is null, and `locked` whether another process has it open. Whoever asked opens the file after
that, and compares again under its own lock.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import duckdb

from ...core.errors import StoreError
from ...core.untrusted import regular
from .catalogue import check_definitions
from .errors import explained

PROCESSOR_SECONDS = 4
"""Processor time for opening a database. A sound one of 10^8 predictions takes 0.1 s."""
SECONDS = 120.0
"""Time for the same, where the machine is busy or the disk slow."""
ADDRESS_SPACE = 3 << 28
"""Bytes of address space for opening a database, beside what the libraries take."""
PR_SET_PDEATHSIG = 1
"""Number of Linux' prctl that asks for a signal at the end of the thread that started this process."""
OUT_OF_MEMORY = 12
"""Exit code where memory does not suffice: errno.ENOMEM."""
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "threads": 1,
    "memory_limit": "500MB",
}


def try_opening(path: Path, read_only: bool) -> None:
    """StoreError for a file that is no results database as bandlens makes it, or cannot be opened."""
    mode = "read" if read_only else "write"
    command = [sys.executable, "-P", "-m", __name__, str(path), mode, str(os.getpid())]
    try:
        process = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=limited_environment(1),
            timeout=SECONDS,
        )
    except OSError:  # Python cannot be started from here; the definitions are compared once more when the file is open
        return
    except subprocess.TimeoutExpired:
        raise _unfit(path, f"takes more than {SECONDS:g} s") from None
    if process.returncode == -signal.SIGXCPU:
        raise _unfit(path, f"takes more than {PROCESSOR_SECONDS} s of processor time")
    if process.returncode < 0:
        raise _unfit(path, f"crashes DuckDB ({signal.Signals(-process.returncode).name})")
    if process.returncode == OUT_OF_MEMORY:
        raise _unfit(path, f"takes more than {ADDRESS_SPACE >> 20} MiB of memory")
    if process.returncode or not process.stdout:
        lines = process.stderr.decode(errors="replace").splitlines() or [f"exit code {process.returncode}"]
        raise _unfit(path, f"fails ({lines[-1]})")
    answer = json.loads(process.stdout)
    if answer["error"] and not answer["locked"]:
        raise StoreError(answer["error"])


def _unfit(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"{path}: opening it in a process of its own {reason}, and so it was not opened here; name another file with "
        "--db, or make a new one of its shards with `bandlens rebuild`"
    )


def limited_environment(arenas: int) -> dict[str, str]:
    """The environment of a process that calls `limit_memory`.

    glibc reserves 64 MiB of address space for each thread that allocates, and DuckDB starts many: that would use up the
    limit before anything is stored. `arenas` is how many such reservations there may be.
    """
    return os.environ | {"MALLOC_ARENA_MAX": str(arenas)}


def limit_memory(size: int) -> None:
    """Keep this process to the address space that it has now, libraries and all, and so many bytes more."""
    statm = Path("/proc/self/statm")
    if not statm.exists():  # no Linux
        return
    most = int(statm.read_text(encoding="ascii").split()[0]) * resource.getpagesize() + size
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or hard > most:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def check_magic(path: Path) -> None:
    """StoreError for a file that is none of DuckDB's: it would look for an extension that reads it, online too."""
    try:
        with regular(path).open("rb") as file:
            head = file.read(12)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", error)
        raise StoreError(f"cannot read {path}: {reason}; name another file") from error
    if not head.endswith(b"DUCK"):
        raise StoreError(f"{path} is not a DuckDB database; name another file")


def be_killed_with_parent(parent: int) -> None:
    """Have Linux kill this process when the one that waits for it is killed: it would keep the file locked."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was killed before
        os._exit(1)


def main() -> None:
    path, mode = Path(sys.argv[1]), sys.argv[2]
    be_killed_with_parent(int(sys.argv[3]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS + 1))
    limit_memory(ADDRESS_SPACE)
    error, locked = None, False
    try:
        check_magic(path)
        with explained(path):
            connection = duckdb.connect(str(path), read_only=mode == "read", config=CONFIG)
            check_definitions(connection, path)
    except StoreError as refusal:
        if isinstance(refusal.__cause__, duckdb.OutOfMemoryException):
            os._exit(OUT_OF_MEMORY)
        error, locked = str(refusal), "lock on file" in str(refusal.__cause__)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    print(json.dumps({"error": error, "locked": locked}), flush=True)
    os._exit(0)  # closing would write what the log holds into a file that was refused


if __name__ == "__main__":
    main()
