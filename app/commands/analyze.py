"""`bandlens analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import Json, print_rows, progress
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
    as_json: Json = False,
) -> None:
    """Compute spectral, critical-band and shape biases, and group means; print them and keep them in the view `metric`.

    The table `error_consistency` gets which images every two models, and people, have right and wrong together.

    Example: bandlens analyze --db results.duckdb --json
    """
    from ...analysis.database.open import open_store
    from ...analysis.metrics.compute import compute_metrics, subjects
    from ...analysis.metrics.error_consistency import judged_images, write_consistencies
    from ...errors import UsageError

    if not db.exists():
        raise UsageError(f"no results database at {db}; `bandlens run STUDY.toml --db {db}` makes one")
    with open_store(db) as store:
        with progress("analyzing", len(subjects(store, study)), "checkpoints and image sets") as advance:
            metrics = compute_metrics(store, study, resamples, rgb_reference, advance)
        judged = judged_images(store, study)
        with progress("comparing errors", len(judged), "image sets") as advance:
            write_consistencies(store, judged, resamples, advance)
    columns = ["study", "checkpoint", "image_set", "metric", "value", "low", "high", "state", "note"]
    print_rows(metrics.select(columns).to_dicts(), as_json)
