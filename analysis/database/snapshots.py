"""Copies of a database for readers: DuckDB lets nobody read a file that another process writes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from ...errors import StoreError, UsageError
from ...partial_files import partial_prefix, remove_partial_files
from .store import Store

SHARE = 0.05
"""The share of a run's time that copying may take."""
COPY = "import shutil, sys; shutil.copyfile(sys.argv[1], sys.argv[2])"


def snapshots(store: Store, path: Path) -> Callable[[], bool]:
    """A function that renews the copy at `path` when it is due, and says whether it did.

    Call it between transactions. A copy takes its name when it is whole, so readers see the old one or the new one.

    Raises:
        UsageError: `path` is the database itself, or in no folder.
        StoreError: when it cannot be written, in the call.
    """
    if path.exists() and path.samefile(store.path):
        raise UsageError(f"a snapshot cannot take the place of {path}, which it is of; name another file")
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
        took = time.monotonic() - started
        due = started + took / SHARE
        return True

    return renew


def write_snapshot(store: Store, path: Path) -> None:
    """Copy the database, as it is now, to `path`."""
    store.execute("CHECKPOINT")
    try:
        with TemporaryDirectory(prefix=partial_prefix(path), dir=path.parent) as folder:
            draft = Path(folder) / path.name
            # In a process of its own: closing a file here would give up this process's lock on it.
            done = subprocess.run(
                [sys.executable, "-I", "-c", COPY, store.path, draft], capture_output=True, text=True, check=False
            )
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or [f"the copy ended with {done.returncode}"])[-1]
                raise StoreError(f"cannot write the snapshot {path}: {reason}")
            draft.replace(path)
    except OSError as error:
        raise StoreError(f"cannot write the snapshot {path}: {error.strerror}") from error
