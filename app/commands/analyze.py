"""`bandlens analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import Json, parameters_in_words, print_rows, progress
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
    from ...analysis.database.open import open_store
    from ...analysis.metrics.compute import compute_metrics, subjects
    from ...analysis.metrics.conditions import compute_conditions
    from ...analysis.metrics.error_consistency import judged_images, write_consistencies
    from ...errors import UsageError

    if not db.exists():
        raise UsageError(f"no results database at {db}; `bandlens run STUDY.toml --db {db}` makes one")
    with open_store(db) as store:
        count = len(subjects(store, study))
        with progress("analyzing", count, "checkpoints and image sets") as advance:
            metrics = compute_metrics(store, study, resamples, rgb_reference, advance)
        with progress("analyzing every condition", count, "checkpoints and image sets") as advance:
            of_conditions = compute_conditions(store, study, resamples, advance)
        judged = judged_images(store, study)
        with progress("comparing errors", len(judged), "image sets") as advance:
            write_consistencies(store, judged, resamples, advance)
    shown = of_conditions if conditions else metrics
    ids = ("study_id", "checkpoint_id", "image_set_id", "condition_id")
    rows = shown.drop(*ids, strict=False).to_dicts()
    if conditions and not as_json:
        rows = [row | {"parameters": parameters_in_words(row["parameters"])} for row in rows]
    print_rows(rows, as_json)
