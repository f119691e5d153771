"""Everything that differs between two runs: cells, curves, metrics, correlations.

Correlations are over the models that have both values in both runs (`n`), which each resample draws alike; the interval
of the difference is that of percentiles (Efron 1979).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from ...core.records import Missing
from ..correlations.model_values import StudyTable, find_study_table, subsets_of, values_of
from ..correlations.table import correlate
from ..statistics.power import detected_widths
from ..statistics.resampling import bootstrap, percentile_interval
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
    correlations: pl.DataFrame
    no_correlations: str | None
    """The reason why there are no correlations, or None."""
    verdict: Verdict
    """The differences beyond chance, and a line for each that is not determined."""

    def what_differs(self) -> Comparison:
        """Leave out the rows in which both runs say the same."""
        changed_cells = pl.sum_horizontal("changed", "lost", "gained") > 0
        moved = pl.col("difference").abs() > SAME
        return self._select(changed_cells | (pl.col("n") == 0), changed_cells, moved | ONE_SIDED, moved)

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
            beyond,
        )

    def _select(self, cells: pl.Expr, curves: pl.Expr, numbers: pl.Expr, correlations: pl.Expr) -> Comparison:
        """Leave out the rows of each table where its expression is not true."""
        return replace(
            self,
            cells=self.cells.filter(cells),
            curves=self.curves.filter(curves),
            metrics=self.metrics.filter(numbers),
            conditions=self.conditions.filter(numbers),
            correlations=self.correlations.filter(correlations),
        )


def compare_runs(a: Run, b: Run, advance: Callable[[float], None] = lambda _: None) -> Comparison:
    """Compare two runs in every respect. `advance` is called with the number of cells done."""
    compared = compare_cells(a, b, advance)
    correlations, no_correlations = compare_correlations(a, b), None
    if isinstance(correlations, Missing):
        no_correlations = correlations.reason
        correlations = pl.DataFrame(schema=dict.fromkeys(["difference", "low", "high"], pl.Float64))
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
        correlations,
        no_correlations,
        compare_verdict(a, b, compared.cells, metrics),
    )


def compare_correlations(a: Run, b: Run, resamples: int = 10_000) -> pl.DataFrame | Missing:
    """One row a bias, generalization and subset that both runs have, over the models that have both values in both.

    n, coefficient_a, coefficient_b, difference with a 95 % percentile interval over models, p_holm_a, p_holm_b, and the
    smallest difference that is `detectable`. A resample takes the same models in both runs. It is missing
    where there are none to compare.
    """
    if a.column is not None:
        return Missing(f"two {a.column.replace('_', ' ')}s are compared, and correlations are of whole studies")
    tables = list[StudyTable]()
    for run in (a, b):
        table = find_study_table(run.store, run.label, with_errors=False)
        if isinstance(table, Missing):
            return Missing(f"{run.store.path}, {run.label}: {table.reason}")
        tables.append(table)
    table_a, table_b = tables
    biases = [name for name in table_a.biases if name in table_b.biases]
    groups = [name for name in table_a.groups if name in table_b.groups]
    joint = table_a.frame.join(table_b.frame.drop("category"), on="checkpoint", suffix="_b", maintain_order="left")
    pairs = [(name, f"{name}_b") for name in (*biases, *groups)]
    joint = joint.with_columns(
        pl.when(pl.all_horizontal(pl.col(pair).is_not_null())).then(pl.col(pair)) for pair in pairs
    )
    subsets = subsets_of(joint)
    correlations_a, correlations_b = (
        correlate(joint, [x + end for x in biases], [y + end for y in groups], subsets, "spearman", None, resamples)
        for end in ("", "_b")
    )
    rows = correlations_a.select("bias", "group", "subset", "n", coefficient_a="coefficient", p_holm_a="p_holm")
    rows = rows.with_columns(
        coefficient_b=correlations_b["coefficient"],
        p_holm_b=correlations_b["p_holm"],
        difference=correlations_b["coefficient"] - correlations_a["coefficient"],
    )
    with threadpool_limits(1, "blas"):
        intervals = [
            _interval(joint.filter(subsets[subset]), bias, group, resamples) if difference else (None, None)
            for bias, group, subset, difference in rows.select("bias", "group", "subset", "difference").rows()
        ]
    rows = rows.hstack(pl.DataFrame(intervals, dict.fromkeys(["low", "high"], pl.Float64), orient="row"))
    rows = rows.with_columns(detectable=detected_widths() * (pl.col("high") - pl.col("low")))
    return rows.with_columns(pl.col(pl.Float64).fill_nan(None))


def _interval(joint: pl.DataFrame, bias: str, group: str, resamples: int) -> tuple[float, float]:
    """Ends of the interval of the coefficient in B less that in A, over the models that have all four values."""
    values = values_of(joint, [bias, group, f"{bias}_b", f"{group}_b"])
    values = values[:, ~np.isnan(values).any(axis=0)]
    coefficients_a, coefficients_b = (
        bootstrap("spearman", pair[:1], pair[1:], resamples, 0) for pair in (values[:2], values[2:])
    )
    interval = percentile_interval(coefficients_b - coefficients_a)
    return float(interval.low[0, 0]), float(interval.high[0, 0])
