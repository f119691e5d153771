"""`bandlens analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import api
from ..console import Json, parameters_in_words, print_rows, progress
from .completion import complete_study
from .options import Database


def analyze(
    db: Database = Path("results.duckdb"),
    study: Annotated[
        str,
        typer.Option(
            "--study", help="Name, or name@version; * is the newest version of each.", autocompletion=complete_study
        ),
    ] = "*",
    resamples: Annotated[int, typer.Option("--resamples", help="Of the bootstrap over images.", min=100)] = 1000,
    rgb_reference: Annotated[
        bool,
        typer.Option("--rgb-reference", help="Normalize critical-band thresholds by the clean accuracy in colour."),
    ] = False,
    conditions: Annotated[
        bool, typer.Option("--conditions", help="Print the metrics of every condition instead of the others.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compute spectral, critical-band and shape biases, and group means; print them and keep them in the view `metric`.

    The table `error_consistency` gets which images every two models, and people, have right and wrong together.

    The view `condition_metric` gets shape bias, calibration and the like under every condition, and how they differ
    from those of the clean images.

    Example: bandlens analyze --db results.duckdb --json
    """
    metrics = api.results.analyze(
        db, study, resamples=resamples, rgb_reference=rgb_reference, conditions=conditions, progress=progress
    )
    ids = ("study_id", "checkpoint_id", "image_set_id", "condition_id")
    rows = metrics.drop(*ids, strict=False).to_dicts()
    if conditions and not as_json:
        rows = [row | {"parameters": parameters_in_words(row["parameters"])} for row in rows]
    print_rows(rows, as_json)
