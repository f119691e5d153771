"""DuckDB's messages as errors of one line that say what to do."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from ...errors import BandlensError, StoreError, UsageError, amount

NO_ROOM = {
    "No space left": "the disk is full",
    "not enough space": "the disk is full",
    "File too large": "the file may not grow further",
    "quota exceeded": "your quota is used up",
}
"""What DuckDB or the system says -> what we say."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """DuckDB's errors as ours, see `explanation`, and its word for Ctrl-C as Python's."""
    try:
        yield
    except duckdb.Error as error:
        raise explanation(path, str(error)) from error
    except RuntimeError as error:
        if str(error) == "Query interrupted":
            raise KeyboardInterrupt from error
        raise


def explanation(path: Path, message: str) -> BandlensError:
    """What DuckDB's message means, as an error of one line that says what to do."""
    line = " ".join(message.split())
    if "lock on file" in line:
        holder = re.search(r"PID (\d+)", line)
        who = f"process {holder[1]}" if holder else "another process"
        return StoreError(f"{path} is in use by {who}; wait for it to end, or name another file with --db")
    if unknown := re.search(r"unknown study '.*", line):  # what version_of says
        return UsageError(unknown[0])
    if full := next((ours for theirs, ours in NO_ROOM.items() if theirs in line), None):
        free = amount(shutil.disk_usage(path.parent).free)
        return StoreError(f"{path}: {full} ({free} free); what was committed stays: make room and run again")
    return StoreError(f"{path}: {line}")


@contextmanager
def quietly() -> Iterator[None]:
    """For rolling back and closing after a failure that is already on its way up."""
    with suppress(duckdb.Error):
        yield
