"""Compare two runs in both cells and metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import polars as pl

from ..metrics.base import State
from ..metrics.registry import without_replaced
from .cell_pairs import DIFFERS, Compared, Run, compare_cells
from .metric_pairs import OTHER_IMAGES, compare_measures
from .verdict import Verdict, compare_verdict, no_metrics

ROUNDING = 1e-12
"""Differences up to this size are rounding errors."""
ONE_SIDED = pl.col("value_a").is_null() != pl.col("value_b").is_null()
"""True if only one run has a value."""

COMPARED = pl.col("note").ne_missing(pl.lit(OTHER_IMAGES))
"""True unless the two runs have only some of their images in common."""


@dataclass(frozen=True, slots=True)
class Comparison(Compared):
    """Comparison of run B with run A. Differences are B - A."""

    a: str
    """Database, version and, if selected, checkpoint or image set of run A."""
    b: str
    """The same for run B."""
    metrics: pl.DataFrame
    """Metrics over many conditions. See `compare_measures`."""
    conditions: pl.DataFrame
    """Metrics of single conditions. See `compare_measures`."""
    no_metrics: str | None
    """Reason why there are no metrics, or None."""
    verdict: Verdict
    """Significant differences, and a line for each metric that is not determined."""

    def __repr__(self) -> str:
        return "\n".join([f"{self.a} and {self.b}", *self.verdict.sentences])

    def compared(self) -> Comparison:
        """Remove metrics for which the runs have only some of their images in common."""
        metrics, conditions = (table.filter(COMPARED) for table in (self.metrics, self.conditions))
        return replace(self, metrics=metrics, conditions=conditions)

    def beyond_chance(self) -> Comparison:
        """Keep only the rows with a difference that is not explained by chance.

        A row is kept if the 95% confidence interval of its difference excludes zero, if its Holm-corrected p is below
        0.05, if the states differ, if only one run has a value, or if values or predictions differ without an interval
        or test. Metrics that are at chance in both runs, that are replaced by another metric, or for which the runs
        have only some of their images in common are removed.
        """
        low, high, difference = (pl.col(name).fill_nan(None) for name in ("low", "high", "difference"))
        beyond = (low > 0) | (high < 0) | (low.is_null() & (difference.abs() > ROUNDING))
        states_differ = pl.col("state_a").ne_missing(pl.col("state_b"))
        at_chance = ~states_differ & (pl.col("state_a") == State.AT_CHANCE)
        numbers = (beyond | states_differ | ONE_SIDED) & ~at_chance & COMPARED
        return replace(
            self,
            cells=self.cells.filter(beyond | DIFFERS | (difference.is_null() & (pl.col("changed") > 0))),
            metrics=without_replaced(self.metrics).filter(numbers),
            conditions=self.conditions.filter(numbers),
        )

    def strongest(self, count: int) -> Comparison:
        """Keep at most `count` rows of each table, with the largest differences relative to their half-widths.

        Of each metric of single conditions, only the condition with the largest difference is kept.
        """
        nearest = pl.when(pl.col("difference") > 0).then("low").otherwise("high")
        widths = (pl.col("difference") / (pl.col("difference") - nearest)).abs().fill_nan(None)
        cells, metrics, conditions = (
            table.sort(widths, descending=True, nulls_last=True, maintain_order=True)
            for table in (self.cells, self.metrics, self.conditions)
        )
        conditions = conditions.unique("metric", keep="first", maintain_order=True)
        return replace(self, cells=cells[:count], metrics=metrics[:count], conditions=conditions[:count])


def compare_runs(a: Run, b: Run, advance: Callable[[float], None] = lambda _: None) -> Comparison:
    """Compare the cells and metrics of two runs. `advance` is called with the number of completed cells."""
    compared = compare_cells(a, b, advance)
    metrics, conditions = compare_measures(a, b)
    return Comparison(
        **{column.name: getattr(compared, column.name) for column in fields(compared)},
        a=a.in_words,
        b=b.in_words,
        metrics=metrics,
        conditions=conditions,
        no_metrics=no_metrics(a, b),
        verdict=compare_verdict(a, b, compared.cells, metrics, conditions),
    )
