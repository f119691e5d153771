"""`bandlens analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...core.errors import UsageError
from .. import api
from ..console import TableFormat, condition_in_words, log, print_rows, progress
from ..formats import Format
from .options import Database, NewestStudies

TITLES = ("study", "checkpoint", "image_set")
"""Columns that become headings on a terminal without room for them."""
OF_CONDITIONS = (
    *(*TITLES, "metric", "condition", "value", "low", "high", "state"),
    *("difference", "difference_low", "difference_high", "n", "note"),
)
"""Columns of the table of conditions, each with its parameters in words."""


def analyze(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[STUDY.toml]", help="The study whose own measures are computed too.", show_default=False
        ),
    ] = None,
    db: Database = Path("results.duckdb"),
    study: NewestStudies = "*",
    resamples: Annotated[int, typer.Option("--resamples", help="Of the bootstrap over images.", min=100)] = 1000,
    rgb_reference: Annotated[
        bool,
        typer.Option("--rgb-reference", help="Normalize critical-band thresholds by the clean accuracy in colour."),
    ] = False,
    conditions: Annotated[
        bool, typer.Option("--conditions", help="Print the metrics of every condition instead of the others.")
    ] = False,
    table_format: TableFormat = Format.table,
) -> None:
    """Compute spectral, critical-band and shape biases, and group means; print them and keep them in the view `metric`.

    The table `error_consistency` gets which images every two models, and people, have right and wrong together.

    The view `condition_metric` gets shape bias, calibration and the like under every condition, and how they differ
    from those of the clean images.

    With a study file its own measures ([measures]) are computed as well, where their files, parameters or cells have
    changed; what is there of built-in ones stays, unless an option
    says how to estimate.

    Example: bandlens analyze --db results.duckdb --format csv
    """
    if file is not None and study != "*":
        raise UsageError(f"{file} and --study {study} name a study each; give one of them")
    analyzed = study if file is None else api.studies.read_study(file)
    metrics = api.results.analyze(
        db, analyzed, resamples=resamples, rgb_reference=rgb_reference, conditions=conditions, progress=progress
    )
    rows = metrics.to_dicts()
    if not rows:
        log.info(
            "no metric has its conditions yet; `bandlens plan STUDY.toml` says what is missing, and which it will have"
        )
    if conditions and not table_format.is_for_programs:
        in_words = [row | {"condition": condition_in_words(row)} for row in rows]
        shown = [{name: row[name] for name in OF_CONDITIONS} for row in in_words]
        print_rows(shown, table_format, titles=(*TITLES, "metric"))
    else:
        hidden = ("study_id", "checkpoint_id", "image_set_id", "condition_id", "cycles")
        print_rows(metrics.drop(*hidden, strict=False).to_dicts(), table_format, titles=TITLES)
