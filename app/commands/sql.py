"""`bandlens sql`."""

from __future__ import annotations

import math
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from ...errors import UsageError
from ...untrusted import read_text
from .options import Database

if TYPE_CHECKING:
    from ...analysis.database.process import QueryProcess


class Format(StrEnum):
    table = "table"
    csv = "csv"
    tsv = "tsv"
    markdown = "markdown"
    latex = "latex"
    json = "json"
    parquet = "parquet"
    arrow = "arrow"


LONGEST = 1 << 24
"""Bytes of a query in a file."""
STDIN = Path("-")
BINARY = (Format.parquet, Format.arrow)


def sql(
    query: Annotated[
        str | None,
        typer.Argument(help="A SELECT, or several with ; between them, in DuckDB's SQL.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", metavar="FILE", help="Statements from a file; - is standard input."),
    ] = None,
    db: Database = Path("results.duckdb"),
    format: Annotated[  # noqa: A002
        Format | None,
        typer.Option("--format", help="How to write the answer.", show_default="by the ending of --out, or table"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A file instead of the terminal.", show_default=False)
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="A prompt with history and completion instead of one query.")
    ] = False,
    line: Annotated[bool, typer.Option("--line", help="Show each row as lines of field and value.")] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0, help="How long a query may take; 0 is no limit.")
    ] = 60,
) -> None:
    """Ask the results database. The query can read it and nothing else: no other file, no network, no change.

    Views: accuracy, curve, flip, metric. Tables: prediction, cell, checkpoint, image_set, image, label, condition, …

    Several statements are answered one after another, with an empty line between two answers. Without --db, it is the
    database that $BANDLENS_DB names.

    Example: bandlens sql -f query.sql --format markdown

    Example: bandlens sql "SELECT probe, cutoff, top1 FROM accuracy ORDER BY ALL" --format csv
    """
    if (query is not None) + (file is not None) + interactive != 1:
        raise UsageError('give one query, such as "FROM accuracy", or a --file with one, or --interactive')
    chosen = format or Format.__members__.get(out.suffix.removeprefix(".") if out else "", Format.table)
    if out is not None and chosen == Format.table:
        raise UsageError(
            f"cannot write {out} as a table; give --format csv, tsv, markdown, latex, json, parquet or arrow"
        )
    if out is None and chosen in BINARY and sys.stdout.isatty():
        raise UsageError(f"{chosen.capitalize()} is not for a terminal; name a file with --out")
    if not math.isfinite(timeout):
        raise UsageError(f"--timeout is a number of seconds, or 0 for no limit, not {timeout}")
    if query is not None:
        query = _text(query)
    if file is not None:
        query = _content(file)
    if not db.exists():
        raise UsageError(f"no results database at {db}; `bandlens run STUDY.toml --db {db}` makes one")
    from ...analysis.database.process import QueryProcess

    with QueryProcess(db, timeout) as process:
        if query is None:
            _interact(db, process)
        elif chosen == Format.table:
            from ..sql.query import print_answers

            print_answers(process, query, line)
        else:
            _write(process, query, chosen, out)


def _text(query: str) -> str:
    """The query as it was typed, whatever the locale took its bytes for; UsageError where they are no UTF-8."""
    try:
        return os.fsencode(query).decode()
    except UnicodeError:
        raise UsageError("the query is not UTF-8; write it in that encoding") from None


def _content(file: Path) -> str:
    """The query in a file, or in what is piped in; UsageError where it cannot be read."""
    try:
        return read_text(Path("/dev/stdin") if file == STDIN else file, LONGEST, pipe=True)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot read a query from {file}: {why}; give --file a text file of SQL") from None


def _interact(db: Path, process: QueryProcess) -> None:
    from ...analysis.database.open import open_store
    from ...export.files import home
    from ..sql.shell import shell

    home().mkdir(parents=True, exist_ok=True)
    with open_store(db, read_only=True) as store:
        shell(store, process, home() / "sql_history")


def _write(process: QueryProcess, query: str, chosen: Format, out: Path | None) -> None:
    from ...export.files import replacing
    from ..sql.query import write_answer

    statements = process.statements(query)
    if len(statements) > 1 and chosen in BINARY:
        raise UsageError(
            f"{chosen.capitalize()} holds one answer, and these are {len(statements)} statements; give one"
        )

    def write_all(sink: BinaryIO) -> None:
        for place, statement in enumerate(statements):
            if place:
                sink.write(b"\n")
            with process.answer(statement, native=chosen in BINARY) as reader:
                write_answer(reader, chosen, sink)

    try:
        if out is None:
            write_all(sys.stdout.buffer)
        else:
            with replacing(out) as temporary, temporary.open("wb") as sink:
                write_all(sink)
    except OSError as error:
        if out is None:
            raise
        raise UsageError(f"cannot write {out}: {error.strerror}; name another file with --out") from error
