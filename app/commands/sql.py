"""`bandlens sql`."""

from __future__ import annotations

import sys
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import UsageError
from ..console import print_rows

if TYPE_CHECKING:
    import polars as pl


class Format(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT, in DuckDB's SQL.", show_default=False)],
    db: Annotated[Path, typer.Option("--db", help="The results database.")] = Path("results.duckdb"),
    format: Annotated[  # noqa: A002
        Format | None,
        typer.Option("--format", help="How to write the answer.", show_default="by the ending of --out, or table"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A file instead of the terminal.", show_default=False)
    ] = None,
) -> None:
    """Ask the results database. The query can read it and nothing else: no other file, no network, no change.

    Views: accuracy, curve, flip, metric. Tables: prediction, cell, checkpoint, image_set, image, label, condition, …

    Example: bandlens sql "SELECT family, cutoff, top1 FROM accuracy ORDER BY ALL" --format csv
    """
    from ...analysis.store import open_store
    from ..interrupt import ends_in_time

    chosen = format or _by_ending(out)
    if out is not None and chosen == Format.table:
        raise UsageError(f"cannot write {out} as a table; give --format csv, json or parquet")
    if out is None and chosen == Format.parquet:
        raise UsageError("Parquet is not for a terminal; name a file with --out")
    with ends_in_time(), open_store(db, read_only=True) as store:
        frame = store.frame(query)
    if chosen == Format.table:
        print_rows(frame.to_dicts())
        print(f"{len(frame):,} rows")
    elif out is None:
        sys.stdout.write(_written(frame, chosen).decode())
    else:
        _save(out, _written(frame, chosen))


def _by_ending(out: Path | None) -> Format:
    ending = out.suffix.removeprefix(".") if out else ""
    return Format.__members__.get(ending, Format.table)


def _written(frame: pl.DataFrame, chosen: Format) -> bytes:
    from polars.exceptions import PolarsError

    content = BytesIO()
    try:
        getattr(frame, f"write_{chosen}")(content)
    except PolarsError as error:
        raise UsageError(f"the answer cannot be written as {chosen}: {error}; cast the column, or use json") from error
    return content.getvalue()


def _save(out: Path, content: bytes) -> None:
    from ...export.files import write_bytes

    try:
        write_bytes(out, content)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror}; name another file with --out") from error
