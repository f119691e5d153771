"""`bandlens sql`."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from ...core.errors import UsageError
from ...core.untrusted import read_text, words_of
from ..api.parameters import RESULTS, Database, File, path_of, reading
from ..terminal import command

AnswerFormat = Literal["table", "csv", "tsv", "markdown", "latex", "json", "parquet", "arrow"]
STDIN = Path("-")


def answer(
    query: Annotated[str | None, typer.Argument()] = None,
    *,
    file: Annotated[File | None, typer.Option("--file", "-f", metavar="FILE")] = None,
    db: Database = RESULTS,
    format: AnswerFormat | None = None,  # noqa: A002
    out: File | None = None,
    line: Annotated[bool, typer.Option("--line")] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0)] = 60,
) -> None:
    """Ask the results database. The query can read it and nothing else: no other file, no network, no change.

    Views: accuracy, curve, flip, metric. Tables: prediction, cell, checkpoint, image_set, image, label, condition, …

    Several statements are answered one after another, with an empty line between two answers. Without a query, standard
    input holds it, if that is no terminal. Without --db, it is the database that $BANDLENS_DB names.

    Examples: bandlens sql -f query.sql --format markdown, bandlens sql "SELECT probe, cutoff, top1 FROM accuracy ORDER
    BY ALL" --format csv

    Args:
        query: a SELECT, or several with ; between them, in DuckDB's SQL.
        file: statements from a file; - is standard input.
        format: how to write the answer; by default by the ending of --out, or table.
        out: a file instead of the terminal.
        line: show each row as lines of field and value.
        timeout: how long a query may take; 0 is no limit.
    """
    file, out = path_of(file), path_of(out)
    if query is None and file is None and not sys.stdin.isatty():
        file = STDIN
    if (query is None) == (file is None):
        raise UsageError('give one query, such as "FROM accuracy", or a --file with one')
    if query is not None and query.endswith(".sql"):
        raise UsageError(f"{query} is a file of a query; give it with --file")
    ending = out.suffix.removeprefix(".") if out else ""
    answer_format = format or (ending if ending in get_args(AnswerFormat) else "table")
    if out is not None and answer_format == "table":
        raise UsageError(
            f"cannot write {out} as a table; give --format csv, tsv, markdown, latex, json, parquet or arrow"
        )
    if out is None and answer_format in ("parquet", "arrow") and sys.stdout.isatty():
        raise UsageError(f"{answer_format.capitalize()} is not for a terminal; name a file with --out")
    if not math.isfinite(timeout):
        raise UsageError(f"--timeout is a number of seconds, or 0 for no limit, not {timeout}")
    text = _content(file or STDIN) if query is None else _text(query)
    with reading(db) as store:
        from ..sql_answers import print_answers, write_answers

        if answer_format == "table":
            print_answers(store, text, timeout, line)
        else:
            write_answers(store, text, timeout, answer_format, out)


def _text(query: str) -> str:
    """The query as it was typed, whatever the locale took its bytes for; UsageError where they are no UTF-8."""
    try:
        return os.fsencode(query).decode()
    except UnicodeError:
        raise UsageError("the query is not UTF-8; write it in that encoding") from None


def _content(file: Path) -> str:
    """The query in a file, or in what is piped in; UsageError where it cannot be read."""
    try:
        return read_text(Path("/dev/stdin") if file == STDIN else file, pipe=True)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read a query from {file}: {words_of(error)}; give --file a text file of SQL"
        ) from None


COMMANDS: dict[str, Any] = {"sql": command(answer)}
