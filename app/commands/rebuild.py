"""`bandlens rebuild`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .. import api
from ..console import Json, progress
from .options import Database, EngineOption, StudyFile, resolve_study


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
    rebuilt = api.studies.rebuild(resolve_study(study, engine), shards, db, progress=progress)
    if as_json:
        missing = [
            {"cell": str(cell), "images": cell.image_set.count, "there": stored} for cell, stored in rebuilt.missing
        ]
        rows = {
            "study": rebuilt.label,
            "cells": rebuilt.cells,
            "predictions": rebuilt.predictions,
            "missing": missing,
        }
        print(json.dumps(rows, indent=1))
        return
    complete = rebuilt.cells - len(rebuilt.missing)
    print(
        f"{rebuilt.label}: {rebuilt.predictions:,} predictions from {shards}; "
        f"{complete:,} of {rebuilt.cells:,} cells are complete"
    )
    if rebuilt.missing:
        cell, stored = rebuilt.missing[0]
        lacking = sum(cell.image_set.count - stored for cell, stored in rebuilt.missing)
        print(
            f"missing: {lacking:,} predictions of {len(rebuilt.missing):,} cells, the first: {cell}, from image "
            f"{stored} on; `bandlens run` computes them"
        )
