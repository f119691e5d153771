"""Answers to queries: within a time, and of types that whoever reads tables can hold."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import duckdb
import pyarrow as pa

from ...core.errors import StoreError

if TYPE_CHECKING:
    import polars as pl

PLAIN = frozenset(
    {
        *("boolean", "tinyint", "smallint", "integer", "bigint", "hugeint", "utinyint", "usmallint", "uinteger"),
        *("ubigint", "float", "double", "varchar", "decimal", "uuid", "list", "array", "struct"),
    }
)
"""Types whose every value any reader of tables can hold, or which are made of others."""
NATIVE = PLAIN | {
    *("null", "blob", "date", "time", "time_ns", "timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns"),
    *("timestamp with time zone", "timestamptz_ns", "map"),
}
"""Types whose values Arrow and Parquet hold whole. Arrow's times lack a zone, and its decimals are signed."""


class TimeLimit:
    """The seconds that a connection may take for one answer, a context manager.

    What the caller does between two parts of the answer does not count.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path, seconds: float) -> None:
        """`seconds` is the limit; 0 is none."""
        self._connection, self._path, self._seconds = connection, path, seconds
        self._used, self._start, self._exceeded = 0.0, math.inf, False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            if self._used + time.monotonic() - self._start > self._seconds:
                self._exceeded = True
                self._connection.interrupt()  # again and again: a query that has yet to begin forgets it

    def __enter__(self) -> Self:
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._seconds:
            self._thread.join()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the time of the block; StoreError where the limit interrupts its query."""
        self._start = time.monotonic()
        try:
            yield
        except Exception as error:
            if not self._exceeded:
                raise
            raise StoreError(
                f"{self._path}: the query took more than {self._seconds:g} s; ask for less, or allow more with "
                "--timeout SECONDS (timeout=SECONDS in Python)"
            ) from error
        finally:
            self._used += time.monotonic() - self._start
            self._start = math.inf

    def batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        """The rows of an answer as they come."""
        while True:
            with self.counted():
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    return
            yield batch


def is_made_of(kind: duckdb.sqltypes.DuckDBPyType, types: Collection[str]) -> bool:
    """Whether a type is one of `types`, with all that it is made of."""
    parts = kind.children if kind.id in ("list", "array", "struct", "map") else ()
    # The length of an array is among its parts.
    kinds = [part for _, part in parts if isinstance(part, duckdb.sqltypes.DuckDBPyType)]
    is_empty = kind.id == "struct" and not kinds  # Parquet holds none
    return kind.id in types and not is_empty and all(is_made_of(part, types) for part in kinds)


def with_text(relation: duckdb.DuckDBPyRelation, types: Collection[str]) -> Iterator[str]:
    """The columns by their places, since names may be there twice; those that are not made of `types` as text.

    To DuckDB names are the same that differ in case alone.
    """
    used_names: set[str] = set()
    for place, (name, kind) in enumerate(zip(relation.columns, relation.types, strict=True), start=1):
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        free = next(free for free in itertools.chain([name], numbered) if free.lower() not in used_names)
        used_names.add(free.lower())
        quoted = free.replace('"', '""')
        yield f'#{place}{"" if is_made_of(kind, types) else "::VARCHAR"} AS "{quoted}"'


def readable(rows: pl.DataFrame) -> pl.DataFrame:
    """A sum of whole numbers is a decimal to DuckDB, which JSON would hold as a string: make it a whole number."""
    import polars as pl

    decimals = [name for name, kind in rows.schema.items() if isinstance(kind, pl.Decimal) and kind.scale == 0]
    return rows.with_columns(pl.col(decimals).cast(pl.Int128))
