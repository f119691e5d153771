"""The process that answers queries: `python -m bandlens.analysis.database.serve DATABASE TEMPORARY_FOLDER`.

It reads a JSON object a line from standard input, `{"sql", "parameters", "rows", "native"}`, or `{"statements"}`, which
asks for a row for each statement of a text. It answers with frames on standard output: a letter, a length of eight
bytes, and so many bytes. S is the schema of an answer and B a batch of rows, as Arrow's IPC has them; E an error, a
JSON object of its class and message; D ends an answer, and the opening of the database. The process may be killed at
any time.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from ...channels import end_with_parent
from ...core.errors import BandlensError, StoreError
from .open import open_store
from .store import NATIVE, PLAIN, Store
from .trial import limit_memory

ANSWERS = 1 << 30
"""Bytes of address space for an answer under way."""
DATABASE = 3_000_000_000
"""Bytes of address space for DuckDB. Its allocator keeps more than twice of QUERY_MEMORY_LIMIT while a query spills."""
LARGEST_PIECE = 1 << 26
"""The most bytes of a frame that holds more than one row."""


def main() -> None:
    database, temporary = Path(sys.argv[1]), sys.argv[2]
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries may print, and their text must not stand among the frames
    end_with_parent()  # DuckDB may be busy for hours
    limit_memory(DATABASE + ANSWERS)
    try:
        with open_store(database, read_only=True, temporary=temporary) as store:
            _send(out, b"D", b"")
            for line in sys.stdin.buffer:
                question = json.loads(line)
                try:
                    if "statements" in question:
                        statements = store.statements(question["statements"])
                        question = {"sql": "SELECT unnest($1) AS statement", "parameters": [statements]}
                    _answer(store, out, **question)
                except BandlensError as error:
                    _send_error(out, error)
    except BandlensError as error:
        _send_error(out, error)
    except MemoryError:
        _send_error(out, StoreError(f"{database}: the query needs too much memory; ask for less"))


def _answer(store: Store, out: BinaryIO, sql: str, parameters: list[Any], rows: int = 1, native: bool = False) -> None:
    with store.reader(sql, parameters, rows, NATIVE if native else PLAIN) as reader:
        _send_all(out, reader)


def _send_all(out: BinaryIO, reader: pa.RecordBatchReader) -> None:
    _send(out, b"S", reader.schema.serialize().to_pybytes())
    for batch in reader:
        for piece in _pieces(batch):
            _send(out, b"B", piece.serialize().to_pybytes())
    _send(out, b"D", b"")


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    size = max(1, batch.num_rows * LARGEST_PIECE // max(batch.nbytes, 1))
    for first in range(0, batch.num_rows, size):
        yield batch.slice(first, size)


def _send(out: BinaryIO, letter: bytes, content: bytes) -> None:
    out.write(letter + struct.pack("<Q", len(content)))
    out.write(content)
    out.flush()


def _send_error(out: BinaryIO, error: BandlensError) -> None:
    _send(out, b"E", json.dumps({"class": type(error).__name__, "message": str(error)}).encode())


if __name__ == "__main__":
    main()
