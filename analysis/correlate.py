"""Spearman rank correlations of many columns with many others at once.

    rho = Pearson's r of the average ranks;  t = rho sqrt((n - 2) / (1 - rho^2));  p = 2 P(T_(n-2) > |t|)

as scipy.stats.spearmanr computes them for one pair. A missing value drops its row from the pairs it is part of only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import stdtr
from scipy.stats import rankdata

from ..errors import StoreError

Floats = NDArray[np.float64]


def correlations(frame: pl.DataFrame, rows: Sequence[str], columns: Sequence[str]) -> pl.DataFrame:
    """Spearman of each of `rows` with each of `columns`, numeric columns of `frame`, one observation a row of it.

    The answer has the columns x, y, spearman, p, n, x slowest, in the order given. spearman and p are null where fewer
    than three observations are complete or a variable does not vary. Raises StoreError for a column that is not there.
    """
    absent = [name for name in (*rows, *columns) if name not in frame.columns]
    if absent:
        raise StoreError(f"correlation: no column {', '.join(absent)}; the frame has {', '.join(frame.columns)}")
    x, y = (frame.select(pl.col(list(names)).cast(pl.Float64)).to_numpy() for names in (rows, columns))
    rho, p, n = spearman_blocks(x, y)
    table = {
        "x": np.repeat(list(rows), len(columns)),
        "y": np.tile(list(columns), len(rows)),
        "spearman": rho.ravel(),
        "p": p.ravel(),
        "n": n.ravel(),
    }
    return pl.DataFrame(table).with_columns(pl.col("spearman", "p").fill_nan(None))


def spearman(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """(rho, p), each (a, b), of complete x (n, a) and y (n, b): ranks, then one matrix product.

    Both are NaN where a column does not vary or n < 3.
    """
    n = len(x)
    if n < 3:
        empty = np.full((x.shape[1], y.shape[1]), np.nan)
        return empty, empty.copy()
    rho = np.clip(_unit_ranks(x).T @ _unit_ranks(y), -1, 1)
    with np.errstate(divide="ignore"):  # rho = 1 gives t = inf and p = 0
        t = np.abs(rho) * np.sqrt((n - 2) / ((1 - rho) * (1 + rho)))
    return rho, 2 * stdtr(n - 2, -t)


def spearman_blocks(x: Floats, y: Floats) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """(rho, p, n), each (a, b), of x (n, a) and y (n, b) that may hold NaN, over the complete rows of each pair.

    Columns with the same gaps share a matrix product, so complete data take one.
    """
    shape = (x.shape[1], y.shape[1])
    rho, p, count = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=np.int64)
    for x_there, x_columns in _by_gaps(x):
        for y_there, y_columns in _by_gaps(y):
            rows, block = x_there & y_there, np.ix_(x_columns, y_columns)
            rho[block], p[block] = spearman(x[np.ix_(rows, x_columns)], y[np.ix_(rows, y_columns)])
            count[block] = rows.sum()
    return rho, p, count


def _unit_ranks(values: Floats) -> Floats:
    """Average ranks of each column, centred and of length 1; NaN for a constant column."""
    ranks = rankdata(values, axis=0)
    ranks -= ranks.mean(axis=0)
    length = np.linalg.norm(ranks, axis=0)
    unit: Floats = np.divide(ranks, length, out=np.full_like(ranks, np.nan), where=length > 0)
    return unit


def _by_gaps(values: Floats) -> list[tuple[NDArray[np.bool_], NDArray[np.intp]]]:
    """(rows that are there, columns of which this holds) for each pattern of missing values."""
    patterns, of_column = np.unique(~np.isnan(values), axis=1, return_inverse=True)
    return [(patterns[:, i], np.flatnonzero(of_column.ravel() == i)) for i in range(patterns.shape[1])]
