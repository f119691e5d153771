"""Frequencies of images: mean powers of bands, and labels that can be read out of them.

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

Label information is the accuracy of a linear readout of some features, against permuted labels. Ridge regression of the
labels is fitted to the images t, four fifths of the clusters, by the inner products K of their features, and decides
the others, h:

    outputs = K_ht (K_tt + s I)^-1 Y_t        K centred on the images t; s the mean of K_tt's diagonal
                                              Y 1 / n_c where an image has label c, as n_c of t have, and else 0

`chance` is the mean accuracy over 199 permutations of the labels within folds: of whole clusters where each has one
label, else within clusters. p is the share of permutations, the data among them, in which the largest accuracy of all
readouts, in standard deviations from chance, is as large as this one, so it holds for all readouts at once (Westfall &
Young 1993).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from . import Floats, Ints, Mask
from .wilson import contributing, student

PERMUTATIONS = 199
AT_ONCE = 20
"""Permutations whose outputs are held at once."""


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


@dataclass(frozen=True, eq=False)
class Readouts:
    """The accuracies of r readouts of n images."""

    correct: Mask
    """(r, n)."""
    chance: Floats
    """(r,)."""
    p: Floats
    """(r,), corrected for all of them."""


def read_labels(products: Floats, labels: Ints, clusters: Ints, folds: Ints, seed: int = 0) -> Readouts:
    """Read labels out of r kinds of features.

    Args:
        products: (r, n, n) inner products of the features of n images.
        labels: (n,) from 0, each of them in two clusters or more.
        clusters: (n,).
        folds: (n,) the part in which an image is held out; no cluster lies in two.
        seed: of the permutations.
    """
    rng = np.random.default_rng(seed)
    permuted = np.array([labels, *(_permute(labels, clusters, folds, rng) for _ in range(PERMUTATIONS))])
    hits = np.array([_hits(kernel, permuted, folds) for kernel in products])
    accuracies = hits.mean(axis=2)
    spread = accuracies.std(axis=1, keepdims=True)
    scores = (accuracies - accuracies.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)
    p = (scores.max(axis=0) >= scores[:, :1] - 1e-12).mean(axis=1)
    return Readouts(hits[:, 0], accuracies[:, 1:].mean(axis=1), p)


def standardized_products(features: Floats) -> Floats:
    """(n, n) inner products of (n, d) features, each standardized; one that does not vary counts nothing."""
    deviation = features.std(axis=0)
    z = (features - features.mean(axis=0)) / np.where(deviation > 1e-9, deviation, np.inf)
    return np.asarray(z @ z.T)


def _permute(labels: Ints, clusters: Ints, folds: Ints, rng: np.random.Generator) -> Ints:
    """Labels of whole clusters in another order within their fold, where each has one; else of images within clusters.

    Folds that were drawn by the labels have as many of each after it, and fit them no better than before.
    """
    _, first, place = np.unique(clusters, return_index=True, return_inverse=True)
    if (labels[first][place] == labels).all():
        return _shuffle(labels[first], folds[first], rng)[place]
    return _shuffle(labels, place, rng)


def _shuffle(labels: Ints, groups: Ints, rng: np.random.Generator) -> Ints:
    """Labels in another order within each group."""
    permuted = np.empty_like(labels)
    permuted[np.argsort(groups, kind="stable")] = labels[np.lexsort((rng.random(len(labels)), groups))]
    return permuted


def _hits(kernel: Floats, permuted: Ints, folds: Ints) -> Mask:
    """(permutations, n): whether each image that is held out gets its label, for labels (permutations, n)."""
    from scipy.linalg import solve
    from scipy.sparse import csr_array

    classes = int(permuted.max()) + 1
    hits = np.zeros(permuted.shape, np.bool_)
    for fold in np.unique(folds):
        test_rows, train_rows = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        train, test = kernel[np.ix_(train_rows, train_rows)], kernel[np.ix_(test_rows, train_rows)]
        mean = train.mean(axis=0)
        train = train - mean - mean[:, None] + mean.mean()
        test = test - mean - test.mean(axis=1, keepdims=True) + mean.mean()
        strength = train.trace() / len(train_rows)
        if strength <= 0:
            weights = np.zeros_like(test)
        else:
            weights = solve(train + strength * np.eye(len(train_rows)), test.T, assume_a="pos").T
        for first in range(0, len(permuted), AT_ONCE):
            part = permuted[first : first + AT_ONCE]
            rows = (np.arange(len(part))[:, None] * classes + part[:, train_rows]).ravel()
            columns = np.tile(np.arange(len(train_rows)), len(part))
            shape = (len(part) * classes, len(train_rows))
            targets = csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
            counts = targets.sum(axis=1)[:, None]
            outputs = np.where(counts > 0, targets @ weights.T / np.maximum(counts, 1), -np.inf)
            predicted = outputs.reshape(len(part), classes, -1).argmax(axis=1)
            hits[first : first + len(part), test_rows] = predicted == part[:, test_rows]
    return hits
