"""Copies of a database for readers, since DuckDB lets nobody read a file that another process writes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from ...core.errors import StoreError, UsageError
from ...core.files import behind_links, partial_prefix, remove_partial_files, take_name
from .store import Store

SHARE = 0.05
"""The share of a run's time that copying may take."""
COPY = "import shutil, sys; shutil.copyfile(sys.argv[1], sys.argv[2])"


def snapshots(store: Store, path: Path) -> Callable[[], bool]:
    """Make a function that renews the copy at `path` when it is due, and says whether it did.

    Call the function between transactions; it raises StoreError where the copy cannot be written. A copy takes its name
    when it is whole, so that readers see the old one or the new one.

    Raises UsageError where `path` is the database itself, or its folder is not there.
    """
    if path.exists() and path.samefile(store.path):
        raise UsageError(f"a snapshot cannot take the place of {path}, which it is to be a copy of; name another file")
    if not path.parent.is_dir():
        raise UsageError(f"no folder {path.parent} for the snapshot; make it first")
    remove_partial_files(path.parent, path.name)
    due = 0.0

    def renew() -> bool:
        nonlocal due
        started = time.monotonic()
        if started < due:
            return False
        write_snapshot(store, path)
        seconds = time.monotonic() - started
        due = started + seconds / SHARE
        return True

    return renew


def write_snapshot(store: Store, path: Path) -> None:
    """Copy the database, as it is now, to `path`."""
    store.checkpoint()
    path = behind_links(path)
    try:
        with TemporaryDirectory(prefix=partial_prefix(path), dir=path.parent) as folder:
            draft = Path(folder) / path.name
            # Another process copies, since closing the file in this one would give up this process's lock on it.
            copy = subprocess.run(
                [sys.executable, "-I", "-c", COPY, store.path, draft], capture_output=True, text=True, check=False
            )
            if copy.returncode:
                reason = (copy.stderr.strip().splitlines() or [f"the copy ended with {copy.returncode}"])[-1]
                raise StoreError(f"cannot write the snapshot {path}: {reason}")
            take_name(draft, path)
    except OSError as error:
        raise StoreError(f"cannot write the snapshot {path}: {error.strerror}") from error
