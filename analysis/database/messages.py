"""DuckDB's messages as errors of one line that say what to do."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from ...core.errors import BandlensError, StoreError, UsageError, amount, quoted

NO_ROOM = {
    "No space left": "the disk is full",
    "not enough space": "the disk is full",
    "File too large": "the file may not grow further",
    "quota exceeded": "your quota is used up",
}
"""How DuckDB or the system says that there is no room -> how our error says it."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise DuckDB's errors as ours, see `explanation`, and its error after Ctrl-C as KeyboardInterrupt."""
    try:
        yield
    except duckdb.Error as error:
        raise explanation(path, str(error)) from error
    except RuntimeError as error:
        if str(error) == "Query interrupted":
            raise KeyboardInterrupt from error
        raise


def explanation(path: Path, message: str) -> BandlensError:
    """Give an error of one line that says what DuckDB's message means, and what to do."""
    line = " ".join(message.split())
    if "lock on file" in line:
        holder = re.search(r"PID (\d+)", line)
        user = f"process {holder[1]}" if holder else "another process"
        return StoreError(
            f"{path} is in use by {user}; wait for it to end, read the copy that `bandlens run --snapshot FILE` keeps, "
            f"or name another file; `bandlens progress --db {quoted(path)}` says how far a run is"
        )
    if "different configuration" in line:  # DuckDB opens a file once in a program, to read or to write
        return StoreError(
            f"{path} is open in this program, to read where it is now to be written or the other way round; close that "
            "first, or read the copy that a run's snapshot keeps"
        )
    if "Could not read enough bytes" in line or "Corrupt database" in line:
        return StoreError(f"{path} is cut off or damaged; take the copy of a snapshot, or run again with a new --db")
    if "not a valid DuckDB database file" in line or "Loading external extensions" in line:
        return StoreError(f"{path} is not a DuckDB database; name another file")
    if "Out of Memory Error" in line:
        return StoreError(f"{path}: the query needs too much memory; ask for less")
    if "Permission denied" in line or "Read-only file system" in line:
        return StoreError(
            f"Permission denied for {path} or a file beside it; change the permissions of the file and of its folder, "
            "or copy it to a folder of your own and name the copy"
        )
    if unknown := re.search(r"unknown study '.*", line):  # the macro version_of raises it
        return UsageError(unknown[0])
    if reason := next((reason for words, reason in NO_ROOM.items() if words in line), None):
        free = amount(shutil.disk_usage(path.parent).free)
        return StoreError(f"{path}: {reason} ({free} free); what was committed stays: make room and run again")
    return StoreError(f"{path}: {line}")
