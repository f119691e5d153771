"""`bandlens compare`."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import some_of
from ..console import Json, parameters_in_words, print_rows, progress
from .options import Database

if TYPE_CHECKING:
    import polars as pl

    from ...analysis.comparison.cells import Run
    from ...analysis.comparison.runs import Comparison

NAMED = 10
"""How many cells that only one run has are listed."""


def compare(
    a: Annotated[str, typer.Argument(help="A study, as name or name@version; or a database.", show_default=False)],
    b: Annotated[str, typer.Argument(help="What to compare it with.", show_default=False)],
    db: Database = Path("results.duckdb"),
    study: Annotated[
        str | None,
        typer.Option("--study", help="Which study of a database given as A or B.", show_default="the only one"),
    ] = None,
    checkpoints: Annotated[
        str | None,
        typer.Option("--checkpoints", metavar="X,Y", help="Compare checkpoint X of A with Y of B.", show_default="all"),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="List what is the same, too.")] = False,
    as_json: Json = False,
) -> None:
    """Compare two runs image by image: accuracies, curves, metrics and correlations that changed, with intervals.

    McNemar's test for each cell, corrected over all of them. Differences are B less A; see docs/statistics.md.

    Example: bandlens compare study@1 study@2 --db results.duckdb

    Example: bandlens compare study study --checkpoints resnet50.a1_in1k,resnet50.a2_in1k
    """
    from ...analysis.comparison.cells import two_checkpoints
    from ...analysis.comparison.runs import compare_runs
    from ...errors import UsageError

    pair = checkpoints.split(",") if checkpoints is not None else None
    if pair is not None and not (len(pair) == 2 and all(pair)):
        raise UsageError(f"--checkpoints {checkpoints}: give one of A and one of B, as X,Y")

    with ExitStack() as stack:
        first, second = (_opened(stack, name, db, study) for name in (a, b))
        if pair is not None:
            first, second = two_checkpoints(first, second, *pair)
        with progress("comparing", None, "cells") as advance:
            found = compare_runs(first, second, advance)
    shown = found if everything else found.what_differs()
    if as_json:
        print(json.dumps(_as_json(found, shown), indent=1))
    else:
        _print(found, shown)


def _opened(stack: ExitStack, name: str, db: Path, study: str | None) -> Run:
    from ...analysis.comparison.cells import Run
    from ...analysis.database.open import open_store
    from ...analysis.database.studies import study_label

    file = Path(name)
    is_database = file.is_file() or file.suffix in (".duckdb", ".db")
    store = stack.enter_context(open_store(file if is_database else db, read_only=True))
    return Run(store, study_label(store, study if is_database else name))


def _as_json(found: Comparison, shown: Comparison) -> dict[str, Any]:
    tables = ("cells", "curves", "metrics", "conditions", "correlations", "only_a", "only_b")
    return {
        "a": found.a,
        "b": found.b,
        "same_cells": found.same,
        "compared_cells": len(found.cells),
        **{name: getattr(shown, name).to_dicts() for name in tables},
        "no_correlations": found.no_correlations,
    }


def _print(found: Comparison, shown: Comparison) -> None:
    from ...analysis.comparison.cells import DIFFERS

    print(f"A: {found.a}\nB: {found.b}")
    different = len(found.cells.filter(DIFFERS))
    print(
        f"{found.same} cells are one and the same; of {len(found.cells)} others that both have, {different} differ in "
        "accuracy (p < 0.05 after Holm)"
    )
    for note, count in found.cells["note"].drop_nulls().value_counts().sort("note").rows():
        print(f"{count} of them {'is' if count == 1 else 'are'} not compared: {note}")
    for side, cells in (("A", found.only_a), ("B", found.only_b)):
        if len(cells):
            print(f"{len(cells)} cells are in {side} only: {_named(cells)}")
    for title, frame in {
        "Cells": shown.cells,
        "Curves": shown.curves,
        "Metrics": shown.metrics,
        "Metrics of conditions": shown.conditions,
        "Correlations": shown.correlations,
    }.items():
        print()
        if title == "Correlations" and found.no_correlations:
            print(f"Correlations: {found.no_correlations}")
        elif len(frame):
            print_rows(_shown(frame), title=title)
        else:
            print(f"{title}: nothing differs")


def _named(cells: pl.DataFrame) -> str:
    return some_of([" ".join((*row[:3], parameters_in_words(row[3]))) for row in cells.rows()], NAMED, "; ")


def _shown(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows without the columns that are empty, and with conditions in words."""
    filled = [column for column in frame.columns if frame[column].null_count() < len(frame)]
    return [
        {name: parameters_in_words(value) if name in ("parameters", "at") else value for name, value in row.items()}
        for row in frame.select(filled).to_dicts()
    ]
