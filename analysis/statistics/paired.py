"""Compare the accuracies of two runs A and B on the same images: confidence interval and test of the difference.

Let d_i = (correct in B) - (correct in A) of image i, which is -1 (lost), 0 (unchanged) or 1 (gained), and D_k its sum
over the n_k images of cluster k. The difference of the accuracies is d = (gained - lost) / n. Its confidence interval
inverts Tango's score test (1998):

    high  : (high - d)^2 = t^2 var(high),     var(x) = (2 q + x (1 - x)) / n + g (1 - x)^2
    q     = (sqrt(b^2 - 8 n c) - b) / (4 n), at least 0
    b, c  = (2 n - gained + lost) x - gained - lost,  -lost x (1 - x)

q is the maximum likelihood estimate of the proportion of lost images if x is the true difference. The lower limit is
the negative of the upper limit of A - B. t is the normal quantile for independent images. It is the quantile of
Student's t with C - 1 degrees of freedom for C clusters, or for fewer than 30 images. Gained, lost and n are first
divided by the design effect of the clusters (Kish 1965), which is at least 1:

    effect = (C / (C - 1) S + mean n_k^2 / 2) / (n / (n - 1) (gained + lost - n d^2) + mean n_k / 2)
    S      = max(sum (D_k - n_k d)^2, n^2 M),   M as in `wilson`, with v = (gained + lost) / n - d^2

The last term of the numerator and of the denominator represents half a pseudo-cluster in which all images differ. g is
the variance due to clusters that differ as a whole but are absent from the sample, as in `wilson`. It is 0 if each
image is a cluster. If d_i is a difference of scores, in [-1, 1], gained is (sum d^2 + sum d) / 2 and lost is (sum d^2 -
sum d) / 2.

p is the p-value of McNemar's test (1947) of the null hypothesis that as many images are gained as lost:

    fewer than 25 clusters with D_k != 0   exact: proportion of sign assignments to |D_k| with |sum| >= |sum D_k|
    otherwise                              chi2_1 = max(|sum D_k| - 1, 0)^2 / sum D_k^2

The continuity correction is that of Edwards (1948). The variance for clusters is that of Yang, Sun & Hardin (2010).
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
"""Number of discordant clusters from which the chi-square approximation is accurate enough."""
BISECTIONS = 32
"""Number of bisections of the range of a difference. They determine a limit of its interval to within 5e-10."""


@dataclass(frozen=True, slots=True)
class Paired:
    """Comparison of the outcomes of several cells in two runs A and B. Each field has the shape (cells,)."""

    lost: Ints
    """Number of images that are correct in A and incorrect in B."""
    gained: Ints
    """Number of images that are incorrect in A and correct in B."""
    difference: Floats
    """Accuracy in B minus accuracy in A, in [-1, 1]."""
    low: Floats
    """Lower limit of the 95% confidence interval of the difference. NaN if there is only one cluster."""
    high: Floats
    """Upper limit of the 95% confidence interval of the difference. NaN if there is only one cluster."""
    p: Floats
    """Two-sided p-value of the null hypothesis of no difference."""
    paired_difference: PairedDifference
    """The same differences in the form that further intervals and one-sided tests need."""


def paired(a: Mask, b: Mask, clusters: Ints) -> Paired:
    """Compare two runs on the same images, cell by cell.

    Args:
        a: Whether each image is correct in run A, (cells, n).
        b: Whether each image is correct in run B, (cells, n).
        clusters: Cluster number of each image, (n,).

    Returns:
        Differences of the accuracies with 95% confidence intervals and p-values.
    """
    d = b.astype(np.int64) - a
    losses, gains = (d < 0).sum(axis=1), (d > 0).sum(axis=1)
    sums, sizes, _ = sums_by_cluster(d, clusters)
    difference = paired_difference(gains - losses, gains + losses, sums, sizes)
    p = np.array([mcnemar_p(row) for row in sums], dtype=np.float64)
    return Paired(losses, gains, (gains - losses) / a.shape[1], *difference.ends(), p, difference)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Paired differences in the form that confidence intervals and one-sided tests need.

    Each field has the shape (cells,). All fields are NaN if there is only one cluster. The module header defines the
    symbols.
    """

    gained: Floats
    """Number of gained images, divided by the design effect."""
    lost: Floats
    """Number of lost images, divided by the design effect."""
    images: Floats
    """Number of all images, divided by the design effect."""
    unseen: Floats
    """Variance g that absent clusters would add if the true difference were 0."""
    freedom: Floats
    """Degrees of freedom of Student's t. Infinity selects the normal distribution."""

    @property
    def difference(self) -> Floats:
        """Difference d of the accuracies, in [-1, 1]."""
        return (self.gained - self.lost) / self.images

    @property
    def error(self) -> Floats:
        """Standard error due to the images in the sample, without absent clusters."""
        return np.sqrt(np.maximum(0, (self.gained + self.lost) / self.images - self.difference**2) / self.images)

    def mirror(self) -> PairedDifference:
        """Return the differences A - B."""
        return replace(self, gained=self.lost, lost=self.gained)

    def ends(self, alpha: float = ALPHA) -> tuple[Floats, Floats]:
        """Compute the confidence interval.

        Args:
            alpha: Probability that the interval misses the true difference.

        Returns:
            Lower and upper limits, (cells,).
        """
        return -self.mirror()._upper_end(alpha), self._upper_end(alpha)

    def _upper_end(self, alpha: float) -> Floats:
        """Find the upper limit by bisection, since its equation has no closed solution."""
        difference, z2 = self.difference, np.square(student(self.freedom, alpha))
        low, high = difference, np.ones_like(difference)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            within = (middle - difference) ** 2 <= z2 * sum(self._variances(middle))
            low, high = np.where(within, middle, low), np.where(within, high, middle)
        return low

    def _variances(self, x: Floats | float) -> tuple[Floats, Floats]:
        """Return the two terms of var(x): from images in the sample, and from absent clusters that are entirely
        gained.
        """
        b = (2 * self.images - self.gained + self.lost) * x - self.gained - self.lost
        root = np.sqrt(np.maximum(0, b**2 + 8 * self.images * self.lost * x * (1 - x)))
        q = np.maximum(0, root - b) / (4 * self.images)
        return np.maximum(0, 2 * q + x * (1 - x)) / self.images, self.unseen * np.square(1 - x)

    def p_above(self, limit: float) -> Floats:
        """Compute a one-sided p-value of the null hypothesis that the true difference is at most `limit`.

        The p-value is alpha if `limit` equals the lower limit of the interval of level 1 - 2 alpha.

        Args:
            limit: Difference to test against, in (-1, 1).
        """
        return self.mirror().p_below(-limit)

    def p_below(self, limit: float) -> Floats:
        """Compute a one-sided p-value of the null hypothesis that the true difference is at least `limit`.

        Args:
            limit: Difference to test against, in (-1, 1).
        """
        # If no image differs, the variance at a limit of 0 is 0. Avoid a division by zero.
        error = np.sqrt(np.maximum(sum(self._variances(limit)), np.finfo(np.float64).tiny))
        return np.asarray(scipy.special.stdtr(self.freedom, (self.difference - limit) / error))

    def growth(self, limit: Floats | float, quantile: float) -> Floats:
        """Compute the factor by which the sample must grow until the interval extends to `limit`: see
        `wilson.growth`.
        """
        if_above, if_below = self.mirror()._variances(-limit), self._variances(limit)
        variance, unseen = np.where(self.difference > limit, if_above, if_below)
        return growth(self.difference - limit, variance, unseen, quantile)


def undetermined(cells: int) -> PairedDifference:
    """Return differences of cells about which nothing is known: all fields are NaN."""
    return PairedDifference(*[np.full(cells, np.nan)] * 5)


def paired_difference(
    total: Floats | Ints, squares: Floats | Ints, sums: Floats | Ints, sizes: Ints
) -> PairedDifference:
    """Compute the mean of differences d_i in [-1, 1] by the formulas in the module header.

    Args:
        total: Sum of d over the n images of each cell, (cells,).
        squares: Sum of d^2, (cells,).
        sums: Sums of d by cluster, (cells, clusters).
        sizes: Number of images in each cluster, (clusters,).

    Returns:
        Differences with what is needed for confidence intervals and tests. NaN if there is only one cluster.
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
    """Compute the two-sided p-value of McNemar's test.

    Args:
        sums: Gained minus lost images of each cluster, D, (clusters,).

    Returns:
        p-value of the null hypothesis that D is symmetric around 0. It is exact below `EXACT_BELOW` discordant
        clusters.
    """
    steps = np.abs(sums[sums != 0])
    reach = abs(int(sums.sum()))
    if len(steps) >= EXACT_BELOW:
        return float(scipy.special.chdtrc(1, max(reach - 1, 0) ** 2 / (steps**2).sum()))
    total = int(steps.sum())
    chance = np.zeros(2 * total + 1)  # probability of each sum, from -total to total
    chance[total] = 1
    for step in steps:
        # `np.roll` wraps around, but the rolled-over entries are 0: partial sums never exceed `total`.
        chance = (np.roll(chance, step) + np.roll(chance, -step)) / 2
    return min(1.0, float(chance[np.abs(np.arange(-total, total + 1)) >= reach].sum()))


def sums_by_cluster(d: Numbers, clusters: Ints) -> tuple[Numbers, Ints, Ints]:
    """Sum differences by cluster.

    Args:
        d: Differences, (cells, n).
        clusters: Cluster number of each image, (n,).

    Returns:
        Sums by cluster, (cells, clusters), the number of images in each cluster, and the cluster numbers, (clusters,)
        each.
    """
    order = np.argsort(clusters, kind="stable")
    distinct, first, sizes = np.unique(clusters[order], return_index=True, return_counts=True)
    if len(first) == len(clusters):
        return d, sizes, clusters
    return np.add.reduceat(d[:, order], first, axis=1), sizes, distinct
