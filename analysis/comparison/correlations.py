"""Correlations of two runs that are no longer the same.

They are over the models that have both values in both runs (`n`), which each resample draws alike; the interval of the
difference is that of percentiles (Efron 1979).
"""

from __future__ import annotations

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from ...core.records import Missing
from ..correlations.models import StudyTable, find_study_table, subsets_of, values_of
from ..correlations.table import correlate
from ..statistics.power import detected_widths
from ..statistics.resampling import bootstrap, percentile_interval
from .cells import Run


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
    changed = rows.filter(pl.col("difference").abs() > 0).rows(named=True)
    with threadpool_limits(1, "blas"):
        intervals = [
            {name: row[name] for name in ("bias", "group", "subset")}
            | _difference(joint.filter(subsets[row["subset"]]), row["bias"], row["group"], resamples)
            for row in changed
        ]
    keys = {"bias": pl.String, "group": pl.String, "subset": pl.String, "low": pl.Float64, "high": pl.Float64}
    rows = rows.join(pl.DataFrame(intervals, keys), on=list(keys)[:3], how="left", maintain_order="left")
    rows = rows.with_columns(detectable=detected_widths() * (pl.col("high") - pl.col("low")))
    return rows.with_columns(pl.col(pl.Float64).fill_nan(None))


def _difference(joint: pl.DataFrame, bias: str, group: str, resamples: int) -> dict[str, float]:
    """Interval of the coefficient in B less that in A, over the models that have all four values."""
    values = values_of(joint, [bias, group, f"{bias}_b", f"{group}_b"])
    values = values[:, ~np.isnan(values).any(axis=0)]
    coefficients_a, coefficients_b = (
        bootstrap("spearman", pair[:1], pair[1:], resamples, 0) for pair in (values[:2], values[2:])
    )
    interval = percentile_interval(coefficients_b - coefficients_a)
    return {"low": float(interval.low[0, 0]), "high": float(interval.high[0, 0])}
