"""The 95 % interval of a share of images, which may depend on each other.

A share p of n images that is off by e = sum of d_u over C independent clusters u of n_u images has the variance

    V         = max(sum d_u^2, M) * C / (C - 1), and at least v / n, what it would be if all images were independent
    M         = v / n (1 + rho (m - 1)),   m = sum n_u^2 / n,   v = p (1 - p)
    rho       = 1 - (n v - sum n^2 d_u^2 / n_u) / (v (n - C + (m - 1) / 2)), from 0 to 1; 0 where all d_u are 0
    effective = p (1 - p) / V, or n / m where all images are alike and hide V      (Franco, Little, Louis & Slud 2019)
    z         = Student's quantile with min(C - 1, 2 (sum d_u^2)^2 / sum d_u^4) degrees of freedom, at least 1
    ends      = (p + z^2 / (2 e) ± z sqrt(p (1 - p) / e + z^2 / (4 e^2))) / (1 + z^2 / e),   e = effective

The ends are Wilson's (1927), the degrees of freedom Satterthwaite's (1946). M is what V is expected to be where
clusters differ in their sizes alone (Kish 1965). rho is the intraclass correlation by Fleiss & Cuzick 1979, with half a
cluster of m images that are all alike added. Independent images have the normal quantile, 1.96; fewer than 30
Student's.
"""

from __future__ import annotations

import numpy as np
import scipy

from . import ALPHA, Floats, Ints, Z

NORMAL_IMAGES = 30
"""Independent images below which Wilson's interval with the normal quantile holds the share too rarely."""
UNSEEN = 0.5
"""Weight of a cluster whose images are all alike, or all differ: it is counted among those that were seen."""
NO_SPREAD = 1e-9
"""Deviations in images, or a sum of their fourth powers, up to which clusters are alike but for rounding."""


def wilson(share: Floats | float, n: Floats | float, quantile: Floats | float = Z) -> tuple[Floats, Floats]:
    """Ends (low, high) of the interval of shares in [0, 1] of n > 0 independent images; any shapes that broadcast.

    n need not be whole. The quantile is the normal one for 95 %, or Student's.
    """
    share, z2 = np.asarray(share, dtype=np.float64), np.square(quantile) / np.asarray(n, dtype=np.float64)
    centre, half = (share + z2 / 2) / (1 + z2), np.sqrt(z2 * (share * (1 - share) + z2 / 4)) / (1 + z2)
    return np.minimum(share, centre - half).clip(0), np.maximum(share, centre + half).clip(max=1)


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


def share_of_sums(
    hits: Floats, sizes: Floats, widest: Floats | float | None = None
) -> tuple[float, float] | tuple[None, None]:
    """Ends of the interval of sum hits / sum sizes, from right answers and answers by cluster, (clusters,).

    Clusters without an answer say nothing. No interval where fewer than two clusters have one. For `widest`, see
    `counted_share`.
    """
    hits, sizes = hits[sizes > 0], sizes[sizes > 0]
    if len(sizes) < 2:
        return None, None
    share, effective, freedom = counted_share(hits, sizes, widest)
    low, high = wilson(share, effective, student(freedom))
    return float(low), float(high)


def counted_share(
    hits: Floats | Ints, sizes: Floats | Ints, widest: Floats | float | None = None
) -> tuple[Floats, Floats, Floats]:
    """(share, effective, degrees of freedom) of sum hits / sum sizes: what the interval of a share is made of.

    From right answers (…, clusters) and sizes (clusters,): every cluster has an answer. `widest` is `widening` where
    none is given: sizes that are numbers of right answers, and no plan of what to photograph, have 1.
    """
    n = sizes.sum()
    share = np.asarray(hits.sum(axis=-1) / n)
    deviations, independent = (hits - sizes * share[..., None]) / n, share * (1 - share) / n
    if widest is None:
        widest = widening(deviations, sizes, independent)
    return share, *effective_images(share, deviations, independent, round(n), widest)


def p_above(share: Floats, effective: Floats, freedom: Floats, limit: float) -> Floats:
    """One-sided p that a share is `limit`, above 0 and below 1, or less: 0.025 where its 95 % interval begins there."""
    return np.asarray(scipy.special.stdtr(freedom, (limit - share) / np.sqrt(limit * (1 - limit) / effective)))


def effective_images(
    share: Floats, deviations: Floats, independent: Floats, images: int, widest: Floats | float
) -> tuple[Floats, Floats]:
    """(effective, degrees of freedom) of shares (…), from d_u as `deviations` (…, clusters).

    independent (…) is the variance if all of the images were independent of each other. They are where there are as
    many clusters as images. widest (…) is what `widening` gives.
    """
    count = deviations.shape[-1]
    second = (deviations**2).sum(axis=-1)
    if count < images:
        fourth = (deviations**4).sum(axis=-1)
        spread = fourth * float(images) ** 4 > NO_SPREAD
        # The square of an array differs from that of a number in its last bit; float_power takes both for numbers.
        estimate = np.where(spread, 2 * np.float_power(second, 2) / np.where(spread, fourth, 1), np.inf)
        freedom = np.minimum(count - 1, estimate)
        variance = second * (count / max(1, count - 1)) * widest
    else:
        freedom, variance = np.full(np.shape(share), independent_freedom(count)), second
    variance = np.maximum(variance, independent)
    estimable = (share > 0) & (share < 1) & (count > 1) & (variance > 0)
    variance = np.where(estimable, variance, 1)
    return np.where(estimable, share * (1 - share) / variance, count / widest), np.maximum(1, freedom)
