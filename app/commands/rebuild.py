"""`bandlens rebuild`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..console import Json
from .options import Database, EngineOption, StudyFile, opened


def rebuild(
    study: StudyFile,
    shards: Annotated[str, typer.Option("--shards", help="The results folder of its runs.", show_default=False)],
    db: Database = Path("results.duckdb"),
    engine: EngineOption = None,
    as_json: Json = False,
) -> None:
    """Make the database of a study from the shards of its runs, or complete it with them. Nothing is computed.

    Example: bandlens rebuild study.toml --shards results.duckdb.shards --db new.duckdb
    """
    from ..study.shards import rebuild_study

    found = rebuild_study(opened(study, engine), db, shards)
    if as_json:
        missing = [{"cell": str(cell), "images": cell.image_set.count, "there": there} for cell, there in found.missing]
        rows = {"study": found.label, "cells": found.cells, "predictions": found.predictions, "missing": missing}
        print(json.dumps(rows, indent=1))
        return
    complete = found.cells - len(found.missing)
    print(
        f"{found.label}: {found.predictions:,} predictions from {shards}; "
        f"{complete:,} of {found.cells:,} cells are complete"
    )
    if found.missing:
        cell, there = found.missing[0]
        print(
            f"missing: {sum(cell.image_set.count - there for cell, there in found.missing):,} predictions of "
            f"{len(found.missing):,} cells, the first: {cell}, from image {there} on; `bandlens run` computes them"
        )
