"""Everything that differs between two runs: cells and metrics."""

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
"""Differences up to which numbers are the same but for rounding."""
ONE_SIDED = pl.col("value_a").is_null() != pl.col("value_b").is_null()
"""True where one run alone has the number."""

COMPARED = pl.col("note").ne_missing(pl.lit(OTHER_IMAGES))
"""True where the two have the same images, or none in common."""


@dataclass(frozen=True, slots=True)
class Comparison(Compared):
    """B against A; differences are B less A."""

    a: str
    b: str
    metrics: pl.DataFrame
    conditions: pl.DataFrame
    """Metrics of single conditions."""
    no_metrics: str | None
    """The reason why there are no metrics, or None."""
    verdict: Verdict
    """The differences beyond chance, and a line for each that is not determined."""

    def __repr__(self) -> str:
        return "\n".join([f"{self.a} and {self.b}", *self.verdict.sentences])

    def compared(self) -> Comparison:
        """Leave out the numbers that are of other images in each run."""
        metrics, conditions = (table.filter(COMPARED) for table in (self.metrics, self.conditions))
        return replace(self, metrics=metrics, conditions=conditions)

    def beyond_chance(self) -> Comparison:
        """Leave out the rows whose difference may be chance.

        A row stays where the 95 % interval of its difference leaves zero out, where p is below 0.05 after Holm, where
        the number means something else (`state`) or is there in one run alone, and where values or predictions differ
        and there is no interval to judge that by. Numbers that are at chance in both, that another one stands for, or
        that are of other images in each do not stay.
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
        """Keep at most so many rows of each table: those that are the most half-widths of their intervals from zero.

        Of each metric of conditions the condition stays where it differs most.
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
    """Compare two runs in every respect. `advance` is called with the number of cells done."""
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
