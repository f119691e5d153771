"""Confidence interval of a proportion of images that may depend on each other.

Images that depend on each other, such as several photographs of one object, form a cluster. Images of different
clusters are independent. A proportion p of n images in C clusters deviates from the true proportion by e = sum d_u,
where d_u is the contribution of cluster u and n_u its number of images. Its variance V, effective sample size n_e and
95% confidence interval (low, high) are

    V         = max(S, M) * C / (C - 1), but at least v / n, the variance if all images were independent
    S, M      = sum d_u^2,  v / n (1 + rho (m - 1)),   m = sum n_u^2 / n,   v = p (1 - p)
    rho       = 1 - (n v - sum n^2 d_u^2 / n_u) / (v (n - C + (m - 1) / 2)), limited to [0, 1]; 0 if all d_u are 0
    n_e       = v / V; n / m if p is 0 or 1, where v and V are 0        (Franco, Little, Louis & Slud 2019)
    g         = 2 (m / n)^2 (1 - 1 / m); 0 if p is 0 or 1
    high      : the larger root of (high - p)^2 = t(h)^2 (high (1 - high) / n_e + g (1 - high)^2)
    t(h)      = Student's quantile with min(C - 1, 2 (S + g (1 - h)^2)^2 / sum d_u^4) degrees of freedom, at least 1
    h         = the upper limit computed with t(1) in place of t(h)

By symmetry, the lower limit is 1 minus the upper limit of the proportion 1 - p of incorrect images.

The terms have the following sources. The degrees of freedom are Satterthwaite's (1946). M is the expected value of V if
clusters differ only in their sizes (Kish 1965). rho is the intraclass correlation of Fleiss & Cuzick (1979), to which
half a cluster of m identical outcomes is added as a pseudo-observation. g accounts for clusters that are entirely
correct or entirely incorrect but happen to be absent from the sample: the variance between the clusters in the sample
cannot reflect them.

If all images are independent, every cluster contains one image, V = v / n and g = 0. The interval is then Wilson's
(1927). Its t is the normal quantile 1.96, or the quantile of Student's t with n - 1 degrees of freedom if there are
fewer than 30 images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from . import ALPHA, Floats, Ints

NORMAL_IMAGES = 30
"""Minimum number of independent images for the normal quantile.

With fewer images, Wilson's interval with the normal quantile covers the true proportion less often than its nominal
level, so Student's t is used instead.
"""
UNSEEN = 0.5
"""Weight of the pseudo-cluster whose images are all alike, or all differ. It is added to the observed clusters."""
PSEUDO_CLUSTERS = 2.0
"""Factor 2 in g: the weight of the squared deviation of clusters that are absent from the sample."""
NO_SPREAD = 1e-9
"""Numerical tolerance.

Deviations in images, sums of their fourth powers, and distances up to this size are treated as rounding errors.
"""


@dataclass(frozen=True, slots=True)
class SampledShare:
    """Proportions of correct images in the form that confidence intervals and one-sided tests need.

    All fields are scalars or arrays of any shapes that broadcast. The module header defines the symbols.
    """

    share: Floats | float
    """Proportion p, in [0, 1]."""
    effective: Floats | float
    """Effective sample size n_e: the number of independent images that would give the same variance.

    Positive, not necessarily an integer.
    """
    unseen: Floats | float = 0.0
    """Variance g that absent clusters would add if all observed images had the opposite outcome."""
    freedom_low: Floats | float = np.inf
    """Degrees of freedom of the quantile for the lower limit. Infinity selects the normal distribution."""
    freedom_high: Floats | float = np.inf
    """Degrees of freedom of the quantile for the upper limit. Infinity selects the normal distribution."""

    def mirror(self) -> SampledShare:
        """Return the proportions of incorrect images, 1 - p."""
        return SampledShare(1 - self.share, self.effective, self.unseen, self.freedom_high, self.freedom_low)

    def ends(self, alpha: float = ALPHA) -> tuple[Floats, Floats]:
        """Compute the confidence interval.

        Args:
            alpha: Probability that the interval misses the true proportion, for example 0.05 for a 95% interval.

        Returns:
            Lower and upper limits, each in [0, 1].
        """
        return self._lower_end(alpha), 1 - self.mirror()._lower_end(alpha)

    def _lower_end(self, alpha: float) -> Floats:
        """Return the smaller root x of (p - x)^2 = t^2 (x (1 - x) / n_e + g x^2)."""
        share, z2 = np.asarray(self.share, np.float64), np.square(student(np.asarray(self.freedom_low), alpha))
        square, linear = 1 + z2 / self.effective - z2 * self.unseen, 2 * share + z2 / self.effective
        root = np.sqrt(np.maximum(0, linear**2 - 4 * square * share**2))
        return np.asarray(np.minimum(share, 2 * share**2 / (linear + root)))

    def p_above(self, limit: float) -> Floats:
        """Compute a one-sided p-value of the null hypothesis that the true proportion is at most `limit`.

        The p-value is 0.025 if `limit` equals the lower limit of the 95% confidence interval.

        Args:
            limit: Proportion to test against, strictly between 0 and 1.
        """
        error = np.sqrt(limit * (1 - limit) / self.effective + self.unseen * limit**2)
        return np.asarray(scipy.special.stdtr(self.freedom_low, (limit - self.share) / error))

    def p_below(self, limit: float) -> Floats:
        """Compute a one-sided p-value of the null hypothesis that the true proportion is at least `limit`.

        Args:
            limit: Proportion to test against, strictly between 0 and 1.
        """
        return self.mirror().p_above(1 - limit)

    def growth(self, limit: Floats | float, quantile: float) -> Floats:
        """Compute the factor by which the sample must grow until a limit of the interval reaches `limit`: see `growth`.

        Args:
            limit: Proportion in [0, 1].
            quantile: Half-width of the interval in standard errors.
        """
        remainder = np.where(self.share > limit, limit, 1 - limit)
        variance = np.asarray(limit * (1 - limit) / self.effective)
        return growth(np.asarray(self.share - limit), variance, self.unseen * remainder**2, quantile)


def growth(distance: Floats, variance: Floats, unseen: Floats, quantile: float) -> Floats:
    """Compute the factor by which a sample must grow until its interval has a given half-width.

    The result is the solution k of distance^2 = quantile^2 (variance / k + unseen / k^2). The variance due to images is
    inversely proportional to the number of images, the variance due to absent clusters to its square. It assumes that
    additional images resemble the present ones.

    Args:
        distance: Half-width, the distance from the estimate to the limit of the interval.
        variance: Variance due to the images in the sample.
        unseen: Variance due to clusters that are absent from the sample.
        quantile: Half-width of the interval in standard errors.

    Returns:
        Growth factors. Infinity where the distance is at most 1e-9.
    """
    spread, distance = quantile**2 * variance, np.where(np.abs(distance) > NO_SPREAD, distance, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(spread**2 + 4 * (quantile * distance) ** 2 * unseen)
        return np.asarray((spread + root) / (2 * distance**2))


def unseen_variance(weights: Floats, image_weights: float) -> float:
    """Compute g of a weighted mean.

    Args:
        weights: Sum of the image weights in each cluster, (clusters,).
        image_weights: Sum of the squared weights of all images.
    """
    clustered = float(np.square(weights).sum())
    return PSEUDO_CLUSTERS * clustered * max(0.0, clustered - image_weights)


def independent_freedom(images: int) -> float:
    """Return the degrees of freedom for a number of independent images: n - 1 below 30 images, otherwise infinity."""
    return images - 1.0 if images < NORMAL_IMAGES else np.inf


def student(freedom: Floats, alpha: float = ALPHA) -> Floats:
    """Return the 1 - alpha / 2 quantile of Student's t distribution.

    Args:
        freedom: Degrees of freedom. Values below 1 are replaced by 1, and infinity selects the normal distribution.
        alpha: Two-sided error probability.
    """
    # Infinite degrees of freedom need a separate branch: `stdtrit` then differs from the normal quantile by one
    # rounding error.
    quantile = scipy.special.stdtrit(np.maximum(1, freedom), 1 - alpha / 2)
    return np.asarray(np.where(np.isinf(freedom), scipy.special.ndtri(1 - alpha / 2), quantile), dtype=np.float64)


def contributing(deviations: Floats) -> float:
    """Return the effective number of clusters that a variance consists of: (sum d_u^2)^2 / sum d_u^4.

    Args:
        deviations: Contribution d_u of each cluster in units of images, (clusters,). Contributions up to 1e-9 are
            ignored.
    """
    squares = np.square(deviations[np.abs(deviations) > NO_SPREAD])
    fourth = np.square(squares).sum()
    return float(np.float_power(squares.sum(), 2) / (fourth if fourth > 0 else 1))


def widening(deviations: Floats, sizes: Floats | Ints, independent: Floats) -> Floats:
    """Return the factor that raises an observed variance to the one expected from the cluster sizes.

    It is max(1, M / sum d_u^2), with M as in the module header.

    Args:
        deviations: Contributions d_u of the clusters, (..., clusters).
        sizes: Number of images in each cluster, (clusters,), at least 1.
        independent: Variance v / n if all images were independent, (...).

    Returns:
        Factors of shape (...). They are 1 if each cluster contains one image. Where p is 0 or 1, the factor is the
        number of clusters divided by the effective sample size n / m instead.
    """
    n, count = sizes.sum(), len(sizes)
    if count == n:
        return np.ones_like(independent)
    average = np.square(sizes).sum() / n
    alike = independent <= 0
    spread = np.where(alike, 1, independent) * n**2  # n v: total sum of squares, within and between clusters
    within = spread - (np.square(deviations * n) / sizes).sum(axis=-1)
    rho = (1 - within * n / (spread * (n - count + UNSEEN * (average - 1)))).clip(0, 1)
    model, second = independent * (1 + rho * (average - 1)), np.square(deviations).sum(axis=-1)
    # Clusters with equal proportions show no correlation. Their between-cluster variance is 0, so there is nothing to
    # scale.
    apart = second * float(n) ** 2 > NO_SPREAD
    ratio = np.divide(model, second, out=np.ones_like(model), where=apart)
    return np.asarray(np.where(alike, count * average / n, ratio.clip(1)), np.float64)


def independent_share(hits: int, images: int) -> SampledShare:
    """The share of right answers to images, at least one, each of which is a cluster."""
    return SampledShare(hits / images, images, 0.0, *[independent_freedom(images)] * 2)


def counted_share(hits: Floats | Ints, sizes: Floats | Ints) -> SampledShare:
    """Compute the proportion sum hits / sum sizes from counts per cluster.

    Args:
        hits: Number of correct images in each cluster, (..., clusters).
        sizes: Number of images in each cluster, (clusters,), at least 1.

    Returns:
        Proportions of shape (...), ready for confidence intervals and tests.
    """
    n = sizes.sum()
    share = np.asarray(hits.sum(axis=-1) / n)
    deviations, independent = (hits - sizes * share[..., None]) / n, share * (1 - share) / n
    widest = widening(deviations, sizes, independent)
    return sampled_share(share, deviations, independent, round(n), widest, unseen_variance(sizes / n, 1 / n))


def sampled_share(
    share: Floats, deviations: Floats, independent: Floats, images: int, widest: Floats | float, unseen: float
) -> SampledShare:
    """Combine proportions with the error terms of their clusters.

    Args:
        share: Proportions, (...).
        deviations: Contributions d_u of the clusters, (..., clusters).
        independent: Variance if all images were independent of each other, (...).
        images: Number of images n. The images are independent if this equals the number of clusters.
        widest: Result of `widening`.
        unseen: Result of `unseen_variance`.

    Returns:
        Proportions of shape (...), ready for confidence intervals and tests.
    """
    count = deviations.shape[-1]
    second, variance = (deviations**2).sum(axis=-1), independent
    if count < images:
        variance = np.maximum(second * (count / max(1, count - 1)) * widest, independent)
    estimable = (share > 0) & (share < 1) & (count > 1) & (variance > 0)
    effective = np.where(estimable, share * (1 - share) / np.where(estimable, variance, 1), count / widest)
    if count == images:
        return SampledShare(share, effective, 0.0, *[independent_freedom(count)] * 2)
    pseudo, fourth = np.where(estimable, unseen, 0), (deviations**4).sum(axis=-1)
    spread, most = fourth * float(images) ** 4 > NO_SPREAD, max(1, count - 1)

    def freedom(total: Floats) -> Floats:
        # `**` rounds differently for arrays and for scalars, in the last bit. `float_power` treats both alike, so that
        # a result does not depend on how many proportions are computed at once.
        estimate = np.where(spread, 2 * np.float_power(total, 2) / np.where(spread, fourth, 1), most)
        return np.asarray(estimate.clip(1, most))

    # The degrees of freedom depend on the limit, and the limit on the degrees of freedom. Compute preliminary limits
    # with t(1) first, then the degrees of freedom at these limits.
    low, high = SampledShare(share, effective, pseudo, freedom(second), freedom(second)).ends()
    freedoms = freedom(second + pseudo * low**2), freedom(second + pseudo * (1 - high) ** 2)
    return SampledShare(share, effective, pseudo, *freedoms)
