"""Spearman and Pearson of many variables, under many weightings of the observations at once.

Both are one formula, Daniels' generalized coefficient (Daniels 1944): the cosine of two vectors of scores,

    r = sum w s t / sqrt(sum w s^2 * sum w t^2)

    pearson    s_i = x_i - mean(x)
    spearman   s_i = average rank of x_i - mean = 1/2 sum_j w_j sign(x_i - x_j)

An observation that counts w times in a resample is there w times, ranks and ties included.

From nine models on, `p` is two-sided, from t = r sqrt((n - 2) / (1 - r^2)) with n - 2 degrees of freedom; of fewer it
is that of all permutations (`resampling`). The partial coefficient holds z fixed, with n - 3 degrees of freedom, and
has no p of fewer than nine models, whose permutations are not exact for it:

    r_xy.z = (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2) (1 - r_yz^2))

p is adjusted for all m tests of a table, p_(1) <= … <= p_(m):

    Holm 1979                 max over j <= i of min(1, (m - j + 1) p_(j))
    Benjamini-Hochberg 1995   min over j >= i of min(1, m p_(j) / j)

Arrays are (…, variables, observations).
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
    """(…, a, b) of x (…, a, n) with y (…, b, n), where observation i counts weights[…, i] times.

    NaN where a variable does not vary.
    """
    score = centred_ranks if method == "spearman" else _deviations
    return _cosine(score(x, weights), score(y, weights), weights)


def centred_ranks(x: Floats, weights: Floats) -> Floats:
    """Average ranks of x (…, a, n) less their mean, (…, a, n). Halves of whole numbers, so a constant is exactly 0.

    An observation has half of the weights below its value, less half of those above: differences of sums over sorted
    observations, which are exact where weights are whole numbers.
    """
    count = x.shape[-1]
    order = np.argsort(x, axis=-1)
    ordered = np.take_along_axis(x, order, axis=-1)
    # Equal values begin at one place and end at one: those of the first and of the last of them.
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
    """Values (…, a, n) less their mean; from an observation that is there, so that a constant is exactly 0."""
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
    """The coefficients (a, b) of x with y given one variable z, from r (a, b), xz (a,), yz (b,).

    NaN where x or y is z in other units.
    """
    unexplained = (1 - xz[:, None] ** 2) * (1 - yz[None, :] ** 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        coefficient = np.where(unexplained > 1e-12, (r - xz[:, None] * yz[None, :]) / np.sqrt(unexplained), np.nan)
    return np.clip(coefficient, -1, 1)


def t_test(r: Floats, freedom: int) -> Floats:
    """Two-sided p of coefficients under independence; NaN without a degree of freedom."""
    if freedom < 1:
        return np.full_like(r, np.nan)
    with np.errstate(divide="ignore"):  # r = 1 gives t = inf and p = 0
        t = np.abs(r) * np.sqrt(freedom / ((1 - r) * (1 + r)))
    return np.asarray(2 * scipy.special.stdtr(freedom, -t))


# Adjusted p values. NaN is a test that was not made, and does not count.
def holm(p: Floats) -> Floats:
    """Holm 1979: the chance of any false discovery stays below alpha, whatever the dependence of the tests."""
    return _adjusted(p, lambda ordered, rank: np.maximum.accumulate((len(ordered) - rank + 1) * ordered))


def benjamini_hochberg(p: Floats) -> Floats:
    """Benjamini & Hochberg 1995: the expected share of false discoveries stays below alpha.

    This is so for tests that are independent or positively dependent.
    """
    return _adjusted(p, lambda ordered, rank: np.minimum.accumulate((len(ordered) * ordered / rank)[::-1])[::-1])


def _adjusted(p: Floats, rule: Callable[[Floats, Floats], Floats]) -> Floats:
    """Apply the rule, which is given ascending p-values and their ranks from 1."""
    order = np.flatnonzero(~np.isnan(p))
    order = order[np.argsort(p[order], kind="stable")]
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(1, rule(p[order], np.arange(1.0, len(order) + 1)))
    return adjusted
