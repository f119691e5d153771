"""Opening and making a results database: its schema version, its limits, and what keeps a reader from anything else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from ...errors import StoreError, UsageError
from ...partial_files import partial_prefix, remove_partial_files
from ...untrusted import regular
from ...version import __version__
from .catalogue import schema
from .columns import explain_columns
from .errors import explained, quietly
from .store import Store

SCHEMA_VERSION = 6
MEMORY_LIMIT = "2GB"
"""Enough for every query of the views over 10^8 predictions; DuckDB's own default is most of the machine."""
CLOSED = {"enable_external_access": "false"}
"""No query, and no view or macro of the file, can read another file or the network."""
READ_ONLY = {"max_temp_directory_size": "10GB"}
"""A reader's query can fill little of the disk; `check_reading` keeps it from SET."""
PLAIN_META = "SELECT sql NOT ILIKE '%GENERATED%' AS plain FROM duckdb_tables() WHERE table_name = 'meta'"
BLOCK_SIZE = "65536"
"""Bytes of a new file's blocks. In DuckDB's own blocks of 256 KiB a column of a row group fills a little over half."""


def names_database(word: str) -> bool:
    """Whether a word that may name a study names a results database: a file, or what is called as one."""
    return Path(word).is_file() or Path(word).suffix in (".duckdb", ".db")


@contextmanager
def open_store(path: Path, read_only: bool = False, temporary: str = "") -> Iterator[Store]:
    """Open a results database, or make one where there is none and it may be written.

    Args:
        path: the file.
        read_only: as for a reader, whose queries can read it and nothing else.
        temporary: a folder for what does not fit into memory; one beside the file by default.

    Raises:
        StoreError: it is not a database, of another schema version, holds what bandlens did not make, is held by
            another process, or the disk is full.
        UsageError: it is to be read and does not exist.
    """
    remove_partial_files(path.parent, path.name)
    if not path.exists():
        if read_only:
            raise UsageError(f"no results database at {path}; `bandlens run STUDY.toml --db {path}` makes one")
        if (log := path.with_name(f"{path.name}.wal")).exists():
            raise StoreError(f"{log} belongs to a database that is gone; put that back, or delete the log as well")
        create(path)
    check_magic(path)
    with connected(path, path, read_only, temporary) as store:
        _check_schema(store)
        yield store


def create(path: Path) -> None:
    """Make a database. It gets its name when it is whole: being killed on the way leaves none."""
    if not path.parent.is_dir():
        raise UsageError(f"no folder {path.parent} for the results database; make it first")
    try:
        with TemporaryDirectory(prefix=partial_prefix(path), dir=path.parent) as folder:
            draft = Path(folder) / path.name
            with connected(draft, path) as store:
                with store.transaction():
                    store.execute(schema())
                    explain_columns(store)
                    store.execute(
                        "INSERT INTO meta (schema_version, bandlens) VALUES (?, ?)", [SCHEMA_VERSION, __version__]
                    )
                store.execute("CHECKPOINT")
            with suppress(FileExistsError):  # another process was faster, and its database stays
                os.link(draft, path)
    except OSError as error:
        raise StoreError(f"cannot make {path}: {error.strerror}; name another file with --db") from error


@contextmanager
def connected(file: Path, path: Path, read_only: bool = False, temporary: str = "") -> Iterator[Store]:
    """Open `file` as a store whose errors name `path`: a draft is not yet what it will be called."""
    config: dict[str, Any] = CLOSED | {"memory_limit": MEMORY_LIMIT, "default_block_size": BLOCK_SIZE}
    if read_only:
        config |= READ_ONLY
    if temporary:
        config["temp_directory"] = temporary
    with explained(path):
        connection = duckdb.connect(str(file), read_only=read_only, config=config)
        # It would be drawn on standard output, between the rows of an answer that takes two seconds.
        connection.execute("SET enable_progress_bar = false")
    try:
        yield Store(connection, path, read_only)
    finally:
        with quietly():
            connection.close()


def check_magic(path: Path) -> None:
    """DuckDB itself would look for an extension that reads the file, on the network too."""
    try:
        with regular(path).open("rb") as file:
            head = file.read(12)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", error)
        raise StoreError(f"cannot read {path}: {reason}; name another file with --db") from error
    if not head.endswith(b"DUCK"):
        raise StoreError(f"{path} is not a DuckDB database; name another file with --db")


def _check_schema(store: Store) -> None:
    """StoreError for a file that holds no results, those of another schema, or anything that bandlens did not make."""
    with explained(store.path):
        differing = store.differences()
    if differing.get(("table", "meta")) == "missing":
        raise StoreError(f"{store.path} is a DuckDB file but not a results database; name another file with --db")
    # A generated column would be computed as it is read.
    plain = store.frame(PLAIN_META)["plain"].all()
    about = store.frame("SELECT schema_version, bandlens FROM meta").rows() if plain else [(SCHEMA_VERSION, "")]
    version, made_by = about[0] if about else (None, None)
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{store.path} has schema version {version} (written by bandlens {made_by}), and this is version "
            f"{SCHEMA_VERSION}; run the study again with a new --db, or make one of its shards with `bandlens rebuild`"
        )
    if differing:
        what = ", ".join(f"{kind} {name} ({how})" for (kind, name), how in differing.items())
        raise StoreError(
            f"{store.path} is not as bandlens made it, and nothing of it was run: {what}; put that right with DuckDB, "
            "or make a new one of its shards with `bandlens rebuild`"
        )
