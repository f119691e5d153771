"""Frequencies of images: mean powers of bands.

Powers have means over images, a power law, and ratios of two sets. With p_ib the power of band b in image i of n and
P_b its mean, every number is a sum over bands of w_b ln P_b: the logarithm of a mean power (w = 1 for one band), or the
exponent of the power law, minus the slope of ln P against ln f by least squares, in which ring r counts 1 / r.

    d_u  = sum over the images of cluster u of sum_b w_b (p_ib - P_b) / (n P_b)
    ends   sum_b w_b ln P_b ± t sqrt(C / (C - 1) sum d_u^2)            C clusters, t as in `wilson`

This is the delta method; a mean power has the exponentials of the ends. Two sets are taken as independent: the half
widths of their logarithms add up as squares.

The Fourier sensitivity of a model has the same ends about the mean over images of shares

    SFS(r) = sum over ring r of |F(g)|^2 / sum over all rings of it

with g the gradient of the cross entropy by the pixels, mean over channels, of the labels or else the predicted classes;
ring r of 1, 2, … holds the waves with round(sqrt(u^2 + v^2)) = r, and octaves are square. Source: Krishnamachari et al.
2022, TMLR.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from . import Floats, Ints
from .wilson import contributing, student


@dataclass(frozen=True, eq=False)
class MeanPower:
    """The logarithms of mean powers of bands."""

    logarithms: Floats
    """(bands,)."""
    deviations: Floats
    """(C, bands): what each cluster adds to their error."""


def mean_power(powers: Floats, clusters: Ints) -> MeanPower:
    """The mean over n images of powers above 0, (n, bands); clusters (n,), of which there are two or more."""
    means = powers.mean(axis=0)
    return MeanPower(np.log(means), _cluster_sums(powers / means - 1, clusters))


def weighted(power: MeanPower, weights: Floats) -> tuple[float, float]:
    """Sum of w_b ln P_b, weights (bands,), and the half width of its 95 % interval."""
    return float(power.logarithms @ weights), _half_width(power.deviations @ weights)


def exponent_weights(cycles: Floats) -> Floats:
    """(rings,): w of the exponent, from the cycles per image of rings 1, 2, …"""
    x = np.log(cycles)
    counts = 1 / np.arange(1, len(x) + 1)
    away = x - np.average(x, weights=counts)
    return np.asarray(-counts * away / (counts * away**2).sum())


def mean_interval(values: Floats, clusters: Ints) -> tuple[Floats, Floats, Floats]:
    """Means over images of (n, k), and the ends of their 95 % intervals, (k,) each."""
    means = values.mean(axis=0)
    half = np.array([_half_width(column) for column in _cluster_sums(values - means, clusters).T])
    return means, means - half, means + half


def _cluster_sums(values: Floats, clusters: Ints) -> Floats:
    """(C, k): sums by cluster of (n, k) over n."""
    _, place = np.unique(clusters, return_inverse=True)
    sums = np.zeros((place.max() + 1, values.shape[1]))
    np.add.at(sums, place, values / len(values))
    return sums


def _half_width(deviations: Floats) -> float:
    """The half width of an interval from d_u, (C,)."""
    count, maximum = len(deviations), float(abs(deviations).max())
    if maximum == 0:
        return 0.0
    freedom = min(count - 1, 2 * contributing(deviations / maximum))
    return float(student(np.array(freedom))) * sqrt(np.square(deviations).sum() * count / (count - 1))
