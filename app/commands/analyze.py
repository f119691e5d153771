"""`bandlens analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import Json, print_rows, progress
from .options import Database


def analyze(
    db: Database = Path("results.duckdb"),
    study: Annotated[
        str, typer.Option("--study", help="Name, or name@version; * is the newest version of each.")
    ] = "*",
    resamples: Annotated[int, typer.Option("--resamples", help="Of the bootstrap over images.", min=100)] = 1000,
    rgb_reference: Annotated[
        bool,
        typer.Option("--rgb-reference", help="Normalize critical-band thresholds by the clean accuracy in colour."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Compute spectral, critical-band and shape biases, and group means; print them and keep them in the view `metric`.

    The table `error_consistency` gets which images every two models, and people, have right and wrong together.

    Example: bandlens analyze --db results.duckdb --json
    """
    from ..api import analyze as compute

    metrics = compute(db, study, resamples=resamples, rgb_reference=rgb_reference, progress=progress)
    columns = ["study", "checkpoint", "image_set", "metric", "value", "low", "high", "state", "note"]
    print_rows(metrics.select(columns).to_dicts(), as_json)
