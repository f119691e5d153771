"""Everything that differs between two runs: cells, curves, metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import polars as pl

from .cells import DIFFERS, Compared, Run, compare_cells, curves
from .measures import compare_measures
from .verdict import Verdict, compare_verdict, no_metrics

SAME = 1e-12
"""Differences up to which numbers are the same but for rounding."""
ONE_SIDED = pl.col("value_a").is_null() != pl.col("value_b").is_null()
"""True where one run alone has the number."""


@dataclass(frozen=True, slots=True)
class Comparison(Compared):
    """B against A; differences are B less A."""

    a: str
    b: str
    curves: pl.DataFrame
    metrics: pl.DataFrame
    conditions: pl.DataFrame
    """Metrics of single conditions."""
    no_metrics: str | None
    """The reason why there are no metrics, or None."""
    verdict: Verdict
    """The differences beyond chance, and a line for each that is not determined."""

    def what_differs(self) -> Comparison:
        """Leave out the rows in which both runs say the same."""
        changed_cells = pl.sum_horizontal("changed", "lost", "gained") > 0
        moved = pl.col("difference").abs() > SAME
        return self._select(changed_cells | (pl.col("n") == 0), changed_cells, moved | ONE_SIDED)

    def beyond_chance(self) -> Comparison:
        """Leave out the rows whose difference may be chance.

        A row stays where the 95 % interval of its difference leaves zero out, where p is below 0.05 after Holm, where
        the number means something else (`state`) or is there in one run alone, and where values or predictions differ
        and there is no interval to judge that by. A curve stays where one of its cells differs after Holm.
        """
        low, high, difference = (pl.col(name).fill_nan(None) for name in ("low", "high", "difference"))
        beyond = (low > 0) | (high < 0) | (low.is_null() & (difference.abs() > SAME))
        changed = pl.col("changed") > 0
        return self._select(
            beyond | DIFFERS | (difference.is_null() & changed),
            (pl.col("different") > 0) | (pl.col("mean_difference").is_null() & changed),
            beyond | pl.col("state_a").ne_missing(pl.col("state_b")) | ONE_SIDED,
        )

    def _select(self, cells: pl.Expr, curves: pl.Expr, numbers: pl.Expr) -> Comparison:
        """Leave out the rows of each table where its expression is not true."""
        return replace(
            self,
            cells=self.cells.filter(cells),
            curves=self.curves.filter(curves),
            metrics=self.metrics.filter(numbers),
            conditions=self.conditions.filter(numbers),
        )


def compare_runs(a: Run, b: Run, advance: Callable[[float], None] = lambda _: None) -> Comparison:
    """Compare two runs in every respect. `advance` is called with the number of cells done."""
    compared = compare_cells(a, b, advance)
    metrics, conditions = compare_measures(a, b)
    return Comparison(
        compared.cells,
        compared.same,
        compared.only_a,
        compared.only_b,
        a.in_words,
        b.in_words,
        curves(compared.cells),
        metrics,
        conditions,
        no_metrics(a, b),
        compare_verdict(a, b, compared.cells, metrics),
    )
