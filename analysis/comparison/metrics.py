"""Metrics and correlations of two runs that are no longer the same."""

from __future__ import annotations

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from ..correlations.models import study_table, subsets_of, values_of
from ..correlations.table import correlate
from ..statistics.coefficients import Method
from ..statistics.resampling import bootstrap, percentile_interval
from .cells import Run


def compare_metrics(a: Run, b: Run) -> pl.DataFrame:
    """One row a checkpoint, image set and metric that both runs have: value_a, value_b, difference, low, high, state_a,
    state_b, note.

    Where both values have an interval (l, u), so has the difference: MOVER (Zou & Donner 2008),

        low  = B - A - sqrt((B - l_B)^2 + (u_A - A)^2)
        high = B - A + sqrt((u_B - B)^2 + (A - l_A)^2)

    It takes the two as independent; on the same images they are not, and the interval is wider than it need be.
    """
    query = "SELECT checkpoint, image_set, metric, value, low, high, state, note FROM metric_of(?) ORDER BY ALL"
    mine, theirs = a.store.frame(query, [a.label]), b.store.frame(query, [b.label])
    keys = ["checkpoint", "image_set", "metric"]
    both = mine.join(theirs, on=keys, suffix="_b", nulls_equal=True, maintain_order="left")  # groups have no image set
    one, other = pl.col("value"), pl.col("value_b")
    down = ((other - pl.col("low_b")) ** 2 + (pl.col("high") - one) ** 2).sqrt()
    up = ((pl.col("high_b") - other) ** 2 + (one - pl.col("low")) ** 2).sqrt()
    return both.select(
        *keys,
        value_a="value",
        value_b="value_b",
        difference=other - one,
        low=other - one - down,
        high=other - one + up,
        state_a="state",
        state_b="state_b",
        note=pl.when(one.is_null() != other.is_null()).then(
            pl.coalesce(
                pl.when(one.is_null()).then(pl.lit("A: ") + pl.col("note")),
                pl.when(other.is_null()).then(pl.lit("B: ") + pl.col("note_b")),
            )
        ),
    )


def compare_correlations(a: Run, b: Run, method: Method = "spearman", resamples: int = 10_000) -> pl.DataFrame:
    """One row a bias, generalization and subset that both runs have, over the models that both have.

    n, coefficient_a, coefficient_b, difference with a 95 % percentile interval over models, p_holm_a, p_holm_b. A
    resample takes the same models in both runs. Raises UsageError where one of them has nothing to correlate.
    """
    mine, theirs = study_table(a.store, a.label), study_table(b.store, b.label)
    biases = [name for name in mine.biases if name in theirs.biases]
    groups = [name for name in mine.groups if name in theirs.groups]
    joint = mine.frame.join(theirs.frame.drop("category"), on="checkpoint", suffix="_b", maintain_order="left")
    subsets = subsets_of(joint)
    one, other = (
        correlate(joint, [x + end for x in biases], [y + end for y in groups], subsets, method, None, resamples)
        for end in ("", "_b")
    )
    both = one.select("bias", "group", "subset", "n", coefficient_a="coefficient", p_holm_a="p_holm")
    both = both.with_columns(
        coefficient_b=other["coefficient"],
        p_holm_b=other["p_holm"],
        difference=other["coefficient"] - one["coefficient"],
    )
    changed = both.filter(pl.col("difference").abs() > 0).rows(named=True)
    with threadpool_limits(1, "blas"):
        intervals = [
            {name: row[name] for name in ("bias", "group", "subset")}
            | _difference(joint.filter(subsets[row["subset"]]), row["bias"], row["group"], method, resamples)
            for row in changed
        ]
    keys = {"bias": pl.String, "group": pl.String, "subset": pl.String, "low": pl.Float64, "high": pl.Float64}
    return both.join(pl.DataFrame(intervals, keys), on=list(keys)[:3], how="left", maintain_order="left")


def _difference(joint: pl.DataFrame, bias: str, group: str, method: Method, resamples: int) -> dict[str, float]:
    """Interval of the coefficient in B less that in A, over the models that have all four values."""
    values = values_of(joint, [bias, group, f"{bias}_b", f"{group}_b"])
    values = values[:, ~np.isnan(values).any(axis=0)]
    mine, theirs = (bootstrap(method, pair[:1], pair[1:], resamples, 0) for pair in (values[:2], values[2:]))
    interval = percentile_interval(theirs - mine)
    return {"low": float(interval.low[0, 0]), "high": float(interval.high[0, 0])}
