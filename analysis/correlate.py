"""Tables of correlations: biases with generalization. docs/statistics.md has the formulas and what they cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from ..errors import UnknownName
from .adjust import benjamini_hochberg, holm
from .coefficients import METHODS, Method, coefficients, p_values
from .estimates import estimates
from .model_values import Models, complete_blocks, read_models, values_of

SCHEMA: Mapping[str, type[pl.DataType]] = {
    "method": pl.String,
    "bias": pl.String,
    "generalization": pl.String,
    "subset": pl.String,
    "n": pl.Int64,
    "coefficient": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "low_images": pl.Float64,
    "high_images": pl.Float64,
    "p": pl.Float64,
    "p_permutation": pl.Float64,
    "p_holm": pl.Float64,
    "p_bh": pl.Float64,
    "partial": pl.Float64,
    "partial_p": pl.Float64,
    "loco_low": pl.Float64,
    "loco_high": pl.Float64,
    "loco_low_category": pl.String,
    "loco_high_category": pl.String,
    "note": pl.String,
}


def correlate(
    frame: pl.DataFrame,
    biases: Sequence[str],
    groups: Sequence[str],
    subsets: Mapping[str, pl.Expr],
    method: Method = "spearman",
    given: str | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> pl.DataFrame:
    """Each bias with each generalization group in each subset: one row each, bias slowest, subset fastest.

    Args:
        frame: one row a model: category, and a numeric column a bias or group. Where it also has NAME_low and
            NAME_high, the 95 % interval of each value over images, low_images and high_images take account of it.
        subsets: name -> which rows belong to it.
        given: the column that `partial` holds fixed.
        resamples: of the bootstrap, and as many permutations.

    Returns:
        The columns of SCHEMA. p_holm and p_bh adjust p over all rows. A number that the data do not determine is null,
        and `note` says why.

    Raises:
        StoreError: a column is not there.
        UnknownName: the method is none of METHODS.
    """
    if method not in METHODS:
        raise UnknownName("method", method, METHODS)
    tables = []
    for subset, wanted in subsets.items():
        models = read_models(frame.filter(wanted), biases, groups, given)
        with threadpool_limits(1, "blas"):  # the products are small: threads would wait for each other
            tables.append(_table(models, method, resamples, seed).with_columns(subset=pl.lit(subset)))
    table = pl.concat(tables).sort(pl.int_range(pl.len()).over("subset"), maintain_order=True)
    p = table["p"].fill_null(np.nan).to_numpy()
    table = table.with_columns(method=pl.lit(method), p_holm=pl.Series(holm(p)), p_bh=pl.Series(benjamini_hochberg(p)))
    return table.select(*SCHEMA).with_columns(pl.col(pl.Float64).fill_nan(None))


def _table(models: Models, method: Method, resamples: int, seed: int) -> pl.DataFrame:
    """The rows of one subset, bias slowest, without method, subset and adjusted p."""
    empty = pl.DataFrame(schema={**SCHEMA, "place": pl.Int64})
    blocks = [empty]
    for there, of_x, of_y in complete_blocks(models.x, models.y):
        block = models.part(there, of_x, of_y)
        columns = {
            "bias": np.repeat(np.array(block.biases, object), len(of_y)),
            "generalization": np.tile(np.array(block.groups, object), len(of_x)),
            "place": (of_x[:, None] * len(models.y) + of_y).ravel(),
        }
        columns |= {name: values.ravel() for name, values in estimates(block, method, resamples, seed).items()}
        kinds = {name: empty.schema[name] for name in columns}
        rows = pl.DataFrame({name: values.tolist() for name, values in columns.items()}, kinds, strict=False)
        if block.n < models.n:
            gaps = pl.lit(f"{models.n - block.n} of {models.n} models lack a value")
            rows = rows.with_columns(note=pl.concat_str(gaps, "note", separator="; ", ignore_nulls=True))
        blocks.append(rows)
    return pl.concat(blocks, how="diagonal").sort("place").drop("place", "subset")


def correlations(frame: pl.DataFrame, rows: Sequence[str], columns: Sequence[str]) -> pl.DataFrame:
    """Spearman of each of `rows` with each of `columns`, numeric columns of `frame`, one observation a row of it.

    The answer has the columns x, y, spearman, p, n, x slowest, in the order given; a missing value drops its row from
    the pairs it is part of. spearman and p are null where fewer than three observations are complete or a variable
    does not vary. Raises StoreError for a column that is not there.
    """
    x, y = values_of(frame, rows), values_of(frame, columns)
    r, p = np.full((2, len(rows), len(columns)), np.nan)
    n = np.zeros(r.shape, np.int64)
    for there, of_x, of_y in complete_blocks(x, y):
        block, count = np.ix_(of_x, of_y), int(there.sum())
        n[block] = count
        if count >= 3:
            mine, other = x[of_x][:, there], y[of_y][:, there]
            r[block] = coefficients("spearman", mine, other, np.ones(count))
            p[block] = p_values("spearman", r[block], mine, other)
    table = {"x": np.repeat(list(rows), len(columns)), "y": np.tile(list(columns), len(rows))}
    table |= {"spearman": r.ravel(), "p": p.ravel(), "n": n.ravel()}
    return pl.DataFrame(table).with_columns(pl.col("spearman", "p").fill_nan(None))
