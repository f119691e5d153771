"""The 95 % interval of a share of images, which may depend on each other: Wilson's, with a number of images to match.

It is the interval of accuracies, flips of a gate, shape biases, benchmarks and their means. A share p that is off by
e = sum of d_u over the C clusters u, which are independent of each other, has the variance

    V         = sum d_u^2 * C / (C - 1), and at least what it would be if all images were independent
    effective = p (1 - p) / V, or C where all images are alike and hide V    (Franco, Little, Louis & Slud 2019)
    z         = Student's quantile with min(C - 1, 2 (sum d_u^2)^2 / sum d_u^4) degrees of freedom, at least 1
    ends      = (p + z^2 / (2 e) ± z sqrt(p (1 - p) / e + z^2 / (4 e^2))) / (1 + z^2 / e),   e = effective

The ends are Wilson's (Wilson 1927), the degrees of freedom Satterthwaite's (1946): where few clusters differ from the
others, as where p is near 0 or 1, V is hardly known, however many there are. Independent images have the normal
quantile, 1.96; fewer than 30 have Student's with C - 1.

The view `accuracy` computes the same in SQL, with Student's quantile as a polynomial that is right to 2e-9.
"""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

from .arrays import ALPHA, Floats, Z

FEW = 30
"""Independent images below which Wilson's interval with the normal quantile holds the share too rarely."""
NO_SPREAD = 1e-9
"""Deviations in images, or a sum of their fourth powers, up to which clusters are alike but for rounding."""


def wilson(share: Floats | float, n: Floats | float, quantile: Floats | float = Z) -> tuple[Floats, Floats]:
    """Ends (low, high) of the interval of shares in [0, 1] of n > 0 independent images; any shapes that broadcast.

    n need not be whole. The quantile is the normal one for 95 %, or Student's.
    """
    share, z2 = np.asarray(share, dtype=np.float64), np.square(quantile) / np.asarray(n, dtype=np.float64)
    centre, half = (share + z2 / 2) / (1 + z2), np.sqrt(z2 * (share * (1 - share) + z2 / 4)) / (1 + z2)
    return np.minimum(share, centre - half).clip(0), np.maximum(share, centre + half).clip(max=1)


def independent_quantile(images: int) -> float:
    """The quantile for a number of independent images: the normal one from 30 of them on."""
    return float(student(np.asarray(images - 1.0))) if images < FEW else Z


def student(freedom: Floats) -> Floats:
    """The 97.5 % quantile of Student's distribution, with at least 1 degree of freedom."""
    return np.asarray(stdtrit(np.maximum(1, freedom), 1 - ALPHA / 2), dtype=np.float64)


def contributing(deviations: Floats) -> float:
    """How many clusters make up a variance: (sum d_u^2)^2 / sum d_u^4 of (clusters,), in images; 0 if none deviates."""
    squares = np.square(deviations[np.abs(deviations) > NO_SPREAD])
    return float(squares.sum() ** 2 / np.square(squares).sum()) if len(squares) else 0.0


def share_of_sums(right: Floats, sizes: Floats) -> tuple[float, float] | tuple[None, None]:
    """Ends of the interval of sum right / sum sizes, from right answers and answers by cluster, (clusters,).

    Clusters without an answer say nothing. No interval where fewer than two clusters have one.
    """
    right, sizes = right[sizes > 0], sizes[sizes > 0]
    if len(sizes) < 2:
        return None, None
    n, share = float(sizes.sum()), np.asarray(right.sum() / sizes.sum())
    low, high, _ = clustered_interval(share, (right - sizes * share) / n, share * (1 - share) / n, round(n))
    return float(low), float(high)


def clustered_interval(
    share: Floats, deviations: Floats, independent: Floats, images: int
) -> tuple[Floats, Floats, Floats]:
    """(low, high, effective) of shares (…), from d_u as `deviations` (…, clusters).

    independent (…) is the variance if all of the images were independent of each other. They are where there are as
    many clusters as images.
    """
    count = deviations.shape[-1]
    second, fourth = (deviations**2).sum(axis=-1), (deviations**4).sum(axis=-1)
    if count < images:
        spread = fourth * float(images) ** 4 > NO_SPREAD
        seen = np.where(spread, 2 * second**2 / np.where(spread, fourth, 1), np.inf)
        quantile: Floats | float = student(np.minimum(count - 1, seen))
        variance = second * (count / max(1, count - 1))
    else:
        quantile, variance = independent_quantile(count), second
    variance = np.maximum(variance, independent)
    estimable = (share > 0) & (share < 1) & (count > 1) & (variance > 0)
    variance = np.where(estimable, variance, 1)
    effective = np.where(estimable, share * (1 - share) / variance, count)
    return *wilson(share, effective, quantile), effective
