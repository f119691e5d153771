"""Error consistency: whether two observers are right and wrong on the same images more than their accuracies imply.

    observed = share of images on which both are right or both wrong
    expected = p q + (1 - p) (1 - q)             p, q: the two accuracies
    kappa    = (observed - expected) / (1 - expected)
    most     = (1 - |p - q| - expected) / (1 - expected)     what two such accuracies allow

Cohen's kappa of right and wrong (Cohen 1960; Geirhos, Meding & Wichmann 2020). It is undefined, NaN, for an observer
who is always right, or always wrong. Intervals are percentiles over resampled images (Klein et al. 2025), or clusters.

The mean kappa of one observer and m - 1 others is a mean over images to first order (the delta method), which takes no
resamples. For a pair that has the share r both right, D = p + q - 2 r and E = p + q - 2 p q, so that kappa = 1 - D / E,
and an image on which they are a and b, 0 or 1, adds

    (2 (a b - r) - (a - p) - (b - q)) / E + D / E^2 ((1 - 2 q) (a - p) + (1 - 2 p) (b - q))

averaged over the others; `shares` makes the interval of it, and of its difference from another condition. The mean
kappa to humans is such a mean over pairs and conditions, each with the weight of one, of the images that a pair shares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from .arrays import Floats, Mask
from .images import interval

ENOUGH = 0.95
"""The share of resamples that must have a kappa."""


@dataclass(frozen=True, slots=True)
class Consistency:
    """Error consistency of two observers on the same n images; NaN where it is undefined."""

    n: int
    first_accuracy: float
    """Share that the first observer has right."""
    second_accuracy: float
    observed: float
    kappa: float
    low: float
    """Lower end of the 95 % interval of kappa."""
    high: float
    most: float


def kappa_of(observed: Floats, p: Floats, q: Floats) -> Floats:
    """Kappa of shares; NaN where an accuracy is 0 or 1."""
    expected = p * q + (1 - p) * (1 - q)
    varied = (p > 0) & (p < 1) & (q > 0) & (q < 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(varied, (observed - expected) / (1 - expected), np.nan)


def most_of(p: float, q: float) -> float:
    """The greatest kappa that two accuracies allow."""
    return float(kappa_of(np.asarray(1 - abs(p - q)), np.asarray(p), np.asarray(q)))


def error_consistency(
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    clusters: NDArray[np.int64] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Consistency:
    """How consistent two observers of the same images are, from whether each is right, (n,) each.

    clusters: (n,), images that are not independent have the same number; left out, each stands for itself. Raises
    UsageError for arrays that do not fit, or no image.
    """
    if first.shape != second.shape or first.ndim != 1 or len(first) == 0 or first.dtype != bool or second.dtype != bool:
        raise UsageError(
            f"error consistency: {first.dtype} {first.shape} and {second.dtype} {second.shape}; give bool (n,)"
        )
    # Each image is one of four kinds; nothing but their counts matters.
    kind = 2 * first + second
    random = np.random.default_rng(seed)
    if clusters is None:
        counts = np.bincount(kind, minlength=4).astype(np.float64)
        drawn = random.multinomial(len(kind), counts / len(kind), resamples).astype(np.float64)
    else:
        _, place = np.unique(clusters, return_inverse=True)
        held = int(place.max()) + 1
        table = np.zeros((held, 4))
        np.add.at(table, (place, kind), 1)
        counts = table.sum(axis=0)
        drawn = random.multinomial(held, np.full(held, 1 / held), resamples) @ table
    totals = np.concatenate([counts[None], drawn])
    shares = totals / totals.sum(axis=1, keepdims=True)
    p, q, observed = shares[:, 2] + shares[:, 3], shares[:, 1] + shares[:, 3], shares[:, 0] + shares[:, 3]
    kappa = kappa_of(observed, p, q)
    defined = kappa[1:][~np.isnan(kappa[1:])]
    low = high = np.nan
    if not np.isnan(kappa[0]) and len(defined) >= ENOUGH * resamples:
        low, high = interval(defined)
    first_share, second_share = float(p[0]), float(q[0])
    return Consistency(
        len(kind),
        first_share,
        second_share,
        float(observed[0]),
        float(kappa[0]),
        float(low),
        float(high),
        most_of(first_share, second_share),
    )


def consistency_with_others(right: Mask) -> Floats:
    """(m, n) contributions of each image to the mean kappa of each of m observers with the m - 1 others.

    Args:
        right: (m, n), which of the same n images each has right; m is at least 2.

    Their mean over images is the mean kappa, and they vary as it does: with D = p + q - 2 r and E = p + q - 2 p q for
    two observers whose accuracies are p and q and who have r both right, kappa = 1 - D / E, and an image on which they
    are a and b, 0 or 1, adds to its error

        (2 (a b - r) - (a - p) - (b - q)) / E + D / E^2 ((1 - 2 q) (a - p) + (1 - 2 p) (b - q))

    NaN for an observer of whom a kappa is undefined.
    """
    outcomes = right.astype(np.float64)
    count = outcomes.shape[1]
    p = outcomes.mean(axis=1)
    away, both = outcomes - p[:, None], outcomes @ outcomes.T / count
    pairs = ~np.eye(len(p), dtype=bool)
    kappa = kappa_of(1 - p[:, None] - p + 2 * both, p[:, None], p)
    expected = p[:, None] + p - 2 * np.outer(p, p)  # E, of each pair
    with np.errstate(invalid="ignore", divide="ignore"):
        inverse = np.where(pairs & (expected > 0), 1 / expected, 0)
        slope = np.where(pairs, (1 - kappa) * (1 - 2 * p) * inverse, 0)  # D / E^2 (1 - 2 q)
    by_observer = (slope - inverse).sum(axis=1)[:, None] * away
    by_others = (slope.T - inverse) @ away
    shared = 2 * (outcomes * (inverse @ outcomes) - (inverse * both).sum(axis=1)[:, None])
    mean = kappa.mean(axis=1, where=pairs)[:, None]
    return np.asarray(mean + (by_observer + by_others + shared) / (len(p) - 1))
