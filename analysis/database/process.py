"""Queries in a process of their own, which is killed when one takes too long, whatever DuckDB is doing just then."""

from __future__ import annotations

import json
import os
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from ...core import errors
from ...core.errors import BandlensError, StoreError, UsageError
from ...core.files import partial_prefix, remove_partial_files
from .trial import limited_environment

START_SECONDS = 60.0
"""Seconds that opening the database may take; they are no part of a query's time."""
HEADER = struct.Struct("<cQ")
"""A letter and a length, with which a frame begins: see `serve`."""
PIECE = 1 << 20
"""The most bytes that are read at once."""


class QueryProcess:
    """Answers queries of one database, one after another. A context manager."""

    def __init__(self, database: Path, seconds: float) -> None:
        """`seconds` is how long the database may take for one query; 0 is no limit."""
        self.database = database
        self.seconds = seconds
        place = Path(tempfile.gettempdir(), "bandlens-sql")
        remove_partial_files(place.parent, place.name)  # folders of processes that were killed
        self._temporary = Path(tempfile.mkdtemp(prefix=partial_prefix(place)))
        self._process: subprocess.Popen[bytes] | None = None
        self._used = 0.0
        self._answering = False

    def statements(self, sql: str) -> list[str]:
        """The statements of a text, each of which does nothing but read.

        Raises what the database raises, and UsageError for a text without statements.
        """
        with self._ask({"statements": sql}) as reader:
            return [str(statement) for statement in reader.read_all()["statement"].to_pylist()]

    @contextmanager
    def answer(
        self, sql: str, rows: int = 100_000, native: bool = False, parameters: Sequence[Any] = ()
    ) -> Iterator[pa.RecordBatchReader]:
        """The rows of a query as they come; with `native`, dates and the like in Arrow's types and not as text.

        Raises what the database raises, and StoreError where it takes too long or too much memory.
        """
        with self._ask({"sql": sql, "parameters": list(parameters), "rows": rows, "native": native}) as reader:
            yield reader

    @contextmanager
    def _ask(self, question: Mapping[str, Any]) -> Iterator[pa.RecordBatchReader]:
        try:
            line = json.dumps(question)
        except TypeError as error:
            raise UsageError(f"parameters of a query with a timeout are numbers and text: {error}") from error
        process = self._process or self._start()
        self._used, self._answering = 0.0, True
        try:
            os.write(process.stdin.fileno() if process.stdin else -1, f"{line}\n".encode())
            schema = pa.ipc.read_schema(pa.BufferReader(self._frame(self.seconds)))
            yield pa.RecordBatchReader.from_batches(schema, self._batches(schema))
        finally:
            if self._answering:  # the caller does not want the rest
                self._kill()

    def _batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        while content := self._frame(self.seconds):
            yield pa.ipc.read_record_batch(content, schema)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-P",
            "-m",
            "bandlens.analysis.database.serve",
            str(self.database),
            str(self._temporary),
        ]
        self._used = 0.0
        # The process has a session of its own, and so Ctrl-C does not reach it: this one ends it then.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=limited_environment(4),
            bufsize=0,
            start_new_session=True,
        )
        self._frame(START_SECONDS)
        return self._process

    def _frame(self, seconds: float) -> bytes:
        """Read the content of the next frame, which is empty where it ends an answer; an error in it is raised."""
        letter, length = HEADER.unpack(self._read(HEADER.size, seconds))
        content = self._read(length, seconds)
        if letter in b"ED":
            self._answering = False
        if letter == b"E":
            error = json.loads(content)
            raise _error(error["class"], error["message"])
        return content

    def _read(self, length: int, seconds: float) -> bytes:
        """Read so many bytes of the answer. The time that the caller takes between two reads does not count."""
        content = bytearray()
        stdout = self._process.stdout if self._process else None
        while stdout is not None and len(content) < length:
            started = time.monotonic()
            ready, _, _ = select.select([stdout], [], [], max(seconds - self._used, 0) if seconds else None)
            self._used += time.monotonic() - started
            if not ready:
                raise StoreError(
                    f"{self.database}: the query took more than {seconds:g} s; ask for less, or allow more with "
                    "--timeout SECONDS (timeout=SECONDS in Python)"
                )
            piece = stdout.read(min(length - len(content), PIECE))
            if not piece:
                raise StoreError(f"{self.database}: the query needs too much memory; ask for less")
            content += piece
        return bytes(content)

    def _kill(self) -> None:
        process, self._process, self._answering = self._process, None, False
        if process is not None:
            process.kill()
            process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._kill()
        shutil.rmtree(self._temporary, ignore_errors=True)


def _error(name: str, message: str) -> BandlensError:
    """Make the error that the process raised; UnknownName, which takes more than a message, becomes UsageError."""
    kind = getattr(errors, name, None)
    takes_a_message = isinstance(kind, type) and issubclass(kind, BandlensError) and kind is not errors.UnknownName
    return kind(message) if kind and takes_a_message else UsageError(message)
