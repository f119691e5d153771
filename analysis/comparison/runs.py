"""Everything that differs between two runs: cells, curves, metrics, correlations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import polars as pl

from ...errors import UsageError
from .cells import Run, compare_cells, curves
from .correlations import compare_correlations
from .measures import compare_measures
from .words import in_words

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
    """The reason why there are no correlations, or None."""
    only_a: pl.DataFrame
    only_b: pl.DataFrame
    replaced: pl.DataFrame
    """Conditions that others have taken the place of: see `replaced_conditions`."""
    sentence: str
    """The sentence that says what differs beyond chance."""

    def what_differs(self) -> Comparison:
        """Leave out the rows in which both runs say the same."""
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
    compared = compare_cells(a, b, advance)
    why_not = None
    try:
        if a.column is not None:
            raise UsageError(f"two {a.column.replace('_', ' ')}s are compared, and correlations are of whole studies")
        correlations = compare_correlations(a, b)
    except UsageError as error:
        why_not = str(error)
        correlations = pl.DataFrame(schema={"difference": pl.Float64})
    metrics, conditions = compare_measures(a, b)
    return Comparison(
        _words(a),
        _words(b),
        compared.same,
        compared.cells,
        curves(compared.cells),
        metrics,
        conditions,
        correlations,
        why_not,
        compared.only_a,
        compared.only_b,
        compared.replaced,
        in_words(a, b, compared.cells, metrics),
    )


def _words(run: Run) -> str:
    return ", ".join(filter(None, (str(run.store.path), run.label, run.value)))
