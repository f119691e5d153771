"""Open, create and copy results databases.

Connections limit DuckDB's memory. They also prevent queries, and definitions in an untrusted file, from reading other
files or the network.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache
from glob import escape as glob_escape
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from ...core import __version__
from ...core.errors import BandlensError, StoreError, UsageError, did_you_mean, no_database
from ...core.files import behind_links, open_draft, partial_prefix, remove_partial_files, take_name
from ...core.untrusted import words_of
from .catalogue import SCHEMA_VERSION, TemporaryViews, text
from .errors import explained
from .schema_versions import check_tables, migrate, tables_of
from .store import Store

MEMORY_LIMIT = "2GB"
"""Memory limit of DuckDB.

It suffices for all views over 10^8 predictions. DuckDB's default is most of the system's memory.
"""
SAFE_SETTINGS = {
    # Neither a query nor the contents of the file or of its write-ahead log can access other files or the network.
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    # Some table functions change settings too. For example, one of them can write a log to any file.
    "lock_configuration": "true",
    "allowed_configs": ["memory_limit", "enable_progress_bar"],
}
BLOCK_SIZE = "65536"
"""Block size of a new file in bytes.

With DuckDB's default of 256 KiB, each column of a row group fills a block only a little more than half.
"""
STORAGE_VERSION = "v1.5.0"
"""Oldest DuckDB version that can read a new file.

The storage formats of earlier versions need more bytes per prediction.
"""
COPYING_SHARE = 0.05
"""Largest proportion of a run's time that is spent on copying snapshots."""
COPY = "import shutil, sys; shutil.copyfile(sys.argv[1], sys.argv[2])"


def names_database(word: str) -> bool:
    """Return whether a command-line argument names a results database rather than a study.

    It does if it is an existing file, or if its suffix is .db or similar to .duckdb.
    """
    suffix = Path(word).suffix
    is_near = ":" not in suffix and bool(did_you_mean(suffix, [".duckdb"]))
    return Path(word).is_file() or suffix == ".db" or is_near


def split_against(word: str) -> tuple[Path | None, str | None]:
    """Split an argument NAME, FILE or FILE:NAME into a database and a study name.

    Each of the two is None if the argument does not contain it.
    """
    path, _, name = word.rpartition(":")
    if names_database(word):
        return Path(word), None
    return (Path(path), name) if names_database(path) else (None, word)


@contextmanager
def open_store(path: Path, read_only: bool = False) -> Iterator[Store]:
    """Open a results database. If the file does not exist and may be written, create it.

    If the block fails before it has stored a row in a new database, the file is deleted again.

    Args:
        path: Path of the database file.
        read_only: Open the database for reading only. Queries can then access nothing but this file.

    Yields:
        The open database. It is closed at the end of the block.

    Raises:
        StoreError: The file is not a database, has another schema version or unexpected tables, or is open in another
            process; or the disk is full.
        UsageError: The file does not exist, and `read_only` is set.
    """
    if not read_only:  # readers leave partial files in place: `progress` reports what a killed run left behind
        check_side_files(path)
        remove_partial_files(path)
    if is_new := not path.exists():
        if read_only:
            raise no_database(path)
        if (log := path.with_name(f"{path.name}.wal")).exists():
            raise StoreError(f"{log} belongs to a database that is gone; put that back, or delete the log as well")
        create(path)
    with _connected(path, path, read_only) as connection:
        with explained(path):
            views = TemporaryViews(connection, read_only)
        try:
            with explained(path):
                check_tables(connection, path, views.file, exact=not read_only)
            yield Store(connection, path, views, read_only)
        except BaseException as error:
            if not isinstance(error, BandlensError):
                error.add_note(str(path))  # unexpected error: the command line prints this note to name the file
            # Delete a new database that has no row but the one in `meta`. Keep it after a signal (not an `Exception`),
            # because another thread may still be storing predictions.
            if is_new and isinstance(error, Exception):
                with suppress(duckdb.Error):
                    if connection.execute("SELECT sum(estimated_size) FROM duckdb_tables()").fetchall() == [(1,)]:
                        path.unlink()
            raise
        finally:
            views.close()


def check_side_files(path: Path) -> None:
    """Reject a database next to which a link or a special file has the name of a file that DuckDB would write.

    DuckDB writes NAME.wal and other logs, and spills to the folder NAME.tmp. It follows links, so whoever can create a
    link next to a database could otherwise make the user overwrite any of their files.

    Args:
        path: Path of the database file.

    Raises:
        StoreError: Such a file is a symbolic link, has several hard links, or is neither a file nor a folder.
    """
    for database in {path, behind_links(path)}:  # DuckDB 1 and 2 differ in which of the two names they use for the log
        for file in database.parent.glob(f"{glob_escape(database.name)}.*"):
            if not re.search(r"\.(wal|tmp)\b", file.name.removeprefix(database.name)):
                continue
            state = file.lstat()
            if not (S_ISDIR(state.st_mode) or (S_ISREG(state.st_mode) and state.st_nlink == 1)):
                kind = "a link" if S_ISLNK(state.st_mode) or S_ISREG(state.st_mode) else "no ordinary file"
                raise StoreError(
                    f"{file} is {kind}, and writing to {path} would write through it; remove it, then run the command "
                    "again"
                )


def create(path: Path) -> None:
    """Create an empty database, or do nothing if another process creates it first.

    The file is written under a temporary name and linked to `path` when it is complete. If the process is killed before
    that, no file remains at `path`.
    """
    if not path.parent.is_dir():
        raise UsageError(f"no folder {path.parent} for the results database; make it first")
    try:
        with open_draft(path) as draft:
            write_empty(draft, path)
            with suppress(FileExistsError):
                os.link(draft, path)
    except OSError as error:
        raise StoreError(f"cannot make {path}: {words_of(error)}; name another file") from error


def write_empty(draft: Path, path: Path) -> None:
    """Write an empty database to `draft`, a temporary file that will be renamed to `path`. Errors name `path`."""
    write_tables(draft, path, SCHEMA_VERSION)
    write_migrated(draft, path, SCHEMA_VERSION)


def write_tables(draft: Path, path: Path, version: int) -> None:
    """Write the empty tables of the current or an earlier schema version; `write_migrated` completes the database."""
    with _connected(draft, path) as connection, explained(path):
        connection.execute(tables_of(version))
        connection.execute("INSERT INTO meta (schema_version, bandlens) VALUES (?, ?)", [version, __version__])


def write_migrated(draft: Path, path: Path, version: int) -> None:
    """Migrate a database with the tables and rows of `version` to the current schema, and create its views."""
    with _connected(draft, path) as connection, explained(path):
        migrate(connection, version)
        connection.execute("CHECKPOINT")


def read_schema_version(path: Path) -> int:
    """Return the schema version of a database, which is the current one or one that can be migrated.

    Raises:
        StoreError: The file is not a database, has an unsupported schema version, or lacks tables.
    """
    with (
        _connected(path, path, read_only=True) as connection,
        explained(path),
        closing(TemporaryViews(connection, read_only=True)) as views,
    ):
        return check_tables(connection, path, views.file, exact=False, migratable=True)


@contextmanager
def _connected(file: Path, path: Path, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connect to `file`. Errors name `path`, because a temporary file does not have its final name yet."""
    new_file = {"default_block_size": BLOCK_SIZE, "storage_compatibility_version": STORAGE_VERSION}
    config: dict[str, Any] = SAFE_SETTINGS | {"memory_limit": MEMORY_LIMIT} | new_file
    if not read_only:
        # When a connection closes, DuckDB merges small row groups with their neighbors, and rewrites full row groups to
        # do so. Their old blocks remain in the file as free space: half of the file for transactions of 130,000 rows.
        config["max_vacuum_tasks"] = 0
    if read_only:
        config |= {"temp_directory": _spill_folder().name, "max_temp_directory_size": "10GB"}
    with explained(path):
        connection = duckdb.connect(str(file), read_only=read_only, config=config)
        _hide_progress(connection)
    try:
        yield connection
    finally:
        with suppress(duckdb.Error):
            connection.close()


def _hide_progress(connection: duckdb.DuckDBPyConnection) -> None:
    """Disable DuckDB's progress bar, which is printed between the rows of results that take more than two seconds."""
    # In a notebook without ipywidgets there is no bar, and DuckDB raises an error if the setting is assigned any value.
    if connection.execute("SELECT current_setting('enable_progress_bar')").fetchall() == [(True,)]:
        connection.execute("SET enable_progress_bar = false")


@cache
def _spill_folder() -> TemporaryDirectory[str]:
    """Return the temporary folder for read-only queries that exceed the memory limit.

    Each process has its own private folder, because a query can write files to it.
    """
    place = Path(tempfile.gettempdir(), "bandlens-sql")
    remove_partial_files(place)  # left behind by killed processes
    return TemporaryDirectory(prefix=partial_prefix(place), ignore_cleanup_errors=True)


@contextmanager
def attached(
    databases: Sequence[Path], draft: Path, path: Path, migratable: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connect to several databases for merging them.

    The databases are attached read-only as database0, database1 and so on, and `draft` as `merged`. The connection can
    access no other files, except in the folder of the draft, which DuckDB uses for data that exceeds the memory limit.

    Args:
        databases: Paths of the databases to merge.
        draft: Temporary file that receives the result.
        path: Final path of the result, named in errors.
        migratable: Accept databases of earlier schema versions that can be migrated.

    Yields:
        The connection.
    """
    folder = str(draft.parent)
    with explained(path), duckdb.connect(":memory:", config={"memory_limit": MEMORY_LIMIT}) as connection:
        _hide_progress(connection)
        connection.execute("SET temp_directory = ?", [folder])
        connection.execute("SET allowed_directories = ?", [[folder]])
        connection.execute("SET allowed_paths = ?", [[f"{file}{end}" for file in databases for end in ("", ".wal")]])
        connection.execute("SET enable_external_access = false; SET lock_configuration = true")
        connection.execute(f"ATTACH {text(str(draft))} AS merged")
        for number, database in enumerate(databases):
            with explained(database):
                connection.execute(f"ATTACH {text(str(database))} AS database{number} (READ_ONLY)")
                check_tables(connection, database, f"database{number}", exact=True, migratable=migratable)
        yield connection


def check_snapshot(path: Path, database: Path) -> None:
    """Check that a snapshot can be written to `path`.

    Raises:
        UsageError: `path` is the database itself or a folder, or its parent folder does not exist.
    """
    is_link = path.exists() and database.exists() and path.samefile(database)
    if is_link or path.resolve() == database.resolve():  # `samefile` needs existing files
        raise UsageError(f"a snapshot cannot take the place of {path}, which it is to be a copy of; name another file")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it: {path / 'snapshot.duckdb'}")
    if not path.parent.is_dir():
        raise UsageError(f"no folder {path.parent} for the snapshot; make it first")


def snapshots(store: Store, path: Path) -> Callable[[], bool]:
    """Return a function that updates the snapshot at `path` if it is due.

    The interval between snapshots grows with the time that copying takes; see `COPYING_SHARE`. A snapshot is written
    under a temporary name and renamed when complete, so readers see either the old or the new one.

    Args:
        store: Database to copy.
        path: Path of the snapshot.

    Returns:
        A function that returns whether it wrote a snapshot. Call it only between transactions. It raises StoreError if
            the snapshot cannot be written.
    """
    due = 0.0

    def renew() -> bool:
        nonlocal due
        start = time.monotonic()
        if start < due:
            return False
        write_snapshot(store, path)
        due = start + (time.monotonic() - start) / COPYING_SHARE
        return True

    return renew


def write_snapshot(store: Store, path: Path) -> None:
    """Copy the current state of the database to `path`, with no more permissions than the database has.

    Raises:
        StoreError: The copy cannot be written.
    """
    store.checkpoint()
    path = behind_links(path)
    try:
        with open_draft(path) as draft:
            # Copy in a separate process. POSIX releases all of a process's locks on a file when the process closes any
            # descriptor of it, so copying here would release DuckDB's lock.
            copy = subprocess.run(
                [sys.executable, "-I", "-c", COPY, store.path, draft], capture_output=True, text=True, check=False
            )
            if copy.returncode:
                reason = (copy.stderr.strip().splitlines() or [f"the copy ended with {copy.returncode}"])[-1]
                raise StoreError(f"cannot write the snapshot {path}: {reason}")
            take_name(draft, path, [store.path])
    except OSError as error:
        raise StoreError(f"cannot write the snapshot {path}: {words_of(error)}") from error
