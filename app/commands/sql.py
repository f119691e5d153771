"""`bandlens sql`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import UsageError

if TYPE_CHECKING:
    from ...analysis.database.store import Store


class Format(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"
    arrow = "arrow"


BINARY = (Format.parquet, Format.arrow)


def sql(
    query: Annotated[str | None, typer.Argument(help="One SELECT, in DuckDB's SQL.", show_default=False)] = None,
    db: Annotated[Path, typer.Option("--db", help="The results database.")] = Path("results.duckdb"),
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
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0, help="How long a query may take; 0 is no limit.")
    ] = 60,
) -> None:
    """Ask the results database. The query can read it and nothing else: no other file, no network, no change.

    Views: accuracy, curve, flip, metric. Tables: prediction, cell, checkpoint, image_set, image, label, condition, …

    Example: bandlens sql "SELECT probe, cutoff, top1 FROM accuracy ORDER BY ALL" --format csv
    """
    from ...analysis.database.open import open_store

    if interactive == (query is not None):
        raise UsageError('give one query, such as "FROM accuracy", or --interactive')
    chosen = format or Format.__members__.get(out.suffix.removeprefix(".") if out else "", Format.table)
    if out is not None and chosen == Format.table:
        raise UsageError(f"cannot write {out} as a table; give --format csv, json, parquet or arrow")
    if out is None and chosen in BINARY and sys.stdout.isatty():
        raise UsageError(f"{chosen.capitalize()} is not for a terminal; name a file with --out")
    with open_store(db, read_only=True) as store:
        if query is None:
            _interact(store, timeout)
        elif chosen == Format.table:
            from ..sql.query import print_answer

            print_answer(store, query, timeout)
        else:
            _write(store, query, chosen, out, timeout)


def _interact(store: Store, timeout: float) -> None:
    from ...export.files import home
    from ..sql.shell import shell

    home().mkdir(parents=True, exist_ok=True)
    shell(store, home() / "sql_history", timeout)


def _write(store: Store, query: str, chosen: Format, out: Path | None, timeout: float) -> None:
    from ...export.files import replacing
    from ..sql.query import answer, write_answer

    try:
        with answer(store, query, timeout) as reader:
            if out is None:
                write_answer(reader, chosen, sys.stdout.buffer)
            else:
                with replacing(out) as temporary, temporary.open("wb") as sink:
                    write_answer(reader, chosen, sink)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}; name another file with --out") from error
