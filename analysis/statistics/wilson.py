"""The 95 % interval of a share of images, which may depend on each other.

A share p of n images that is off by e = sum of d_u over C independent clusters u of n_u images has the variance

    V         = max(S, M) * C / (C - 1), and at least v / n, what it would be if all images were independent
    S, M      = sum d_u^2,  v / n (1 + rho (m - 1)),   m = sum n_u^2 / n,   v = p (1 - p)
    rho       = 1 - (n v - sum n^2 d_u^2 / n_u) / (v (n - C + (m - 1) / 2)), from 0 to 1; 0 where all d_u are 0
    n_e       = v / V, or n / m where all images are alike and hide V      (Franco, Little, Louis & Slud 2019)
    g         = 2 (m / n)^2 (1 - 1 / m), or 0 where all images are alike
    high      : (high - p)^2 = t(h)^2 (high (1 - high) / n_e + g (1 - high)^2)
    t(h)      = Student's quantile with min(C - 1, 2 (S + g (1 - h)^2)^2 / sum d_u^4) degrees of freedom, at least 1
    h         = the upper end with t(1)

The lower end is 1 less the upper end of the wrong images, whose share is 1 - p. The degrees of freedom are
Satterthwaite's (1946). M is what V is expected to be where clusters differ in their sizes alone (Kish 1965). rho is the
intraclass correlation by Fleiss & Cuzick 1979, with half a cluster of m images that are all alike added. g stands for
clusters that are right or wrong as a whole and that the images happen to have none of: the variance of the clusters
that are there cannot show it.

Independent images, of which each is a cluster, have V = v / n and no g: the ends are Wilson's (1927). Their t is the
normal quantile, 1.96, or below 30 images Student's with n - 1 degrees of freedom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from . import ALPHA, Floats, Ints

NORMAL_IMAGES = 30
"""Independent images below which Wilson's interval with the normal quantile holds the share too rarely."""
UNSEEN = 0.5
"""Weight of a cluster whose images are all alike, or all differ: it is counted among those that were seen."""
PSEUDO_CLUSTERS = 2.0
"""Weight of the squared deviation of a cluster that no image was seen of: the 2 in g."""
NO_SPREAD = 1e-9
"""Deviations in images, a sum of their fourth powers, or a distance, up to which numbers differ by rounding alone."""


@dataclass(frozen=True, slots=True)
class SampledShare:
    """Shares of right images as their intervals and one-sided tests take them: numbers of any shapes that broadcast."""

    share: Floats | float
    """p, in [0, 1]."""
    effective: Floats | float
    """n_e, the number of independent images that say as much; above 0, and not always whole."""
    unseen: Floats | float = 0.0
    """g: the variance by clusters that are not seen, were all others wrong."""
    freedom_low: Floats | float = np.inf
    """Degrees of freedom of the quantile of the lower end; infinite for the normal one."""
    freedom_high: Floats | float = np.inf

    def mirror(self) -> SampledShare:
        """The shares of wrong images."""
        return SampledShare(1 - self.share, self.effective, self.unseen, self.freedom_high, self.freedom_low)

    def ends(self, alpha: float = ALPHA) -> tuple[Floats, Floats]:
        """Ends (low, high) of the interval that misses `alpha` of true shares."""
        return self._lower_end(alpha), 1 - self.mirror()._lower_end(alpha)

    def _lower_end(self, alpha: float) -> Floats:
        """The smaller root x of (p - x)^2 = t^2 (x (1 - x) / n_e + g x^2)."""
        share, z2 = np.asarray(self.share, np.float64), np.square(student(np.asarray(self.freedom_low), alpha))
        square, linear = 1 + z2 / self.effective - z2 * self.unseen, 2 * share + z2 / self.effective
        root = np.sqrt(np.maximum(0, linear**2 - 4 * square * share**2))
        return np.asarray(np.minimum(share, 2 * share**2 / (linear + root)))

    def p_above(self, limit: float) -> Floats:
        """One-sided p that a share is `limit`, above 0 and below 1, or less: 0.025 where the interval begins there."""
        error = np.sqrt(limit * (1 - limit) / self.effective + self.unseen * limit**2)
        return np.asarray(scipy.special.stdtr(self.freedom_low, (limit - self.share) / error))

    def p_below(self, limit: float) -> Floats:
        """One-sided p that a share is `limit`, above 0 and below 1, or more."""
        return self.mirror().p_above(1 - limit)

    def growth(self, limit: Floats | float, quantile: float) -> Floats:
        """`growth` until the interval ends at a limit."""
        remainder = np.where(self.share > limit, limit, 1 - limit)
        variance = np.asarray(limit * (1 - limit) / self.effective)
        return growth(np.asarray(self.share - limit), variance, self.unseen * remainder**2, quantile)


def growth(distance: Floats, variance: Floats, unseen: Floats, quantile: float) -> Floats:
    """How many times as many images of the same kind have an interval that ends at a distance; infinite up to 1e-9.

    The two variances are those by the images and by clusters that are not seen. The first falls with the number of
    images, and the second with its square.
    """
    spread, distance = quantile**2 * variance, np.where(np.abs(distance) > NO_SPREAD, distance, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(spread**2 + 4 * (quantile * distance) ** 2 * unseen)
        return np.asarray((spread + root) / (2 * distance**2))


def unseen_variance(weights: Floats, image_weights: float) -> float:
    """Compute g of a mean, from the weights of clusters (clusters,) and the sum of squares of those of all images."""
    clustered = float(np.square(weights).sum())
    return PSEUDO_CLUSTERS * clustered * max(0.0, clustered - image_weights)


def independent_freedom(images: int) -> float:
    """The degrees of freedom of a number of independent images: infinite, as of a normal one, from 30 of them on."""
    return images - 1.0 if images < NORMAL_IMAGES else np.inf


def student(freedom: Floats, alpha: float = ALPHA) -> Floats:
    """The quantile of Student's distribution that alpha / 2 of it exceeds, with at least 1 degree of freedom."""
    # The normal quantile is one rounding error away from Student's.
    quantile = scipy.special.stdtrit(np.maximum(1, freedom), 1 - alpha / 2)
    return np.asarray(np.where(np.isinf(freedom), scipy.special.ndtri(1 - alpha / 2), quantile), dtype=np.float64)


def contributing(deviations: Floats) -> float:
    """How many clusters make up a variance: (sum d_u^2)^2 / sum d_u^4 of d_u (clusters,), in images."""
    squares = np.square(deviations[np.abs(deviations) > NO_SPREAD])
    fourth = np.square(squares).sum()
    return float(np.float_power(squares.sum(), 2) / (fourth if fourth > 0 else 1))


def widening(deviations: Floats, sizes: Floats | Ints, independent: Floats) -> Floats:
    """How many times sum d_u^2 the variance of shares (…) is at least, by the sizes of clusters: max(1, M / sum d_u^2).

    Args:
        deviations: d_u, (…, clusters).
        sizes: images of each cluster, (clusters,), at least 1.
        independent: v / n, (…).

    Where all images are alike, it is how many times fewer images n / m are than clusters. Clusters of one have 1.
    """
    n, count = sizes.sum(), len(sizes)
    if count == n:
        return np.ones_like(independent)
    average = np.square(sizes).sum() / n
    alike = independent <= 0
    spread = np.where(alike, 1, independent) * n**2  # n v, within and between clusters
    within = spread - (np.square(deviations * n) / sizes).sum(axis=-1)
    rho = (1 - within * n / (spread * (n - count + UNSEEN * (average - 1)))).clip(0, 1)
    model, second = independent * (1 + rho * (average - 1)), np.square(deviations).sum(axis=-1)
    # Clusters that all have the same share show no correlation, and have no variance to be widened.
    apart = second * float(n) ** 2 > NO_SPREAD
    ratio = np.divide(model, second, out=np.ones_like(model), where=apart)
    return np.asarray(np.where(alike, count * average / n, ratio.clip(1)), np.float64)


def counted_share(hits: Floats | Ints, sizes: Floats | Ints) -> SampledShare:
    """The share sum hits / sum sizes, from right answers (…, clusters) and answers (clusters,), at least one each."""
    n = sizes.sum()
    share = np.asarray(hits.sum(axis=-1) / n)
    deviations, independent = (hits - sizes * share[..., None]) / n, share * (1 - share) / n
    widest = widening(deviations, sizes, independent)
    return sampled_share(share, deviations, independent, round(n), widest, unseen_variance(sizes / n, 1 / n))


def sampled_share(
    share: Floats, deviations: Floats, independent: Floats, images: int, widest: Floats | float, unseen: float
) -> SampledShare:
    """Shares (…) with their errors, from d_u as `deviations` (…, clusters).

    independent (…) is the variance if all of the images were independent of each other. They are where there are as
    many clusters as images. widest (…) is what `widening` gives, unseen what `unseen_variance` gives.
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
        # The square of an array differs from that of a number in its last bit; float_power takes both for numbers.
        estimate = np.where(spread, 2 * np.float_power(total, 2) / np.where(spread, fourth, 1), most)
        return np.asarray(estimate.clip(1, most))

    low, high = SampledShare(share, effective, pseudo, freedom(second), freedom(second)).ends()
    freedoms = freedom(second + pseudo * low**2), freedom(second + pseudo * (1 - high) ** 2)
    return SampledShare(share, effective, pseudo, *freedoms)
