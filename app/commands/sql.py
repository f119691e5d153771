"""`bandlens sql`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ...errors import UsageError
from ..console import print_rows


class Format(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT, in DuckDB's SQL.", show_default=False)],
    db: Annotated[Path, typer.Option("--db", help="The results database.")] = Path("results.duckdb"),
    format: Annotated[Format, typer.Option("--format", help="How to write the answer.")] = Format.table,  # noqa: A002
    out: Annotated[
        Path | None, typer.Option("--out", help="A file instead of the terminal.", show_default=False)
    ] = None,
) -> None:
    """Ask the results database. The query can read it and nothing else: no other file, no network, no change.

    Views: accuracy, curve, flip, metric. Tables: prediction, cell, checkpoint, image_set, image, label, condition, …

    Example: bandlens sql "SELECT family, cutoff, top1 FROM accuracy ORDER BY ALL" --format csv
    """
    from ...analysis.store import open_store

    with open_store(db, read_only=True) as store:
        frame = store.frame(query)
    if format == Format.table and out is None:
        print_rows(frame.to_dicts())
        print(f"{len(frame):,} rows")
        return
    if format == Format.parquet:
        if out is None:
            raise UsageError("Parquet is not for a terminal; name a file with --out")
        frame.write_parquet(out)
        return
    text = frame.write_json() if format == Format.json else frame.write_csv()
    sys.stdout.write(text) if out is None else out.write_text(text, encoding="utf-8")
