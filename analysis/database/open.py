"""Opening, making and copying a results database: its limits, and what keeps a reader from reading anything else."""

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
"""Enough for every query of the views over 10^8 predictions; DuckDB's own default is most of the machine."""
SAFE_SETTINGS = {
    # No query, and nothing in the file or in the log beside it, can read another file or the network.
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    # Table functions can change settings, too: one of them writes a log to any file.
    "lock_configuration": "true",
    "allowed_configs": ["memory_limit", "enable_progress_bar"],
}
BLOCK_SIZE = "65536"
"""Bytes of a new file's blocks. In DuckDB's own blocks of 256 KiB a column of a row group fills a little over half."""
STORAGE_VERSION = "v1.5.0"
"""The oldest DuckDB that reads a new file. Versions before it would take more bytes for a prediction."""
COPYING_SHARE = 0.05
"""The share of a run's time that copying may take."""
COPY = "import shutil, sys; shutil.copyfile(sys.argv[1], sys.argv[2])"


def names_database(word: str) -> bool:
    """Whether a word that may name a study names a results database: it is a file, or ends about as one's name."""
    suffix = Path(word).suffix
    is_near = ":" not in suffix and bool(did_you_mean(suffix, [".duckdb"]))
    return Path(word).is_file() or suffix == ".db" or is_near


def split_against(word: str) -> tuple[Path | None, str | None]:
    """The database and the study that a word names: NAME, FILE, or FILE:NAME; None for either that it does not name."""
    path, _, name = word.rpartition(":")
    if names_database(word):
        return Path(word), None
    return (Path(path), name) if names_database(path) else (None, word)


@contextmanager
def open_store(path: Path, read_only: bool = False) -> Iterator[Store]:
    """Open a results database, or make one where there is none and it may be written.

    A new one is removed again where the block fails before it has stored a row.

    Args:
        path: the file.
        read_only: open it for a reader, whose queries can read it and nothing else.

    Raises:
        StoreError: the file is not a database, is of another schema version, has other tables than bandlens makes, or
            another process has it open; or the disk is full.
        UsageError: there is no file to read.
    """
    if not read_only:  # `progress` is a reader, and says what a killed run left
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
                error.add_note(str(path))  # the command line names it, since nobody foresaw the error
            # After a signal another thread may still be storing what was computed. A new database has one row, of meta.
            if is_new and isinstance(error, Exception):
                with suppress(duckdb.Error):
                    if connection.execute("SELECT sum(estimated_size) FROM duckdb_tables()").fetchall() == [(1,)]:
                        path.unlink()
            raise
        finally:
            views.close()


def check_side_files(path: Path) -> None:
    """Refuse a database beside which a link or a special file stands in the place of one that DuckDB would write.

    DuckDB writes NAME.wal and other logs, and spills into the folder NAME.tmp. It follows links: somebody who can put
    one beside a database would have it overwrite any file of the user.

    Raises:
        StoreError: such a name is a link, has another name too (a hard link), or is neither a file nor a folder.
    """
    for database in {path, behind_links(path)}:  # DuckDB 1 and 2 name the log after one or the other
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
    """Make a database; where another process was faster, keep that one's.

    The file gets its name when it is whole: a process that is killed on the way leaves none.
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
    """Write a database without rows, on the way to `path`, which errors name."""
    write_tables(draft, path, SCHEMA_VERSION)
    write_migrated(draft, path, SCHEMA_VERSION)


def write_tables(draft: Path, path: Path, version: int) -> None:
    """Write the empty tables of a schema version, an earlier one too; `write_migrated` makes a database of them."""
    with _connected(draft, path) as connection, explained(path):
        connection.execute(tables_of(version))
        connection.execute("INSERT INTO meta (schema_version, bandlens) VALUES (?, ?)", [version, __version__])


def write_migrated(draft: Path, path: Path, version: int) -> None:
    """Make a database of the present schema of the tables of an earlier version, or of its own, and of their rows."""
    with _connected(draft, path) as connection, explained(path):
        migrate(connection, version)
        connection.execute("CHECKPOINT")


def read_schema_version(path: Path) -> int:
    """The schema version of a database: that of this release, or an earlier one that can be migrated.

    Raises:
        StoreError: the file is not a database, is of another schema version, or lacks tables.
    """
    with (
        _connected(path, path, read_only=True) as connection,
        explained(path),
        closing(TemporaryViews(connection, read_only=True)) as views,
    ):
        return check_tables(connection, path, views.file, exact=False, migratable=True)


@contextmanager
def _connected(file: Path, path: Path, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open `file` with errors that name `path`: a draft does not have its name yet."""
    new_file = {"default_block_size": BLOCK_SIZE, "storage_compatibility_version": STORAGE_VERSION}
    config: dict[str, Any] = SAFE_SETTINGS | {"memory_limit": MEMORY_LIMIT} | new_file
    if not read_only:
        # The checkpoint at closing merges small row groups with their neighbors, and rewrites full ones to do so. Their
        # old blocks stay free inside the file: with 130,000 rows in a transaction, half of it.
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
    """Keep DuckDB from drawing a bar on standard output, between the rows of an answer that takes two seconds."""
    # In a notebook without ipywidgets there is no bar, and DuckDB raises an error for whatever the setting is set to.
    if connection.execute("SELECT current_setting('enable_progress_bar')").fetchall() == [(True,)]:
        connection.execute("SET enable_progress_bar = false")


@cache
def _spill_folder() -> TemporaryDirectory[str]:
    """The folder for what a reader's query has no memory for; private, since a query can write files to it."""
    place = Path(tempfile.gettempdir(), "bandlens-sql")
    remove_partial_files(place)  # folders of processes that were killed
    return TemporaryDirectory(prefix=partial_prefix(place), ignore_cleanup_errors=True)


@contextmanager
def attached(
    databases: Sequence[Path], draft: Path, path: Path, migratable: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to databases, attached for reading as database0 and so on, and to a draft of `path` as merged.

    They may be of earlier schema versions where these are `migratable`.

    It reaches no other file, but for those in the draft's folder, which takes what does not fit into memory.
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
    """UsageError where `path` is the database itself or a folder, or its folder is not there."""
    is_link = path.exists() and database.exists() and path.samefile(database)
    if is_link or path.resolve() == database.resolve():  # the database may not be there yet
        raise UsageError(f"a snapshot cannot take the place of {path}, which it is to be a copy of; name another file")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it: {path / 'snapshot.duckdb'}")
    if not path.parent.is_dir():
        raise UsageError(f"no folder {path.parent} for the snapshot; make it first")


def snapshots(store: Store, path: Path) -> Callable[[], bool]:
    """Make a function that renews the copy at `path` when it is due, and says whether it did.

    Call the function between transactions; it raises StoreError where the copy cannot be written. A copy takes its name
    when it is whole, so that readers see the old one or the new one.
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
    """Copy the database, as it is now, to `path`; whoever may not read it may not read the copy either."""
    store.checkpoint()
    path = behind_links(path)
    try:
        with open_draft(path) as draft:
            # Another process copies, since closing the file in this one would give up this process's lock on it.
            copy = subprocess.run(
                [sys.executable, "-I", "-c", COPY, store.path, draft], capture_output=True, text=True, check=False
            )
            if copy.returncode:
                reason = (copy.stderr.strip().splitlines() or [f"the copy ended with {copy.returncode}"])[-1]
                raise StoreError(f"cannot write the snapshot {path}: {reason}")
            take_name(draft, path, [store.path])
    except OSError as error:
        raise StoreError(f"cannot write the snapshot {path}: {words_of(error)}") from error
