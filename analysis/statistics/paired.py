"""Two runs on the same images: the difference of their accuracies, and its test.

Let d_i = right in B - right in A, in {-1, 0, 1} (lost, same, gained), and D_k its sum over the n_k images of cluster k.
The difference is d = (gained - lost) / n, with an interval after Bonett & Price 2012:

    u = (gained + 1) / (n + 2),  v = (lost + 1) / (n + 2),   u - v ± t sqrt((u + v - (u - v)^2) / (n + 2))

t is Student's quantile with C - 1 degrees of freedom for C clusters, or fewer (`wilson`). Gained, lost and n are first
divided by the design effect of clusters (Kish 1965), at least 1:

    effect = (C / (C - 1) S + mean n_k^2 / 2) / (n / (n - 1) (gained + lost - n d^2) + mean n_k / 2)
    S      = max(sum (D_k - n_k d)^2, n^2 M),   M as in `wilson`, with v = (gained + lost) / n - d^2

The last term of each is half a cluster that differs as a whole.

p is McNemar's test (1947) of as many gained as lost:

    fewer than 25 clusters with D_k != 0   exact: the share of all ways to give signs to |D_k| with |sum| >= |sum D_k|
    else                                   chi2_1 = max(|sum D_k| - 1, 0)^2 / sum D_k^2

The correction is that of Edwards 1948, the variance with clusters that of Yang, Sun & Hardin 2010.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import scipy

from . import Floats, Ints, Mask
from .wilson import NO_SPREAD, UNSEEN, student, widening

Numbers = TypeVar("Numbers", Floats, Ints)
EXACT_BELOW = 25
"""Discordant clusters from which on chi-square is close enough."""


@dataclass(frozen=True, slots=True)
class Paired:
    """One number a cell, (cells,)."""

    lost: Ints
    """Images that are right in A and wrong in B."""
    gained: Ints
    """Images that are wrong in A and right in B."""
    difference: Floats
    """Accuracy in B less that in A, as a fraction."""
    low: Floats
    high: Floats
    """95 % interval of the difference; NaN with a single cluster."""
    p: Floats
    """Two-sided, of no difference."""


def paired(a: Mask, b: Mask, clusters: Ints) -> Paired:
    """Compare the outcomes of cells on the same n images: a and b (cells, n), whether right; clusters (n,)."""
    d = b.astype(np.int64) - a
    losses, gains = (d < 0).sum(axis=1), (d > 0).sum(axis=1)
    sums, sizes, _ = sums_by_cluster(d, clusters)
    low, high = paired_difference(gains - losses, gains + losses, sums, sizes).ends()
    p = np.array([mcnemar_p(row) for row in sums], dtype=np.float64)
    return Paired(losses, gains, (gains - losses) / a.shape[1], low, high, p)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Differences as their intervals and one-sided tests take them, (cells,) each; NaN with a single cluster."""

    centre: Floats
    """u - v by the formula above."""
    error: Floats
    freedom: Floats
    """Degrees of freedom of Student's t."""
    effect: Floats
    """The design effect: how many dependent images say as much as an independent one."""

    def ends(self) -> tuple[Floats, Floats]:
        """Ends of the 95 % interval, (cells,)."""
        half = student(self.freedom) * self.error
        return (self.centre - half).clip(-1), (self.centre + half).clip(max=1)

    def p_above(self, limit: float) -> Floats:
        """One-sided p that the difference is `limit` or less: alpha where the interval of 1 - 2 alpha begins there."""
        return np.asarray(scipy.special.stdtr(self.freedom, (limit - self.centre) / self.error))

    def p_below(self, limit: float) -> Floats:
        """One-sided p that the difference is `limit` or more."""
        return np.asarray(scipy.special.stdtr(self.freedom, (self.centre - limit) / self.error))


def paired_difference(
    total: Floats | Ints, squares: Floats | Ints, sums: Floats | Ints, sizes: Ints
) -> PairedDifference:
    """The mean of d_i, each in [-1, 1], by the formula above: gained is (sum d^2 + sum d) / 2, lost what remains.

    Args:
        total: sum of d over the n images of each cell, (cells,).
        squares: sum of d^2, (cells,).
        sums: sums of d by cluster, (cells, clusters).
        sizes: images of each cluster, (clusters,).
    """
    n, count = int(sizes.sum()), len(sizes)
    if count < 2:
        nans = np.full(len(sums), np.nan)
        return PairedDifference(nans, nans, nans, nans)
    mean = (total / n)[:, None]
    deviations = (sums - sizes * mean) ** 2
    variance = squares / n - mean[:, 0] ** 2
    widest = widening((sums - sizes * mean) / n, sizes, variance / n)
    clustered, fourth = widest * deviations.sum(axis=1) * count / (count - 1), (deviations**2).sum(axis=1)
    freedom = np.full(len(sums), count - 1.0)
    if count < n:
        spread = fourth > NO_SPREAD
        freedom[spread] = np.minimum(count - 1, 2 * deviations[spread].sum(axis=1) ** 2 / fourth[spread])
    independent = (squares - n * mean[:, 0] ** 2) * n / (n - 1)
    effect = ((clustered + UNSEEN * (sizes**2).mean()) / (independent + UNSEEN * sizes.mean())).clip(1)
    u, v, trials = (squares + total) / 2 / effect + 1, (squares - total) / 2 / effect + 1, n / effect + 2
    centre = (u - v) / trials
    error = np.sqrt(((u + v) / trials - centre**2) / trials)
    return PairedDifference(centre, error, np.maximum(1, freedom), effect)


def mcnemar_p(sums: Ints) -> float:
    """McNemar's two-sided p, by the formula above, of D (clusters,) having no preferred sign."""
    steps = np.abs(sums[sums != 0])
    reach = abs(int(sums.sum()))
    if len(steps) >= EXACT_BELOW:
        return float(scipy.special.chdtrc(1, max(reach - 1, 0) ** 2 / (steps**2).sum()))
    total = int(steps.sum())
    chance = np.zeros(2 * total + 1)  # the chance of each sum, from -total to total
    chance[total] = 1
    for step in steps:
        chance = (np.roll(chance, step) + np.roll(chance, -step)) / 2
    return min(1.0, float(chance[np.abs(np.arange(-total, total + 1)) >= reach].sum()))


def sums_by_cluster(d: Numbers, clusters: Ints) -> tuple[Numbers, Ints, Ints]:
    """Sums of d (cells, n) by cluster, (cells, clusters), the sizes of the clusters, and which clusters these are."""
    order = np.argsort(clusters, kind="stable")
    distinct, first, sizes = np.unique(clusters[order], return_index=True, return_counts=True)
    if len(first) == len(clusters):
        return d, sizes, clusters
    return np.add.reduceat(d[:, order], first, axis=1), sizes, distinct
