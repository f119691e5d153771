"""The answer to a query, written batch by batch as it comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ..analysis.store import readable
from ..errors import UsageError


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
