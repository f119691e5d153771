"""Answers to queries: how much of one a terminal shows, and how one is written to a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ...analysis.database.errors import NATIVE, PLAIN, readable
from ...analysis.database.spreadsheet import spreadsheet_csv
from ...analysis.database.store import Store
from ...core.errors import StoreError, UsageError, plural, writing
from ...core.files import replacing
from .tables import paper_text, print_rows

MOST_ROWS = 10_000
"""The most rows that a table on a terminal shows."""
MOST_BYTES = 1 << 26
"""The most bytes of the rows of a table on a terminal, as Arrow holds them."""


def print_answers(store: Store, query: str, seconds: float) -> None:
    """Print the answer of each statement, with a blank line between two; `seconds` as in `write_answers`."""
    for place, statement in enumerate(store.statements(query)):
        if place:
            print()
        print_answer(store, statement, seconds)


def print_answer(store: Store, query: str, seconds: float) -> None:
    """Print the first rows of an answer as a table, and how many there are."""
    with store.reader(query, rows=MOST_ROWS, types=PLAIN, seconds=seconds) as reader:
        tables = [_no_rows(reader)]
        for batch in reader:
            tables.append(pa.Table.from_batches([batch]))
            if sum(table.nbytes for table in tables) > MOST_BYTES:
                raise StoreError(f"{store.path}: the answer is too large for a table; write it to a file with --out")
            if sum(len(table) for table in tables) > MOST_ROWS:
                break
    try:
        frame = readable(pl.DataFrame(pa.concat_tables(tables)))
    except pl.exceptions.PolarsError as error:
        raise StoreError(f"{store.path}: no way to show one of the types; cast it to VARCHAR") from error
    print_rows(frame.head(MOST_ROWS).to_dicts())
    is_cut = len(frame) > MOST_ROWS
    print(f"the first {MOST_ROWS:,} rows; --out FILE gives all" if is_cut else plural(len(frame), "row"))


# Writing an answer, batch by batch as it comes


class AnswerFile(Protocol):
    """A binary file, or what takes its place."""

    def write(self, content: bytes, /) -> object: ...


class _TerminalSink:
    """Standard output as a terminal shows it: see `console.Terminal`."""

    def write(self, content: bytes, /) -> None:
        sys.stdout.write(content.decode())


BINARY = ("parquet", "arrow")
"""Formats whose files hold one answer, with types of their own."""


def write_answers(store: Store, query: str, seconds: float, answer_format: str, out: Path | None) -> None:
    """Write the answer of each statement to a file, or to standard output, with an empty line between two.

    `seconds` is how long each may take; 0 is no limit.

    UsageError where the file cannot be written, or the format holds one answer and there are several.
    """
    statements = store.statements(query)
    if len(statements) > 1 and answer_format in BINARY:
        raise UsageError(
            f"{answer_format.capitalize()} holds one answer, and these are {len(statements)} statements; give one"
        )

    def write_all(sink: AnswerFile) -> None:
        for place, statement in enumerate(statements):
            if place:
                sink.write(b"\n")
            types = NATIVE if answer_format in BINARY else PLAIN
            with store.reader(statement, types=types, seconds=seconds) as reader:
                write_answer(reader, answer_format, sink)

    if out is None:
        write_all(_TerminalSink() if sys.stdout.isatty() else sys.stdout.buffer)
    else:
        # Who may not read the database may not read what is in it either.
        with (
            writing(out, "name another file with --out"),
            replacing(out, [store.path]) as temporary,
            temporary.open("wb") as sink,
        ):
            write_all(sink)


def write_answer(reader: pa.RecordBatchReader, file_format: str, sink: AnswerFile) -> None:
    """Write the rows as csv, tsv (with a header line), markdown, latex, json (a list of objects), parquet, or arrow."""
    try:
        WRITERS[file_format](reader, sink)
    except pl.exceptions.PolarsError as error:
        raise UsageError(
            f"the answer cannot be written as {file_format}: {error}; cast the column, or use json"
        ) from error
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UsageError(f"the answer cannot be written as {file_format}: {error}; cast it to VARCHAR") from error


def _csv(reader: pa.RecordBatchReader, sink: AnswerFile, separator: str = ",") -> None:
    sink.write(spreadsheet_csv(_frame(_no_rows(reader)), separator=separator).encode())
    for batch in reader:
        sink.write(spreadsheet_csv(_frame(batch), include_header=False, separator=separator).encode())


def _paper(reader: pa.RecordBatchReader, sink: AnswerFile, table_format: str) -> None:
    columns = _frame(reader.read_all()).to_dict(as_series=False)
    sink.write(f"{paper_text(columns, table_format)}\n".encode())


def _json(reader: pa.RecordBatchReader, sink: AnswerFile) -> None:
    separator = b"["
    for batch in reader:
        if batch.num_rows:
            sink.write(separator + _frame(batch).write_json().encode()[1:-1])
            separator = b",\n"
    sink.write(b"]\n" if separator != b"[" else b"[]\n")


def _batches(
    reader: pa.RecordBatchReader, sink: AnswerFile, open_writer: Callable[[AnswerFile, pa.Schema], Any]
) -> None:
    with open_writer(sink, reader.schema) as writer:
        for batch in reader:
            batch.validate(full=True)  # DuckDB's whole numbers of 128 bits go beyond Arrow's decimals
            writer.write_batch(batch)


def _no_rows(reader: pa.RecordBatchReader) -> pa.Table:
    # Arrow's own empty table imports pandas wherever it is installed, which takes longer than a query.
    return pa.Table.from_batches([], schema=reader.schema)


def _frame(rows: pa.RecordBatch | pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(rows)
    return readable(frame if isinstance(frame, pl.DataFrame) else frame.to_frame())


WRITERS: Mapping[str, Callable[[pa.RecordBatchReader, AnswerFile], None]] = {
    "csv": _csv,
    "tsv": partial(_csv, separator="\t"),
    "markdown": partial(_paper, table_format="markdown"),
    "latex": partial(_paper, table_format="latex"),
    "json": _json,
    "parquet": partial(_batches, open_writer=pq.ParquetWriter),
    "arrow": partial(_batches, open_writer=pa.ipc.new_stream),
}
