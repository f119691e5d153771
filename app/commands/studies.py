"""`bandlens plan` and `bandlens run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ...errors import BandlensError
from ..console import Json, duration, print_rows

StudyFile = Annotated[Path, typer.Argument(help="The study: a TOML file.", show_default=False)]
Database = Annotated[Path, typer.Option("--db", help="The results database.")]

EXAMPLE = """
\b
A study file:
    name = "mine"
    checkpoints = ["tv_resnet50", "category:adversarial_training"]
    images = ["imagenet.set"]
    [probes]
    lowpass = { cutoff = [0.1, 0.3, 0.5] }
    critical_band = {}                          # the published levels and frequencies
    blur = { file = "blur.py", sigma = [1, 2] } # a probe of your own
"""


def plan(study: StudyFile, db: Database = Path("results.duckdb"), as_json: Json = False) -> None:
    """Show which cells of a study are done, missing or stale, with an estimate of the time.

    Example: bandlens plan study.toml --db results.duckdb
    """
    from ..plan import plan_study
    from ..study import read_study

    found = plan_study(read_study(study), db)
    if as_json:
        summary = {"cells": len(found.missing), "predictions": found.predictions, "seconds": round(found.seconds, 1)}
        missing = [
            {"checkpoint": cell.model.name, "image_set": cell.image_set.name, "condition": str(cell.condition)}
            for cell in found.missing
        ]
        print(
            json.dumps(
                {"rows": found.rows, "to_run": summary | {"estimate": found.estimate}, "missing": missing}, indent=1
            )
        )
        return
    print_rows(found.rows)
    if found.missing:
        print(
            f"to run: {len(found.missing):,} cells, {found.predictions:,} predictions, "
            f"about {duration(found.seconds)} here ({found.estimate})"
        )
    else:
        print("nothing to run: every cell is done")


def run(study: StudyFile, db: Database = Path("results.duckdb"), as_json: Json = False) -> None:
    from ..runner import run_study
    from ..study import read_study

    summary = run_study(read_study(study), db)
    if as_json:
        failed = [{"cell": str(failure.cell), "error": failure.error} for failure in summary.failed]
        print(
            json.dumps(
                {
                    "study": summary.label,
                    "cells": summary.cells,
                    "ran": summary.ran,
                    "predictions": summary.predictions,
                    "seconds": round(summary.seconds, 3),
                    "failed": failed,
                },
                indent=1,
            )
        )
    elif summary.ran:
        rate = summary.predictions / summary.seconds
        print(
            f"{summary.label}: ran {summary.ran:,} of {summary.cells:,} cells, {summary.predictions:,} predictions in "
            f"{duration(summary.seconds)} ({rate:,.0f} a second), into {db}"
        )
    else:
        print(f"{summary.label}: nothing to run, all {summary.cells:,} cells are in {db}")
    if summary.failed:
        first = summary.failed[0]
        raise BandlensError(
            f"{len(summary.failed)} of {summary.cells} cells failed, the first: {first.cell}: {first.error}; "
            f"the others are stored, and the next run tries the failed ones again"
        )


run.__doc__ = f"""Run what the database lacks of a study. Interrupt it at will: the next run goes on where it stopped.

Example: bandlens run study.toml --db results.duckdb
{EXAMPLE}"""
