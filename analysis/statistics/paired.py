"""Two runs on the same images: the difference of their accuracies, and its test.

Let d_i = right in B - right in A, in {-1, 0, 1} (lost, same, gained), and D_k its sum over the n_k images of cluster k.
The difference is d = (gained - lost) / n, with the interval of Tango's score test (1998):

    high  : (high - d)^2 = t^2 var(high),     var(x) = (2 q + x (1 - x)) / n + g (1 - x)^2
    q     = (sqrt(b^2 - 8 n c) - b) / (4 n), at least 0: the likeliest share that is lost, if x is the true difference
    b, c  = (2 n - gained + lost) x - gained - lost,  -lost x (1 - x)

The lower end is the negative of the upper end of A - B. t is the normal quantile, or Student's with C - 1 degrees of
freedom for C clusters and below 30 images. Gained, lost and n are first divided by the design effect of clusters (Kish
1965), at least 1:

    effect = (C / (C - 1) S + mean n_k^2 / 2) / (n / (n - 1) (gained + lost - n d^2) + mean n_k / 2)
    S      = max(sum (D_k - n_k d)^2, n^2 M),   M as in `wilson`, with v = (gained + lost) / n - d^2

The last term of each is half a cluster that differs as a whole. g, as in `wilson`, is what clusters that differ as a
whole add where the images have none of them; it is 0 where each image is a cluster. Where d_i are scores between -1 and
1, gained is (sum d^2 + sum d) / 2, and lost what remains of sum d^2.

p is McNemar's test (1947) of as many gained as lost:

    fewer than 25 clusters with D_k != 0   exact: the share of all ways to give signs to |D_k| with |sum| >= |sum D_k|
    else                                   chi2_1 = max(|sum D_k| - 1, 0)^2 / sum D_k^2

The correction is that of Edwards 1948, the variance with clusters that of Yang, Sun & Hardin 2010.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import scipy

from . import ALPHA, Floats, Ints, Mask
from .wilson import UNSEEN, growth, independent_freedom, student, unseen_variance, widening

Numbers = TypeVar("Numbers", Floats, Ints)
EXACT_BELOW = 25
"""Discordant clusters from which on chi-square is close enough."""
BISECTIONS = 32
"""Halvings of the range of a difference, after which an end of its interval is known to 5e-10."""


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
    paired_difference: PairedDifference
    """The same as tests take it."""


def paired(a: Mask, b: Mask, clusters: Ints) -> Paired:
    """Compare the outcomes of cells on the same n images: a and b (cells, n), whether right; clusters (n,)."""
    d = b.astype(np.int64) - a
    losses, gains = (d < 0).sum(axis=1), (d > 0).sum(axis=1)
    sums, sizes, _ = sums_by_cluster(d, clusters)
    difference = paired_difference(gains - losses, gains + losses, sums, sizes)
    p = np.array([mcnemar_p(row) for row in sums], dtype=np.float64)
    return Paired(losses, gains, (gains - losses) / a.shape[1], *difference.ends(), p, difference)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Differences as their intervals and one-sided tests take them, (cells,) each; NaN with a single cluster."""

    gained: Floats
    """Images gained, over the design effect."""
    lost: Floats
    """Images lost, over the design effect."""
    images: Floats
    """All images, over the design effect."""
    unseen: Floats
    """g: the variance by clusters that are not seen, were there no other difference."""
    freedom: Floats
    """Degrees of freedom of Student's t; infinite for the normal distribution."""

    @property
    def difference(self) -> Floats:
        """The difference d."""
        return (self.gained - self.lost) / self.images

    @property
    def error(self) -> Floats:
        """The standard error by the images alone."""
        return np.sqrt(np.maximum(0, (self.gained + self.lost) / self.images - self.difference**2) / self.images)

    def mirror(self) -> PairedDifference:
        """The differences of A from B."""
        return replace(self, gained=self.lost, lost=self.gained)

    def ends(self, alpha: float = ALPHA) -> tuple[Floats, Floats]:
        """Ends of the interval that misses `alpha` of true differences, (cells,)."""
        return -self.mirror()._upper_end(alpha), self._upper_end(alpha)

    def _upper_end(self, alpha: float) -> Floats:
        difference, z2 = self.difference, np.square(student(self.freedom, alpha))
        low, high = difference, np.ones_like(difference)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            within = (middle - difference) ** 2 <= z2 * sum(self._variances(middle))
            low, high = np.where(within, middle, low), np.where(within, high, middle)
        return low

    def _variances(self, x: Floats | float) -> tuple[Floats, Floats]:
        """The variance by the images, and by unseen clusters that are gained, if the true difference is x."""
        b = (2 * self.images - self.gained + self.lost) * x - self.gained - self.lost
        root = np.sqrt(np.maximum(0, b**2 + 8 * self.images * self.lost * x * (1 - x)))
        q = np.maximum(0, root - b) / (4 * self.images)
        return np.maximum(0, 2 * q + x * (1 - x)) / self.images, self.unseen * np.square(1 - x)

    def p_above(self, limit: float) -> Floats:
        """One-sided p that the difference is `limit` or less: alpha where the interval of 1 - 2 alpha begins there."""
        return self.mirror().p_below(-limit)

    def p_below(self, limit: float) -> Floats:
        """One-sided p that the difference is `limit` or more."""
        # Where nothing differs, the variance of no difference is 0.
        error = np.sqrt(np.maximum(sum(self._variances(limit)), np.finfo(np.float64).tiny))
        return np.asarray(scipy.special.stdtr(self.freedom, (self.difference - limit) / error))

    def growth(self, limit: Floats | float, quantile: float) -> Floats:
        """`growth` until the interval ends at a limit."""
        if_above, if_below = self.mirror()._variances(-limit), self._variances(limit)
        variance, unseen = np.where(self.difference > limit, if_above, if_below)
        return growth(self.difference - limit, variance, unseen, quantile)


def undetermined(cells: int) -> PairedDifference:
    """Differences of cells that nothing is known of."""
    return PairedDifference(*[np.full(cells, np.nan)] * 5)


def paired_difference(
    total: Floats | Ints, squares: Floats | Ints, sums: Floats | Ints, sizes: Ints
) -> PairedDifference:
    """The mean of d_i, each in [-1, 1], by the formula above.

    Args:
        total: sum of d over the n images of each cell, (cells,).
        squares: sum of d^2, (cells,).
        sums: sums of d by cluster, (cells, clusters).
        sizes: images of each cluster, (clusters,).
    """
    n, count = int(sizes.sum()), len(sizes)
    if count < 2:
        return undetermined(len(sums))
    mean = (total / n)[:, None]
    deviations = (sums - sizes * mean) ** 2
    variance = squares / n - mean[:, 0] ** 2
    widest = widening((sums - sizes * mean) / n, sizes, variance / n)
    clustered = widest * deviations.sum(axis=1) * count / (count - 1)
    independent = (squares - n * mean[:, 0] ** 2) * n / (n - 1)
    effect = ((clustered + UNSEEN * (sizes**2).mean()) / (independent + UNSEEN * sizes.mean())).clip(1)
    unseen, freedom = unseen_variance(sizes / n, 1 / n), independent_freedom(n) if count == n else count - 1
    return PairedDifference(
        (squares + total) / 2 / effect,
        (squares - total) / 2 / effect,
        n / effect,
        np.full(len(sums), unseen),
        np.full(len(sums), float(freedom)),
    )


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
