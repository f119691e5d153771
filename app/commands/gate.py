"""`bandlens gate`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import BandlensError
from .. import api
from ..console import (
    TableFormat,
    condition_in_words,
    duration,
    print_document,
    print_note,
    print_rows,
    print_tables,
    progress,
)
from ..formats import Format
from ..study import GATE_IMAGES
from .options import Database

if TYPE_CHECKING:
    import polars as pl

    from ..study.gate import Gated

SHOWN = (
    "checkpoint", "image_set", "condition", "n", "flips", "flips_low", "flips_high", "difference", "low", "high", "p",
    "verdict", "needed",
)  # fmt: skip


def gate(
    study: Annotated[Path, typer.Argument(help="The study: a TOML file.", show_default=False)],
    reference: Annotated[
        str,
        typer.Option("--reference", help="What is trusted: a precision of the study's engine, or ENGINE:PRECISION."),
    ] = "fp32",
    candidate: Annotated[
        str | None, typer.Option("--candidate", help="What is in question.", show_default="the study's precision")
    ] = None,
    checkpoints: Annotated[
        list[str] | None,
        typer.Option(
            "--checkpoint", metavar="C", help="One of the study's checkpoints; may be repeated.", show_default="all"
        ),
    ] = None,
    images: Annotated[
        int, typer.Option("--images", min=0, help="Of each image set, drawn from all classes evenly; 0 takes all.")
    ] = GATE_IMAGES,
    db: Database = Path("results.duckdb"),
    table_format: TableFormat = Format.table,
) -> None:
    """Find out whether a faster precision gives a study's answers: both run on the same perturbed images.

    Exit status 0 if every checkpoint and condition passes, 1 if one fails, or has too few images to tell. The limits
    are those of the study's table [gate]: flips = 0.01, accuracy = 0.003. Rows are kept in the view `gate`.

    At fp32 an image costs as much as in a study: gate a few checkpoints of each architecture, on some images. What
    passes on them may be run on all.

    Example: bandlens gate study.toml --candidate openvino:int8 --reference openvino:fp32 --images 5000
    """
    gated = api.studies.gate(
        study, reference, candidate, db, checkpoints=checkpoints or (), images=images, progress=progress
    )
    if table_format.is_for_programs:
        print_document(_document(gated), table_format)
    else:
        _print(gated, db, table_format)
    if message := _complaint(gated):
        raise BandlensError(message)


def _complaint(gated: Gated) -> str | None:
    """One line that says why the candidate cannot be used; None where it can."""
    ran, rows = gated.ran, gated.rows
    if ran.failed:
        first = ran.failed[0]
        return (
            f"{len(ran.failed)} of {ran.cells} cells failed, the first: {first.cell}: {first.error}; the others are "
            "stored and compared, and the next gate tries the failed ones again"
        )
    failing, undecided = (rows.filter(verdict=verdict) for verdict in ("fail", "undecided"))
    if len(failing):
        worst = failing.sort("flips", descending=True, maintain_order=True).row(0, named=True)
        return (
            f"{ran.label}: {len(failing)} of {len(rows)} gates fail, up to {worst['flips']:.1%} flips "
            f"({worst['checkpoint']}, {condition_in_words(worst)}); run the study at a precision that passes"
        )
    if len(undecided):
        needed = max(undecided["needed"].drop_nulls().to_list(), default=None)
        images = f"about {needed:,} images" if needed else "more images"
        return (
            f"{ran.label}: {len(undecided)} of {len(rows)} gates are undecided; {images} would decide: give --images, "
            "or sets that have as many"
        )
    return None


def _summaries(rows: pl.DataFrame) -> list[dict[str, Any]]:
    from ...analysis.comparison.verdicts import count_verdicts

    columns = ("checkpoint", "image_set", "pass", "fail", "undecided", "worst_flips")
    return [
        {name: row[name] for name in columns} | {"at": condition_in_words(row)}
        for row in count_verdicts(rows).to_dicts()
    ]


def _document(gated: Gated) -> dict[str, Any]:
    ran = gated.ran
    return {
        "compared": ran.label,
        "cells": ran.cells,
        "ran": ran.ran,
        "predictions": ran.predictions,
        "seconds": round(ran.seconds, 3),
        "failed": [{"cell": str(failure.cell), "error": failure.error} for failure in ran.failed],
        "checkpoints": _summaries(gated.rows),
        "rows": gated.rows.to_dicts(),
    }


def _print(gated: Gated, db: Path, table_format: Format) -> None:
    ran, rows, limits = gated.ran, gated.rows, gated.limits
    note = partial(print_note, table_format=table_format)
    note(
        f"{ran.label}: ran {ran.ran:,} of {ran.cells:,} cells, {ran.predictions:,} predictions in "
        f"{duration(ran.seconds)}, into {db}"
    )
    note(f"limits: flips {limits.flips:.2%}, accuracy within {100 * limits.accuracy:g} points")
    open_ones = [
        {name: row[name] for name in SHOWN}
        for row in (row | {"condition": condition_in_words(row)} for row in rows.to_dicts())
        if row["verdict"] != "pass"
    ]
    count = f"{len(rows) - len(open_ones)} of {len(rows)} gates pass{'; these do not:' if open_ones else ''}"
    if table_format == Format.table:
        print_rows(_summaries(rows))
        print(count)
        if open_ones:
            print_rows(open_ones, titles=("checkpoint", "image_set"))
    else:
        note(count)
        failing = {"Gates that do not pass": open_ones} if open_ones else {}
        print_tables({"Gates by checkpoint": _summaries(rows)} | failing, table_format)
