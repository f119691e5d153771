"""`bandlens merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...core.errors import amount, plural, quoted
from .. import api
from ..console import TableFormat, print_document, print_lines, progress
from ..formats import Format


def merge(
    databases: Annotated[list[Path], typer.Argument(metavar="DB...", help="Results databases.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The new database.", show_default=False)],
    prefer: Annotated[
        Path | None, typer.Option("--prefer", metavar="DB", help="The one that is right where they contradict.")
    ] = None,
    table_format: TableFormat = Format.table,
) -> None:
    """Write what several databases hold into a new one: each cell once, studies under their names.

    Of one database it makes a copy without the room of what was deleted. Where two have other predictions of a cell,
    it lists what they ran on, and writes nothing without --prefer.

    Example: bandlens merge here.duckdb there.duckdb --out both.duckdb
    """
    merged = api.results.merge(databases, out, prefer=prefer, raise_contradictions=False, progress=progress)
    contradictions = [
        {
            "cell": contradiction.cell,
            "images": contradiction.images,
            "other_class": contradiction.classes,
            "confidence": contradiction.confidence,
            **{
                f"{database}_{side}": value
                for side, path, ran in zip("ab", contradiction.databases, contradiction.ran, strict=True)
                for database, value in (("database", str(path)), ("ran", ran))
            },
        }
        for contradiction in merged.contradictions
    ]
    counts = {"cells": merged.cells, "shared": merged.shared, "predictions": merged.predictions}
    if table_format != Format.table:
        print_document(
            {
                "studies": merged.studies,
                **counts,
                "contradicted": merged.contradicted,
                "contradictions": contradictions,
            },
            table_format,
        )
    elif contradictions:
        print_lines(contradictions)
    merged.raise_contradictions()
    if table_format == Format.table and len(databases) == 1:
        print(f"{out}: {amount(out.stat().st_size)}, where {databases[0]} has {amount(databases[0].stat().st_size)}")
    elif table_format == Format.table:
        print(
            f"{out}: {plural(len(merged.studies), 'study')}, {plural(merged.predictions, 'prediction')} of "
            f"{plural(merged.cells, 'cell')}, "
            f"{merged.shared:,} of them in several databases; `bandlens analyze --db {quoted(out)}` computes its "
            "metrics"
        )
