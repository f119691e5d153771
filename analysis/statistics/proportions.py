"""Means of accuracies over image sets, their ratios and their differences.

Let w_i be the weight of image i in a mean, such as 1 / (sets x images of its set), p_i the accuracy of its set, and y_i
whether it is right. The images that show a cluster u, in whichever sets, add d_u = sum of w_i (y_i - p_i) to the error.
The variance is that of Liang & Zeger 1986, at least that of independent images:

    V = sum d_u^2 * C / (C - 1)            C clusters; without C / (C - 1) where each is shown once

`wilson` makes the interval of it, with, for W_u the sum of the weights of the images that show u,

    g = 2 W (W - sum w_i^2),     W = sum W_u^2

A difference of two numbers over the same clusters has the interval

    B - A ± t sqrt(C / (C - 1) (S + w^2)),     D_u = d_u(B) - d_u(A),   S = max(sum D_u^2, m sum D_u^2 / n_u)

with t as in `wilson`, m = sum n_u^2 / sum n_u, and w = m / sum n_u what a cluster of m images adds whose images all
differ.

Two numbers that share no images, with the interval (l, u) of each (MOVER, Zou & Donner 2008), have

    low = B - A - sqrt((B - l_B)^2 + (u_A - A)^2),     high = B - A + sqrt((u_B - B)^2 + (A - l_A)^2)

An accuracy a is at chance, c = k / K where k of K classes are right, unless I_c(n_e a, n_e (1 - a) + 1) <= 0.005, with
I the incomplete beta function and n_e of `wilson`, which is n where images are independent: then it is how often n
blind guesses are right on so many images or more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
import scipy

from . import ALPHA, Floats, Index, Ints, Mask
from .wilson import UNSEEN, SampledShare, contributing, sampled_share, student, unseen_variance, widening


@dataclass(frozen=True, slots=True)
class Share:
    """A share of right answers, or a mean of such shares."""

    value: float
    images: int
    """n: how often an image was judged."""
    clusters: Ints
    """(C,), ascending."""
    deviations: Floats
    """(C,): d_u."""
    independent: float
    """V if no two images showed one cluster."""
    widest: float
    """How many times sum d_u^2 the variance is at least, by the sizes of the clusters: `wilson.widening`."""
    sizes: Floats
    """(C,): images of each cluster, in the set that has most of them."""
    weights: Floats
    """(C,): W_u."""
    image_weights: float
    """Sum of w_i^2."""


def share_of(scores: Mask | Floats, clusters: Ints) -> Share:
    """The share of one set: how right each of n images is, in [0, 1], and which cluster it shows; (n,) each."""
    value, n = float(scores.mean()), len(scores)
    away = scores - value
    independent = float(np.square(away).mean()) / n
    if (clusters[1:] > clusters[:-1]).all():  # each image stands for itself
        return Share(value, n, clusters, away / n, independent, 1.0, np.ones(n), np.full(n, 1 / n), 1 / n)
    distinct, place = np.unique(clusters, return_inverse=True)
    deviations, sizes = np.bincount(place, weights=away) / n, np.bincount(place).astype(np.float64)
    widest = float(widening(deviations, sizes, np.asarray(independent)))
    return Share(value, n, distinct, deviations, independent, widest, sizes, sizes / n, 1 / n)


def mean_of(shares: Sequence[Share]) -> Share:
    """The mean of shares, each with the same weight."""
    distinct, place = np.unique(np.concatenate([share.clusters for share in shares]), return_inverse=True)
    deviations, weights = (
        np.bincount(place, weights=np.concatenate([getattr(share, name) for share in shares])) / len(shares)
        for name in ("deviations", "weights")
    )
    return Share(
        sum(share.value for share in shares) / len(shares),
        sum(share.images for share in shares),
        distinct,
        deviations,
        sum(share.independent for share in shares) / len(shares) ** 2,
        max(share.widest for share in shares),
        _largest(place, shares),
        weights,
        sum(share.image_weights for share in shares) / len(shares) ** 2,
    )


def _largest(place: Index, shares: Sequence[Share]) -> Floats:
    """(C,): the images of each cluster in the share that has most of them; `place` numbers the clusters of all."""
    sizes = np.zeros(place.max() + 1)
    np.maximum.at(sizes, place, np.concatenate([share.sizes for share in shares]))
    return sizes


def share_interval(share: Share, alpha: float = ALPHA) -> tuple[float, float]:
    """The interval of the share that misses `alpha` of true shares."""
    low, high = _sampled(share).ends(alpha)
    return float(low), float(high)


def _sampled(share: Share) -> SampledShare:
    value, independent = np.array(share.value), np.array(share.independent)
    unseen = unseen_variance(share.weights, share.image_weights)
    return sampled_share(value, share.deviations, independent, share.images, share.widest, unseen)


def mean_interval(share: Share, reach: float = 1.0) -> tuple[float, float]:
    """The 95 % interval of a mean of numbers in [-reach, reach]: `paired_interval`."""
    return paired_interval(share.value, share.deviations, 1 / len(share.clusters), share.sizes, reach=reach)


def difference_interval(a: Share, b: Share, *, alpha: float = ALPHA) -> tuple[float, float] | None:
    """Interval of b - a, shares of the same clusters: `paired_interval`, with d_u that of b less that of a.

    It misses `alpha` of true differences. There is none where no cluster is shared, or there is but one.
    """
    if np.array_equal(a.clusters, b.clusters):  # as mostly, which takes a fifth of the time
        distinct, deviations, sizes = a.clusters, b.deviations - a.deviations, np.maximum(a.sizes, b.sizes)
    else:
        distinct, place = np.unique(np.concatenate([a.clusters, b.clusters]), return_inverse=True)
        deviations = np.bincount(place, np.concatenate([-a.deviations, b.deviations])).astype(np.float64)
        sizes = _largest(place, [a, b])
    if len(distinct) in (1, len(a.clusters) + len(b.clusters)):
        return None
    return paired_interval(b.value - a.value, deviations, 1 / len(distinct), sizes, alpha, reach=1.0)


def paired_interval(
    difference: float,
    deviations: Floats,
    weight: float,
    sizes: Floats | None = None,
    alpha: float = ALPHA,
    *,
    reach: float = inf,
) -> tuple[float, float]:
    """Ends of the interval of a difference, from d_u, what each of C > 1 clusters adds to its error, (C,).

    The interval misses `alpha` of true differences. `weight` is w above for clusters of one size; its two halves count
    among the clusters that make up the variance.
    `sizes` (C,) are the images of each cluster; left out, clusters have one size. No true difference lies outside of
    [-reach, reach], nor do the ends.
    """
    count, second = len(deviations), np.square(deviations).sum()
    if sizes is not None and not (sizes == 1).all():
        average = np.square(sizes).sum() / sizes.sum()
        weight *= average * count / sizes.sum()
        second = np.maximum(second, (deviations**2 / sizes).sum() * average)
    unseen = weight * sqrt(UNSEEN)
    apart = contributing(np.concatenate([deviations, [unseen, -unseen]]) / weight)
    half = student(np.minimum(count - 1, 2 * apart), alpha) * np.sqrt((second + weight**2) * count / (count - 1))
    return float(np.maximum(-reach, difference - half)), float(np.minimum(reach, difference + half))


AT_FLOOR = 0.005
"""One-sided p above which right answers are not told from those that have nothing to do with the images."""
NO_VARIANCE = 1e-15
"""Variance of a share, up to which it is one of rounding alone."""


def p_above_chance(share: Share, chance: float) -> float:
    """The one-sided p that a share of right answers is no greater than blind guesses of a rate `chance` may give."""
    return p_above(share.value, chance, chance * (1 - chance) / float(_sampled(share).effective))


def p_above(share: float, rate: float, variance: float) -> float:
    """The one-sided p that a share of right answers is no more than a rate at which it has the variance."""
    if share <= rate or variance <= NO_VARIANCE:
        return 1.0
    effective = rate * (1 - rate) / variance
    return float(scipy.special.betainc(effective * share, effective * (1 - share) + 1, rate))
