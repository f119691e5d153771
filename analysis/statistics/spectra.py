"""Power spectra of image sets and the Fourier sensitivity of models, with confidence intervals.

This module computes mean powers of frequency bands over images, the exponent of a power law, and ratios of two image
sets. Let p_ib be the power of band b in image i of n, and P_b its mean over images. Every result is a weighted sum over
bands of w_b ln P_b: the logarithm of one mean power (w = 1 for that band), or the exponent of the power law. The
exponent is minus the slope of ln P against ln f, fitted by least squares with weight 1 / r for ring r. The confidence
interval follows from the delta method:

    d_u  = sum over the images of cluster u of sum_b w_b (p_ib - P_b) / (n P_b)
    ends   sum_b w_b ln P_b ± t sqrt(C / (C - 1) sum d_u^2)            C clusters, t as in `wilson`

The interval of a mean power is the exponential of these limits. Two image sets are treated as independent, so the
half-widths of their logarithms are combined as the square root of the sum of squares.

The Fourier sensitivity of a model (Krishnamachari et al. 2022, TMLR) is the distribution of the power of its input
gradient over frequencies, averaged over images. Its intervals are computed in the same way:

    SFS(r) = sum over ring r of |F(g)|^2 / sum over all rings of |F(g)|^2

g is the gradient of the cross-entropy with respect to the pixels, averaged over channels. The cross-entropy is that of
the labels, or of the predicted classes if there are no labels. Ring r of 1, 2, ... contains the frequencies (u, v) with
round(sqrt(u^2 + v^2)) = r. Octaves are square bands instead, bounded by max(|u|, |v|).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from . import Floats, Ints
from .wilson import contributing, student


@dataclass(frozen=True, eq=False)
class MeanPower:
    """Logarithms of mean powers of frequency bands."""

    logarithms: Floats
    """Natural logarithm of the mean power of each band, (bands,)."""
    deviations: Floats
    """Contribution of each cluster to the errors of the logarithms, (C, bands)."""


def mean_power(powers: Floats, clusters: Ints) -> MeanPower:
    """Average powers over images.

    Args:
        powers: Positive powers of n images, (n, bands).
        clusters: Cluster number of each image, (n,), with at least two distinct values.

    Returns:
        The logarithms of the means, with what is needed for confidence intervals.
    """
    means = powers.mean(axis=0)
    return MeanPower(np.log(means), _cluster_sums(powers / means - 1, clusters))


def weighted(power: MeanPower, weights: Floats) -> tuple[float, float]:
    """Compute a weighted sum of log powers and its uncertainty.

    Args:
        power: Result of `mean_power`.
        weights: Weights w_b, (bands,): 1 for a single band, or `exponent_weights`.

    Returns:
        Sum of w_b ln P_b, and the half-width of its 95% confidence interval.
    """
    return float(power.logarithms @ weights), _half_width(power.deviations @ weights)


def exponent_weights(cycles: Floats) -> Floats:
    """Return the weights w_b that give the exponent of a power law.

    Args:
        cycles: Frequencies of the rings 1, 2, ... in cycles/image, (rings,).

    Returns:
        Weights for `weighted`, (rings,).
    """
    x = np.log(cycles)
    counts = 1 / np.arange(1, len(x) + 1)
    away = x - np.average(x, weights=counts)
    return np.asarray(-counts * away / (counts * away**2).sum())


def mean_interval(values: Floats, clusters: Ints) -> tuple[Floats, Floats, Floats]:
    """Average values over images.

    Args:
        values: Values of n images, (n, k).
        clusters: Cluster number of each image, (n,).

    Returns:
        Means and the lower and upper limits of their 95% confidence intervals, (k,) each.
    """
    means = values.mean(axis=0)
    half = np.array([_half_width(column) for column in _cluster_sums(values - means, clusters).T])
    return means, means - half, means + half


def _cluster_sums(values: Floats, clusters: Ints) -> Floats:
    """Return the sums of the values (n, k) of each cluster, divided by n, (C, k)."""
    _, place = np.unique(clusters, return_inverse=True)
    sums = np.zeros((place.max() + 1, values.shape[1]))
    np.add.at(sums, place, values / len(values))
    return sums


def _half_width(deviations: Floats) -> float:
    """Return the half-width of a 95% confidence interval from the contributions d_u, (C,)."""
    count, maximum = len(deviations), float(abs(deviations).max())
    if maximum == 0:
        return 0.0
    freedom = min(count - 1, 2 * contributing(deviations / maximum))
    return float(student(np.array(freedom))) * sqrt(np.square(deviations).sum() * count / (count - 1))
