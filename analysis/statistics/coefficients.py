"""Spearman's and Pearson's correlation coefficients, vectorized over variables and bootstrap resamples.

Both are special cases of Daniels' generalized correlation coefficient (Daniels 1944), the cosine of two vectors of
scores s and t. w is the weight of an observation:

    r = sum w s t / sqrt(sum w s^2 * sum w t^2)

    pearson    s_i = x_i - mean(x)
    spearman   s_i = average rank of x_i - mean = 1/2 sum_j w_j sign(x_i - x_j)

Weights make bootstrap resampling fast. An observation that a resample draws w times gets the weight w, which gives the
same ranks, ties included, as w copies of it.

For nine or more models, the p-value is two-sided and follows from t = r sqrt((n - 2) / (1 - r^2)) with n - 2 degrees of
freedom. For fewer models, it is computed by enumerating all permutations (see `resampling`). The partial correlation
coefficient of x and y given z is tested with n - 3 degrees of freedom. It has no p-value for fewer than nine models,
because a permutation test of a partial correlation is not exact:

    r_xy.z = (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2) (1 - r_yz^2))

The p-values p_(1) <= ... <= p_(m) of the m tests of a table are adjusted for multiple testing:

    Holm 1979                 max over j <= i of min(1, (m - j + 1) p_(j))
    Benjamini-Hochberg 1995   min over j >= i of min(1, m p_(j) / j)

Arrays have the shape (..., variables, observations).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import numpy as np
import scipy

from . import Floats

Method: TypeAlias = Literal["spearman", "pearson"]
METHODS: tuple[Method, ...] = get_args(Method)


def coefficients(method: Method, x: Floats, y: Floats, weights: Floats) -> Floats:
    """Compute the correlation of every variable in x with every variable in y.

    Args:
        method: "spearman" or "pearson".
        x: Variables, (..., a, n).
        y: Variables, (..., b, n).
        weights: Number of times that each observation counts, (..., n). Leading dimensions broadcast, for example over
            bootstrap resamples.

    Returns:
        Coefficients in [-1, 1], (..., a, b). NaN where a variable is constant.
    """
    score = centred_ranks if method == "spearman" else _deviations
    return _cosine(score(x, weights), score(y, weights), weights)


def centred_ranks(x: Floats, weights: Floats) -> Floats:
    """Compute average ranks minus their mean.

    The score of an observation is half the total weight of smaller values minus half the total weight of larger values.
    Both are differences of cumulative sums over sorted observations. They are exact for integer weights, so the scores
    of a constant variable are exactly 0.

    Args:
        x: Variables, (..., a, n).
        weights: Number of times that each observation counts, (..., n).

    Returns:
        Scores, (..., a, n). They are multiples of 1/2 for integer weights.
    """
    count = x.shape[-1]
    order = np.argsort(x, axis=-1)
    ordered = np.take_along_axis(x, order, axis=-1)
    # For each observation, find the first and the last position of its value in sorted order.
    begins = np.ones((*x.shape[:-1], count + 1), bool)
    begins[..., 1:-1] = ordered[..., 1:] != ordered[..., :-1]
    places = np.arange(count + 1)
    first = np.maximum.accumulate(np.where(begins, places, 0)[..., :-1], axis=-1)
    end = np.minimum.accumulate(np.where(begins, places, count)[..., :0:-1], axis=-1)[..., ::-1]

    shape = (*np.broadcast_shapes(x.shape[:-2], weights.shape[:-1]), *x.shape[-2:])
    order, first, end, in_rows = (np.broadcast_to(array, shape) for array in (order, first, end, weights[..., None, :]))
    reached = np.zeros((*shape[:-1], count + 1))
    np.cumsum(np.take_along_axis(in_rows, order, axis=-1), axis=-1, out=reached[..., 1:])
    below, through = (np.take_along_axis(reached, places, axis=-1) for places in (first, end))
    ranks = np.empty(shape)
    np.put_along_axis(ranks, order, (below + through - reached[..., -1:]) / 2, axis=-1)
    return ranks


def _deviations(x: Floats, weights: Floats) -> Floats:
    """Return values minus their weighted mean, (..., a, n).

    Values are first taken relative to an observation with positive weight, so that a constant variable gives exactly 0.
    """
    observed = np.argmax(weights > 0, axis=-1)[..., None, None]
    x, observed = np.broadcast_arrays(x, observed)
    offsets = x - np.take_along_axis(x, observed[..., :1], axis=-1)
    mean = (offsets * weights[..., None, :]).sum(axis=-1) / weights.sum(axis=-1)[..., None]
    return np.asarray(offsets - mean[..., None])


def _cosine(s: Floats, t: Floats, weights: Floats) -> Floats:
    product = (s * weights[..., None, :]) @ t.swapaxes(-1, -2)
    s_square, t_square = (values * values @ weights[..., None] for values in (s, t))
    length = np.sqrt(s_square * t_square.swapaxes(-1, -2))
    r = np.divide(product, length, out=np.full_like(product, np.nan), where=length > 0)
    return np.clip(r, -1, 1)


def partial(r: Floats, xz: Floats, yz: Floats) -> Floats:
    """Compute partial correlation coefficients given one variable z.

    Args:
        r: Coefficients of x with y, (a, b).
        xz: Coefficients of x with z, (a,).
        yz: Coefficients of y with z, (b,).

    Returns:
        Coefficients in [-1, 1], (a, b). NaN where x or y is a linear function of z.
    """
    unexplained = (1 - xz[:, None] ** 2) * (1 - yz[None, :] ** 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        coefficient = np.where(unexplained > 1e-12, (r - xz[:, None] * yz[None, :]) / np.sqrt(unexplained), np.nan)
    return np.clip(coefficient, -1, 1)


def t_test(r: Floats, freedom: int) -> Floats:
    """Compute two-sided p-values of correlation coefficients by the t-test.

    Args:
        r: Coefficients of any shape.
        freedom: Degrees of freedom: n - 2, or n - 3 for a partial correlation.

    Returns:
        p-values of the same shape. NaN if there is no degree of freedom.
    """
    if freedom < 1:
        return np.full_like(r, np.nan)
    with np.errstate(divide="ignore"):  # r = 1 gives t = inf and p = 0
        t = np.abs(r) * np.sqrt(freedom / ((1 - r) * (1 + r)))
    return np.asarray(2 * scipy.special.stdtr(freedom, -t))


# Adjustment of p-values for multiple testing. A NaN is a test that was not made: it stays NaN and does not count.
def holm(p: Floats) -> Floats:
    """Adjust p-values by the method of Holm (1979).

    It controls the family-wise error rate: rejecting at alpha keeps the probability of any false discovery at most
    alpha, however the tests depend on each other.

    Args:
        p: p-values, (m,).

    Returns:
        Adjusted p-values, (m,).
    """
    return _adjusted(p, lambda ordered, rank: np.maximum.accumulate((len(ordered) - rank + 1) * ordered))


def benjamini_hochberg(p: Floats) -> Floats:
    """Adjust p-values by the method of Benjamini & Hochberg (1995).

    It controls the false discovery rate: rejecting at alpha keeps the expected proportion of false discoveries at most
    alpha, if the tests are independent or positively dependent.

    Args:
        p: p-values, (m,).

    Returns:
        Adjusted p-values, (m,).
    """
    return _adjusted(p, lambda ordered, rank: np.minimum.accumulate((len(ordered) * ordered / rank)[::-1])[::-1])


def _adjusted(p: Floats, rule: Callable[[Floats, Floats], Floats]) -> Floats:
    """Apply a rule, which receives the p-values in ascending order and their ranks from 1."""
    order = np.flatnonzero(~np.isnan(p))
    order = order[np.argsort(p[order], kind="stable")]
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(1, rule(p[order], np.arange(1.0, len(order) + 1)))
    return adjusted
