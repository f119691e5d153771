"""`bandlens rebuild`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...core.errors import plural
from .. import api
from ..console import TableFormat, print_document, progress
from ..formats import Format
from .options import Database, EngineOption, StudyFile, resolve_study


def rebuild(
    study: StudyFile,
    shards: Annotated[str, typer.Option("--shards", help="The results folder of its runs.", show_default=False)],
    db: Database = Path("results.duckdb"),
    engine: EngineOption = None,
    table_format: TableFormat = Format.table,
) -> None:
    """Make the database of a study from the shards of its runs, or complete it with them. Nothing is computed.

    Example: bandlens rebuild study.toml --shards results.duckdb.shards --db new.duckdb
    """
    rebuilt = api.studies.rebuild(resolve_study(study, engine, db), shards, db, progress=progress)
    if table_format != Format.table:
        missing = [
            {"cell": str(cell), "images": cell.image_set.count, "there": stored} for cell, stored in rebuilt.missing
        ]
        document = {
            "study": rebuilt.label,
            "cells": rebuilt.cells,
            "predictions": rebuilt.predictions,
            "missing": missing,
        }
        print_document(document, table_format)
        return
    complete = rebuilt.cells - len(rebuilt.missing)
    print(
        f"{rebuilt.label}: {plural(rebuilt.predictions, 'prediction')} from {shards}; "
        f"{complete:,} of {plural(rebuilt.cells, 'cell')} complete"
    )
    if rebuilt.missing:
        cell, stored = rebuilt.missing[0]
        lacking = sum(cell.image_set.count - stored for cell, stored in rebuilt.missing)
        print(
            f"missing: {plural(lacking, 'prediction')} of {plural(len(rebuilt.missing), 'cell')}, the first: {cell}, "
            f"from image {stored} on; `bandlens run` computes them"
        )
