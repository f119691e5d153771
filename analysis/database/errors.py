"""Translate DuckDB errors, limit query time, and convert results to types that clients support."""

from __future__ import annotations

import math
import re
import shutil
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from ...core.errors import BandlensError, StoreError, UsageError, amount, quoted
from .catalogue import identifier

if TYPE_CHECKING:
    import polars as pl

PLAIN = frozenset(
    {
        *("boolean", "tinyint", "smallint", "integer", "bigint", "hugeint", "utinyint", "usmallint", "uinteger"),
        *("ubigint", "float", "double", "varchar", "decimal", "uuid", "list", "array", "struct"),
    }
)
"""DuckDB types that any client can represent.

Containers (list, array, struct) qualify if the types of their elements do.
"""
NATIVE = PLAIN | {
    *("null", "blob", "date", "time", "time_ns", "timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns"),
    *("timestamp with time zone", "timestamptz_ns", "map"),
}
"""DuckDB types that Arrow and Parquet represent without loss.

Other types are converted to text. For example, Arrow times have no time zone, and Arrow decimals are signed.
"""
MEANINGS = {
    # Within one process, DuckDB opens a file either for reading or for writing, not both at once.
    "different configuration": (
        "{path} is open in this program, to read where it is now to be written or the other way round; close that "
        "first, or read the copy that a run's snapshot keeps"
    ),
    "Could not read enough bytes|Corrupt database": (
        "{path} is cut off or damaged; take the copy of a snapshot, or run again with a new --db"
    ),
    "not a valid DuckDB database file|Loading external extensions|in-memory database in read-only": (
        "{path} is not a DuckDB database; name another file"
    ),
    "Is a directory": "{path} is a folder; name the file of a database",
    "Could not convert string .* to UINT16": (
        "{path}: classes are numbers; the view shown_class has the number of each name"
    ),
    "Out of Memory Error": "{path}: the query needs too much memory; ask for less",
    "Permission denied|Read-only file system": (
        "Permission denied for {path} or a file beside it; change the permissions of the file and of its folder, or "
        "copy it to a folder of your own and name the copy"
    ),
}
"""Regular expression for a DuckDB message -> message of the error that bandlens raises."""
NO_ROOM = {
    "No space left": "the disk is full",
    "not enough space": "the disk is full",
    "File too large": "the file may not grow further",
    "quota exceeded": "your quota is used up",
}
"""Text that DuckDB or the operating system reports if there is no disk space -> reason in the error message."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Translate DuckDB errors that the block raises; see `explanation`.

    Args:
        path: Database file to name in the message.

    Raises:
        BandlensError: DuckDB raised an error.
        KeyboardInterrupt: DuckDB was interrupted with Ctrl-C, which it reports as a RuntimeError.
    """
    try:
        yield
    except duckdb.Error as error:
        raise explanation(path, str(error)) from error
    except RuntimeError as error:
        if str(error) == "Query interrupted":
            raise KeyboardInterrupt from error
        raise


def _is_explorer(process: str) -> bool:
    """Return whether a process runs the explorer. Return False if the system does not expose its command line."""
    try:
        return b"explore" in Path("/proc", process, "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def explanation(path: Path, message: str) -> BandlensError:
    """Return a one-line error that explains a DuckDB message and suggests a fix."""
    line = " ".join(message.split())
    if "lock on file" in line:
        holder = re.search(r"PID (\d+)", line)
        if holder and _is_explorer(holder[1]):
            return StoreError(
                f"{path} is in use by process {holder[1]}, an explorer that has it open: end it with Ctrl-C"
            )
        user = f"process {holder[1]}" if holder else "another process"
        return StoreError(
            f"{path} is in use by {user}; wait for it to end, read the copy that `bandlens run --snapshot FILE` keeps, "
            f"or name another file; `bandlens progress --db {quoted(path)}` says how far a run is"
        )
    if re.search("replaying WAL|Corrupt WAL|WAL does not match", line):
        log, since = path.with_name(f"{path.name}.wal"), datetime.fromtimestamp(path.stat().st_mtime)
        return StoreError(
            f"{log} is damaged, the log of what was last committed to {path}: move it away, which loses what was "
            f"committed after {since:%Y-%m-%d %H:%M:%S}, then run again; or take the copy of a snapshot"
        )
    if path.suffix == ".toml":
        return UsageError(
            f"{path} is a study file, no results database; name the database that it was run into, in which the study "
            f"is called {path.stem}"
        )
    for pattern, meaning in MEANINGS.items():
        if re.search(pattern, line):
            return StoreError(meaning.format(path=path))
    if unknown := re.search(r"unknown study '.*", line):  # the macro version_of raises it
        return UsageError(unknown[0])
    if reason := next((reason for words, reason in NO_ROOM.items() if words in line), None):
        free = amount(shutil.disk_usage(path.parent).free)
        return StoreError(f"{path}: {reason} ({free} free); what was committed stays: make room and run again")
    return StoreError(f"{path}: {line}")


class TimeLimit:
    """Time limit for one query.

    The limit covers running the query, fetching its rows, and the processor time that the caller spends on the rows. It
    excludes the time that the caller waits, for example for the process that reads from a pipe.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path, seconds: float) -> None:
        """Create a time limit.

        Args:
            connection: Connection that runs the query.
            path: Database file to name in the error message.
            seconds: The limit in seconds; 0 for no limit.
        """
        self._connection, self._path, self._seconds = connection, path, seconds
        self._left = seconds or math.inf

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the time of the block, and interrupt its query when the limit is reached.

        Raises:
            StoreError: The limit was exceeded.
        """
        start, end = time.monotonic(), threading.Event()
        watcher = threading.Thread(target=self._watch, args=[end], daemon=True)
        if self._seconds:
            watcher.start()
        try:
            if self._left <= 0:
                raise TimeoutError
            yield
        except Exception as error:
            if time.monotonic() - start < self._left:
                raise
            raise StoreError(
                f"{self._path}: the query took more than {self._seconds:g} s; ask for less, or allow more with "
                "--timeout SECONDS (timeout=SECONDS in Python)"
            ) from error
        finally:
            end.set()
            if self._seconds:
                watcher.join()
            self._left -= time.monotonic() - start

    def _watch(self, end: threading.Event) -> None:
        end.wait(max(0, self._left))
        while not end.wait(0.02):
            self._connection.interrupt()  # repeat: DuckDB drops an interrupt if the query has not started

    def batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        """Yield the batches of `reader` as they arrive, counting the time to fetch and to process them."""
        while True:
            with self.counted():
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    return
            start = time.thread_time()
            yield batch
            self._left -= time.thread_time() - start


def is_made_of(kind: duckdb.sqltypes.DuckDBPyType, types: Collection[str]) -> bool:
    """Return whether a type, and the types of all its elements, are among `types`."""
    parts = kind.children if kind.id in ("list", "array", "struct", "map") else ()
    # The children of an array type include its length, which is not a type.
    kinds = [part for _, part in parts if isinstance(part, duckdb.sqltypes.DuckDBPyType)]
    is_empty = kind.id == "struct" and not kinds  # Parquet cannot store it
    return kind.id in types and not is_empty and all(is_made_of(part, types) for part in kinds)


def with_text(relation: duckdb.DuckDBPyRelation, types: Collection[str]) -> duckdb.DuckDBPyRelation:
    """Cast columns that are not made of `types` to text, and make column names unique.

    DuckDB compares column names without regard to case.
    """
    if len({name.lower() for name in relation.columns}) < len(relation.columns):
        relation = relation.project("*")  # DuckDB appends numbers to duplicate names
    texts = [
        f"{identifier(name)}::VARCHAR AS {identifier(name)}"
        for name, kind in zip(relation.columns, relation.types, strict=True)
        if not is_made_of(kind, types)
    ]
    return relation.project(f"* REPLACE ({', '.join(texts)})") if texts else relation


def readable(rows: pl.DataFrame) -> pl.DataFrame:
    """Cast decimals without fractional digits to integers.

    DuckDB returns sums of integers as decimals, and JSON would represent decimals as strings.
    """
    import polars as pl

    decimals = [name for name, kind in rows.schema.items() if isinstance(kind, pl.Decimal) and kind.scale == 0]
    return rows.with_columns(pl.col(decimals).cast(pl.Int128)) if decimals else rows
