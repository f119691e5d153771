"""Everything that differs between two runs: cells, curves, metrics, correlations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import polars as pl

from ...errors import UsageError
from .cells import Run, compare_cells, curves
from .conditions import compare_conditions
from .metrics import compare_correlations, compare_metrics

SAME = 1e-12
"""Differences up to which numbers are the same but for rounding."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A; differences are B less A."""

    a: str
    b: str
    same: int
    """Cells that are one and the same row of one database."""
    cells: pl.DataFrame
    """The other ones that both runs have."""
    curves: pl.DataFrame
    metrics: pl.DataFrame
    conditions: pl.DataFrame
    """Metrics of single conditions."""
    correlations: pl.DataFrame
    no_correlations: str | None
    """Why there are none."""
    only_a: pl.DataFrame
    only_b: pl.DataFrame

    def what_differs(self) -> Comparison:
        """Without the rows in which both runs say the same."""
        flipped = pl.sum_horizontal("changed", "lost", "gained") > 0
        moved = pl.col("difference").abs() > SAME
        appeared = pl.col("value_a").is_null() != pl.col("value_b").is_null()
        return replace(
            self,
            cells=self.cells.filter(flipped | (pl.col("n") == 0)),
            curves=self.curves.filter(flipped),
            metrics=self.metrics.filter(moved.fill_null(False) | appeared),
            conditions=self.conditions.filter(moved.fill_null(False) | appeared),
            correlations=self.correlations.filter(moved.fill_null(False)),
        )


def compare_runs(a: Run, b: Run, advance: Callable[[float], None] = lambda _: None) -> Comparison:
    """Compare two runs in every respect. `advance` is called with the number of cells done."""
    found = compare_cells(a, b, advance)
    why_not = None
    try:
        if a.checkpoint is not None:
            raise UsageError("two checkpoints are compared, and a correlation needs 4 models")
        correlations = compare_correlations(a, b)
    except UsageError as error:
        why_not = str(error)
        correlations = pl.DataFrame(schema={"difference": pl.Float64})
    return Comparison(
        _words(a),
        _words(b),
        found.same,
        found.cells,
        curves(found.cells),
        compare_metrics(a, b),
        compare_conditions(a, b),
        correlations,
        why_not,
        found.only_a,
        found.only_b,
    )


def _words(run: Run) -> str:
    return ", ".join(filter(None, (str(run.store.path), run.label, run.checkpoint)))
