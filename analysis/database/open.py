"""Opening and making a results database: its limits, and what keeps a reader from reading or changing anything else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from ...core.errors import StoreError, UsageError, quoted
from ...core.files import partial_prefix, remove_partial_files
from ...core.version import __version__
from .catalogue import SCHEMA_VERSION, check_definitions, differences, schema
from .columns import explain_columns
from .errors import explained
from .store import Store
from .trial import try_opening

MEMORY_LIMIT = "2GB"
"""Enough for every query of the views over 10^8 predictions; DuckDB's own default is most of the machine."""
QUERY_MEMORY_LIMIT = "1GB"
"""The memory of a query that can put the rest into a temporary folder."""
CLOSED = {"enable_external_access": "false"}
"""No query, and no view or macro of the file, can read another file or the network."""
READ_ONLY = {"max_temp_directory_size": "10GB"}
"""A reader's query can fill little of the disk; `check_reading` keeps it from SET."""
LOGS = (".wal", ".wal.checkpoint", ".wal.recovery")
"""Endings of the files that DuckDB keeps beside a database until it has written what they hold into it."""
BLOCK_SIZE = "65536"
"""Bytes of a new file's blocks. In DuckDB's own blocks of 256 KiB a column of a row group fills a little over half."""


_known: dict[Path, tuple[int, ...]] = {}
"""Stamps, see `_stamp`, of databases when this process closed them, having compared their definitions before."""


def names_database(word: str) -> bool:
    """Whether a word that may name a study names a results database: it is a file, or ends as the name of one."""
    return Path(word).is_file() or Path(word).suffix in (".duckdb", ".db")


def relative_path(path: Path, base: Path) -> str:
    """The path of a database from the folder of the one it is compared with, which tells it from all other files."""
    return os.path.relpath(path.resolve(), base.resolve().parent)


@contextmanager
def open_store(path: Path, read_only: bool = False, temporary: str = "") -> Iterator[Store]:
    """Open a results database, or make one where there is none and it may be written.

    Args:
        path: the file.
        read_only: open it for a reader, whose queries can read it and nothing else.
        temporary: a folder for what does not fit into memory; by default one beside the file.

    Raises:
        StoreError: the file is not a database, is of another schema version, defines what bandlens did not make, or
            another process has it open; or the disk is full.
        UsageError: there is no file to read.
    """
    remove_partial_files(path.parent, path.name)
    made = False
    if not path.exists():
        if read_only:
            raise UsageError(f"no results database at {path}; `bandlens run STUDY.toml --db {quoted(path)}` makes one")
        if (log := path.with_name(f"{path.name}.wal")).exists():
            raise StoreError(f"{log} belongs to a database that is gone; put that back, or delete the log as well")
        made = create(path)
    stamp = _stamp(path)
    if not made and (stamp != _known.get(path) or _has_log(path)):
        try_opening(path, read_only)
    with _connected(path, path, read_only, temporary) as connection:
        with explained(path):
            check_definitions(connection, path)
        yield Store(connection, path, read_only)
    with suppress(OSError):  # whoever uses the store may have removed the file
        closed = _stamp(path)
        if closed[:2] == stamp[:2]:  # another file may have taken the name
            _known[path] = closed


def create(path: Path) -> bool:
    """Make a database, and say so; where another process was faster, keep that one's.

    The file gets its name when it is whole: a process that is killed on the way leaves none.
    """
    if not path.parent.is_dir():
        raise UsageError(f"no folder {path.parent} for the results database; make it first")
    try:
        with TemporaryDirectory(prefix=partial_prefix(path), dir=path.parent) as folder:
            draft = Path(folder) / path.name
            write_empty(draft, path)
            os.link(draft, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise StoreError(f"cannot make {path}: {error.strerror}; name another file") from error
    return True


def write_empty(draft: Path, path: Path) -> None:
    """Write a database without rows, on the way to `path`, which errors name."""
    with _connected(draft, path) as connection:
        store = Store(connection, path)
        with store.transaction():
            store.execute(schema())
            explain_columns(store)
            store.execute("INSERT INTO meta (schema_version, bandlens) VALUES (?, ?)", [SCHEMA_VERSION, __version__])
        store.execute("CHECKPOINT")


@contextmanager
def _connected(
    file: Path, path: Path, read_only: bool = False, temporary: str = ""
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open `file` with errors that name `path`: a draft does not have its name yet."""
    config: dict[str, Any] = CLOSED | {"memory_limit": MEMORY_LIMIT, "default_block_size": BLOCK_SIZE}
    if read_only:
        config |= READ_ONLY
    if temporary:
        config |= {"temp_directory": temporary, "memory_limit": QUERY_MEMORY_LIMIT}
    with explained(path):
        connection = duckdb.connect(str(file), read_only=read_only, config=config)
        # DuckDB would draw the bar on standard output, between the rows of an answer that takes two seconds.
        connection.execute("SET enable_progress_bar = false")
    try:
        yield connection
    finally:
        with suppress(duckdb.Error):
            connection.close()


@contextmanager
def copying(path: Path, folder: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to attach databases to, on the way to `path`, which errors name; `folder` takes what overflows."""
    config: dict[str, Any] = {"memory_limit": MEMORY_LIMIT, "temp_directory": folder}
    with explained(path), duckdb.connect(":memory:", config=config) as connection:
        connection.execute("SET enable_progress_bar = false")
        yield connection


def attach(
    connection: duckdb.DuckDBPyConnection, path: Path, name: str, draft: Path | None = None, read_only: bool = False
) -> None:
    """Attach a database, or its draft, and compare its definitions; StoreError where another process changes them."""
    literal = str(draft or path).replace("'", "''")
    with explained(path):
        connection.execute(f"ATTACH '{literal}' AS {name}{' (READ_ONLY)' if read_only else ''}")
    if differences(connection, name):
        raise StoreError(f"{path} changes while it is read; try again when nothing else writes it")


def _stamp(path: Path) -> tuple[int, ...]:
    """Numbers that tell a file from others, and those that change with its content."""
    about = path.stat()
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _has_log(path: Path) -> bool:
    """Whether files beside a database hold some of its content or its definitions."""
    return any(path.with_name(path.name + ending).exists() for ending in LOGS)
