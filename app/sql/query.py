"""Queries of a user: how long they may take, how much of an answer a terminal shows, and how one is written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ...analysis.database.store import Store, readable
from ...errors import StoreError, UsageError
from ..console import print_rows

MOST_ROWS = 10_000
"""The most rows that a table on a terminal shows."""
MOST_BYTES = 1 << 26
"""The most bytes of such a table's rows, as Arrow holds them."""


@dataclass
class TimeLimit:
    """What the database may still take for one query; the time of whoever reads the answer does not count."""

    store: Store
    seconds: float
    """0 is no limit."""
    used: float = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """A block in which the database works. StoreError once all such blocks together have taken too long."""
        if not self.seconds:
            yield
            return
        over = threading.Event()

        def end() -> None:
            over.set()
            self.store.interrupt()

        timer = threading.Timer(max(0, self.seconds - self.used), end)
        timer.daemon = True
        started = time.monotonic()
        timer.start()
        try:
            yield
        except Exception as error:
            if over.is_set():
                raise StoreError(
                    f"{self.store.path}: the query took more than {self.seconds:g} s; ask for less, or allow more "
                    "with --timeout SECONDS"
                ) from error
            raise
        finally:
            timer.cancel()
            self.used += time.monotonic() - started


@contextmanager
def answer(store: Store, query: str, seconds: float, rows: int = 100_000) -> Iterator[pa.RecordBatchReader]:
    """The rows of a query as they come, within so many seconds of the database's time."""
    limit = TimeLimit(store, seconds)

    def batches(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        while True:
            with limit.running():
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    return
            yield batch

    with ExitStack() as stack:
        with limit.running():
            reader = stack.enter_context(store.reader(query, rows))
        yield pa.RecordBatchReader.from_batches(reader.schema, batches(reader))


def print_answer(store: Store, query: str, seconds: float) -> None:
    """Print the first rows of an answer as a table, and how many there are."""
    with answer(store, query, seconds, MOST_ROWS) as reader:
        found = [reader.schema.empty_table()]
        for batch in reader:
            found.append(pa.Table.from_batches([batch]))
            if sum(table.nbytes for table in found) > MOST_BYTES:
                raise StoreError(f"{store.path}: the answer is too large for a table; write it to a file with --out")
            if sum(len(table) for table in found) > MOST_ROWS:
                break
    try:
        frame = readable(pl.DataFrame(pa.concat_tables(found)))
    except pl.exceptions.PolarsError as error:
        raise StoreError(f"{store.path}: no way to show one of the types; cast it to VARCHAR") from error
    print_rows(frame.head(MOST_ROWS).to_dicts())
    more = len(frame) > MOST_ROWS
    print(f"the first {MOST_ROWS:,} rows; --out FILE gives all" if more else f"{len(frame):,} rows")


# Writing an answer, batch by batch as it comes


def write_answer(reader: pa.RecordBatchReader, chosen: str, sink: BinaryIO) -> None:
    """Write the rows as csv (with a header line), json (a list of objects), parquet, or arrow (an IPC stream)."""
    try:
        WRITERS[chosen](reader, sink)
    except pl.exceptions.PolarsError as error:
        raise UsageError(f"the answer cannot be written as {chosen}: {error}; cast the column, or use json") from error
    except pa.ArrowNotImplementedError as error:
        raise UsageError(f"the answer cannot be written as {chosen}: {error}; cast it to VARCHAR") from error


def _csv(reader: pa.RecordBatchReader, sink: BinaryIO) -> None:
    sink.write(_frame(reader.schema.empty_table()).write_csv().encode())
    for batch in reader:
        _frame(batch).write_csv(sink, include_header=False)


def _json(reader: pa.RecordBatchReader, sink: BinaryIO) -> None:
    before = b"["
    for batch in reader:
        if batch.num_rows:
            sink.write(before + _frame(batch).write_json().encode()[1:-1])
            before = b",\n"
    sink.write(b"]\n" if before != b"[" else b"[]\n")


def _parquet(reader: pa.RecordBatchReader, sink: BinaryIO) -> None:
    with pq.ParquetWriter(sink, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


def _arrow(reader: pa.RecordBatchReader, sink: BinaryIO) -> None:
    with pa.ipc.new_stream(sink, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


def _frame(rows: pa.RecordBatch | pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(rows)
    return readable(frame if isinstance(frame, pl.DataFrame) else frame.to_frame())


WRITERS: Mapping[str, Callable[[pa.RecordBatchReader, BinaryIO], None]] = {
    "csv": _csv,
    "json": _json,
    "parquet": _parquet,
    "arrow": _arrow,
}
