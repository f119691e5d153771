"""Everything that differs between two runs: cells, curves, metrics, correlations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import polars as pl

from ...core.records import Missing
from .cells import DIFFERS, Run, compare_cells, curves
from .correlations import compare_correlations
from .measures import compare_measures
from .verdict import Verdict, compare_verdict, no_metrics

SAME = 1e-12
"""Differences up to which numbers are the same but for rounding."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A; differences are B less A."""

    a: str
    b: str
    same: int
    """Cells that are one and the same in both."""
    cells: pl.DataFrame
    """The other ones that both runs have."""
    curves: pl.DataFrame
    metrics: pl.DataFrame
    conditions: pl.DataFrame
    """Metrics of single conditions."""
    no_metrics: str | None
    """The reason why there are no metrics, or None."""
    correlations: pl.DataFrame
    no_correlations: str | None
    """The reason why there are no correlations, or None."""
    only_a: pl.DataFrame
    only_b: pl.DataFrame
    replaced: pl.DataFrame
    """Conditions that others have taken the place of: see `replaced_conditions`."""
    verdict: Verdict
    """The differences beyond chance, and a line for each that is not determined."""

    def what_differs(self) -> Comparison:
        """Leave out the rows in which both runs say the same."""
        changed_cells = pl.sum_horizontal("changed", "lost", "gained") > 0
        changed_values = pl.col("difference").abs() > SAME
        one_sided = pl.col("value_a").is_null() != pl.col("value_b").is_null()
        return replace(
            self,
            cells=self.cells.filter(changed_cells | (pl.col("n") == 0)),
            curves=self.curves.filter(changed_cells),
            metrics=self.metrics.filter(changed_values.fill_null(False) | one_sided),
            conditions=self.conditions.filter(changed_values.fill_null(False) | one_sided),
            correlations=self.correlations.filter(changed_values.fill_null(False)),
        )

    def beyond_chance(self) -> Comparison:
        """Leave out the rows whose difference may be chance.

        A row stays where the 95 % interval of its difference leaves zero out, where p is below 0.05 after Holm, where
        the number means something else (`state`) or is there in one run alone, and where values or predictions differ
        and there is no interval to judge that by. A curve stays where one of its cells differs after Holm.
        """
        low, high, difference = (pl.col(name).fill_nan(None) for name in ("low", "high", "difference"))
        no_interval = (low.is_null() & (difference.abs() > SAME)).fill_null(False)
        beyond_chance = ((low > 0) | (high < 0)).fill_null(False) | no_interval
        changed_states = pl.col("state_a").ne_missing(pl.col("state_b"))
        one_sided = pl.col("value_a").is_null() != pl.col("value_b").is_null()
        without_accuracy = pl.col("changed") > 0
        return replace(
            self,
            cells=self.cells.filter(
                beyond_chance | DIFFERS.fill_null(False) | (difference.is_null() & without_accuracy).fill_null(False)
            ),
            curves=self.curves.filter(
                (pl.col("different") > 0) | (pl.col("mean_difference").is_null() & without_accuracy)
            ),
            metrics=self.metrics.filter(beyond_chance | changed_states | one_sided),
            conditions=self.conditions.filter(beyond_chance | changed_states | one_sided),
            correlations=self.correlations if self.no_correlations else self.correlations.filter(beyond_chance),
        )


def compare_runs(a: Run, b: Run, advance: Callable[[float], None] = lambda _: None) -> Comparison:
    """Compare two runs in every respect. `advance` is called with the number of cells done."""
    compared = compare_cells(a, b, advance)
    correlations = compare_correlations(a, b)
    metrics, conditions = compare_measures(a, b)
    return Comparison(
        _words(a),
        _words(b),
        compared.same,
        compared.cells,
        curves(compared.cells),
        metrics,
        conditions,
        no_metrics(a, b),
        pl.DataFrame(schema={"difference": pl.Float64}) if isinstance(correlations, Missing) else correlations,
        correlations.reason if isinstance(correlations, Missing) else None,
        compared.only_a,
        compared.only_b,
        compared.replaced,
        compare_verdict(a, b, compared.cells, metrics),
    )


def _words(run: Run) -> str:
    return ", ".join(filter(None, (str(run.store.path), run.label, run.value)))
