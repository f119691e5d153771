"""Means of accuracies over image sets, their ratios and their differences.

Let w_i be the weight of image i in a mean, for example 1 / (number of sets x images in its set), p_i the accuracy on
its image set, and y_i 1 if the image is classified correctly and 0 otherwise. The images of cluster u, in whichever
image sets they occur, contribute d_u = sum of w_i (y_i - p_i) to the error of the mean. The variance is the
cluster-robust estimate of Liang & Zeger (1986), but at least the variance for independent images:

    V = sum d_u^2 * C / (C - 1)            C clusters; without the factor C / (C - 1) if each cluster is one image

The confidence interval follows from V as described in `wilson`. With W_u the sum of the weights of the images in
cluster u, the term g of `wilson` is

    g = 2 W (W - sum w_i^2),     W = sum W_u^2

The difference of two accuracies A and B over the same clusters has the confidence interval

    B - A ± t sqrt(C / (C - 1) (S + w^2)),     D_u = d_u(B) - d_u(A),   S = max(sum D_u^2, m sum D_u^2 / n_u)

with t as in `wilson` and m = sum n_u^2 / sum n_u. w = m / sum n_u is the contribution of a pseudo-cluster of m images
whose outcomes all differ between A and B.

If two accuracies have no images in common, and A and B have the intervals (l_A, u_A) and (l_B, u_B), the interval of
their difference follows by MOVER, the method of variance estimates recovery (Zou & Donner 2008):

    low = B - A - sqrt((B - l_B)^2 + (u_A - A)^2),     high = B - A + sqrt((u_B - B)^2 + (A - l_A)^2)

The chance level c is k / K if k of K classes are accepted as correct. An accuracy a is at chance unless

    I_c(n_e a, n_e (1 - a) + 1) <= 0.005

where I is the regularized incomplete beta function and n_e the effective sample size of `wilson`, which equals n for
independent images. In that case, the left side is the binomial probability that n random guesses are correct at least
as often as observed.
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
    """A proportion of correct images, or a mean of such proportions, with what is needed for its variance.

    The module header defines the symbols.
    """

    value: float
    """Proportion or mean."""
    images: int
    """Number n of predictions. An image counts once for each proportion that contains it."""
    clusters: Ints
    """Cluster numbers in ascending order, (C,)."""
    deviations: Floats
    """Contributions d_u of the clusters to the error, (C,)."""
    independent: float
    """Variance V if each image were a cluster of its own."""
    widest: float
    """Factor by which the variance exceeds sum d_u^2 at least, because of the cluster sizes: see `wilson.widening`."""
    sizes: Floats
    """Number of images in each cluster, (C,).

    For a mean over image sets, the count in the set with the most images of the cluster.
    """
    weights: Floats
    """Sum W_u of the image weights in each cluster, (C,)."""
    image_weights: float
    """Sum of the squared image weights, sum w_i^2."""


def share_of(scores: Mask | Floats, clusters: Ints) -> Share:
    """Compute the proportion of correct images on one image set.

    Args:
        scores: Whether each image is correct, or its score in [0, 1], (n,).
        clusters: Cluster number of each image, (n,).

    Returns:
        The mean score with what is needed for its confidence interval.
    """
    value, n = float(scores.mean()), len(scores)
    away = scores - value
    independent = float(np.square(away).mean()) / n
    if (clusters[1:] > clusters[:-1]).all():  # strictly ascending: every cluster is one image
        return Share(value, n, clusters, away / n, independent, 1.0, np.ones(n), np.full(n, 1 / n), 1 / n)
    distinct, place = np.unique(clusters, return_inverse=True)
    deviations, sizes = np.bincount(place, weights=away) / n, np.bincount(place).astype(np.float64)
    widest = float(widening(deviations, sizes, np.asarray(independent)))
    return Share(value, n, distinct, deviations, independent, widest, sizes, sizes / n, 1 / n)


def mean_of(shares: Sequence[Share]) -> Share:
    """Return the unweighted mean of proportions.

    Clusters that occur in several of them are treated as the same cluster.
    """
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
    """Return the largest number of images that each cluster has in any of the proportions, (C,).

    Args:
        place: Index into the C distinct clusters for the concatenated clusters of all proportions.
        shares: Proportions in the same order.
    """
    sizes = np.zeros(place.max() + 1)
    np.maximum.at(sizes, place, np.concatenate([share.sizes for share in shares]))
    return sizes


def share_interval(share: Share, alpha: float = ALPHA) -> tuple[float, float]:
    """Compute the confidence interval of a proportion or of a mean of proportions.

    Args:
        share: Result of `share_of` or `mean_of`.
        alpha: Probability that the interval misses the true value.

    Returns:
        Lower and upper limits, in [0, 1]. The module header of `wilson` has the formula.
    """
    low, high = _sampled(share).ends(alpha)
    return float(low), float(high)


def _sampled(share: Share) -> SampledShare:
    """Return the proportion in the form that `wilson` works with."""
    value, independent = np.array(share.value), np.array(share.independent)
    unseen = unseen_variance(share.weights, share.image_weights)
    return sampled_share(value, share.deviations, independent, share.images, share.widest, unseen)


def mean_interval(share: Share, reach: float = 1.0) -> tuple[float, float]:
    """Compute the 95% confidence interval of a mean of numbers in [-reach, reach] by `paired_interval`."""
    return paired_interval(share.value, share.deviations, 1 / len(share.clusters), share.sizes, reach=reach)


def difference_interval(a: Share, b: Share, *, alpha: float = ALPHA) -> tuple[float, float] | None:
    """Compute the confidence interval of b - a for two proportions over the same clusters.

    Use it to compare two models, or two conditions, on the same images. The pairing by cluster makes the interval
    narrower than that of two independent samples.

    Args:
        a: Proportion to subtract.
        b: Proportion to subtract from.
        alpha: Probability that the interval misses the true difference.

    Returns:
        Lower and upper limits, in [-1, 1]. None if the proportions have no cluster in common or consist of one cluster.
    """
    if np.array_equal(a.clusters, b.clusters):  # The common case needs no sorting and takes a fifth of the time.
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
    """Compute the confidence interval of a difference from the contributions of the clusters.

    The module header has the formula.

    Args:
        difference: Estimate of the difference.
        deviations: Contributions D_u of the C clusters to its error, (C,), C > 1.
        weight: w in the formula for clusters of equal size, 1 / C.
        sizes: Number of images in each cluster, (C,). None if all clusters have the same size.
        alpha: Probability that the interval misses the true difference.
        reach: Largest possible absolute value of the true difference. The limits are clipped to [-reach, reach].

    Returns:
        Lower and upper limits.
    """
    count, second = len(deviations), np.square(deviations).sum()
    if sizes is not None and not (sizes == 1).all():
        average = np.square(sizes).sum() / sizes.sum()
        weight *= average * count / sizes.sum()
        second = np.maximum(second, (deviations**2 / sizes).sum() * average)
    unseen = weight * sqrt(UNSEEN)
    # The pseudo-cluster also counts for the degrees of freedom, as two halves of opposite sign. Dividing by its weight
    # scales the contributions to the order of 1, which the tolerance of `contributing` assumes.
    apart = contributing(np.concatenate([deviations, [unseen, -unseen]]) / weight)
    half = student(np.minimum(count - 1, 2 * apart), alpha) * np.sqrt((second + weight**2) * count / (count - 1))
    return float(np.maximum(-reach, difference - half)), float(np.minimum(reach, difference + half))


AT_FLOOR = 0.005
"""One-sided p-value above which predictions are indistinguishable from predictions that are unrelated to the images."""
NO_VARIANCE = 1e-15
"""Numerical tolerance: a variance of a proportion up to this size is a rounding error."""


def p_above_chance(share: Share, chance: float) -> float:
    """Compute the one-sided p-value of the null hypothesis that a model guesses at random.

    Args:
        share: Proportion of correct images.
        chance: Chance level, in (0, 1).

    Returns:
        p-value. Accuracy counts as above chance if it is at most `AT_FLOOR`.
    """
    return p_above(share.value, chance, chance * (1 - chance) / float(_sampled(share).effective))


def p_above(share: float, rate: float, variance: float) -> float:
    """Compute the one-sided p-value of the null hypothesis that the true proportion is at most `rate`.

    Args:
        share: Observed proportion of correct images.
        rate: Proportion under the null hypothesis.
        variance: Variance of the observed proportion under the null hypothesis.

    Returns:
        Tail probability of a binomial distribution with the effective sample size rate (1 - rate) / variance. It is 1
        if `share` is at most `rate` or if the variance is 0.
    """
    if share <= rate or variance <= NO_VARIANCE:
        return 1.0
    effective = rate * (1 - rate) / variance
    return float(scipy.special.betainc(effective * share, effective * (1 - share) + 1, rate))
