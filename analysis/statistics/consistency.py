"""Error consistency: whether two observers err on the same images more than their accuracies imply.

    observed = share of images on which both are right or both wrong
    expected = p q + (1 - p) (1 - q)             p, q: the two accuracies
    kappa    = (observed - expected) / (1 - expected)
    least    = (|p + q - 1| - expected) / (1 - expected)     the lowest that two such accuracies allow
    most     = (1 - |p - q| - expected) / (1 - expected)     the greatest
    p_copy   = kappa (1 - expected) / (2 p (1 - p)),  p >= q
    needed   = n (k s / kappa)^2                             k and s as in `power`, s of the interval

Cohen's kappa of right and wrong (Cohen 1960; Geirhos, Meding & Wichmann 2020) is NaN for an observer who is always
right, or always wrong. Intervals are percentiles over resampled images, or clusters, which are 20 at least. The kappa
arises if the less accurate observer copies the other's decision on a share p_copy of the images (Klein et al. 2025).
80 % of studies with `needed` images tell it from 0.

The mean kappa of one observer and others, or of pairs and conditions, is a mean over images to first order (delta
method): with r the share both right, D = p + q - 2 r, E = p + q - 2 p q and kappa = 1 - D / E, an image on which they
are a and b, 0 or 1, adds

    (2 (a b - r) - (a - p) - (b - q)) / E + D / E^2 ((1 - 2 q) (a - p) + (1 - 2 p) (b - q))

averaged over the others. `shares` makes its interval, and that of its difference from another condition.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import Floats, Ints, Mask
from .power import detected_widths
from .resampling import FEWEST_CLUSTERS, count_right, draws_are_kept, intervals

ENOUGH = 0.95
"""The share of resamples that must have a kappa."""


def kappa_of(observed: Floats, p: Floats, q: Floats) -> Floats:
    """Kappa of shares; NaN where an accuracy is 0 or 1."""
    expected = p * q + (1 - p) * (1 - q)
    varied = (p > 0) & (p < 1) & (q > 0) & (q < 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(varied, (observed - expected) / (1 - expected), np.nan)


def copied_share(kappa: Floats | float, p: Floats | float, q: Floats | float) -> Floats:
    """p_copy of a kappa and two accuracies, by the formula above; NaN where kappa is NaN or below 0."""
    better, expected = np.maximum(p, q), np.multiply(p, q) + np.multiply(np.subtract(1, p), np.subtract(1, q))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(kappa) >= 0, kappa * (1 - expected) / (2 * better * (1 - better)), np.nan)


def error_consistencies(
    first: Mask, seconds: Mask, clusters: Ints | None = None, resamples: int = 2000
) -> dict[str, NDArray[Any]]:
    """Name of each number above -> its values (m,), of one observer (n,) with each of m others (m, n).

    They are NaN where they are undefined; p_copy is so below a kappa of 0 too, which no copies explain. low and high
    are the ends of the 95 % interval of kappa. Each pair has the draws that it would have alone.
    """
    n, shared_hits = len(first), seconds & first
    if clusters is None and not draws_are_kept(n, resamples):
        first_right, second_right, both_right = _counts_by_kind(first, seconds, shared_hits, resamples)
        images: Floats | int = n
    else:
        ids = np.arange(n) if clusters is None else np.unique(clusters, return_inverse=True)[1]
        hit_counts, images = count_right(np.concatenate([first[None], seconds, shared_hits]), ids, resamples, 0)
        first_right, (second_right, both_right) = hit_counts[:1], np.split(hit_counts[1:], 2)
    p, q = first_right / images, second_right / images
    observed = (images - first_right - second_right + 2 * both_right) / images
    kappa = kappa_of(observed, p, q)
    independent = n if clusters is None else len(np.unique(clusters))
    low, high = kappa_intervals(kappa) if independent >= FEWEST_CLUSTERS else np.full((2, len(kappa)), np.nan)
    p, q, observed, kappa = np.broadcast_to(p, q.shape)[:, 0], q[:, 0], observed[:, 0], kappa[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        sample_sizes = np.ceil(n * (detected_widths() * (high - low) / kappa) ** 2)
    return {
        "n": np.full(len(seconds), n),
        "first_accuracy": p,
        "second_accuracy": q,
        "observed": observed,
        "kappa": kappa,
        "low": low,
        "high": high,
        "least": kappa_of(abs(p + q - 1), p, q),
        "most": kappa_of(1 - abs(p - q), p, q),
        "p_copy": copied_share(kappa, p, q),
        "needed": np.where(np.isfinite(sample_sizes), sample_sizes, np.nan),
    }


def _counts_by_kind(first: Mask, seconds: Mask, shared_hits: Mask, resamples: int) -> tuple[Floats, Floats, Floats]:
    """Images that the first, the second and both have right, (m, 1 + resamples) each, of the data before resamples.

    Each image is one of four kinds, and nothing but their counts matters: many images are drawn as fast as few.
    """
    n, all_first, all_second, all_both = len(first), first.sum(), seconds.sum(axis=1), shared_hits.sum(axis=1)
    kinds = np.stack([n - all_first - all_second + all_both, all_second - all_both, all_first - all_both, all_both])
    counts = np.empty((4, len(seconds), 1 + resamples))
    counts[:, :, 0] = kinds
    random = np.random.default_rng(0)
    start = random.bit_generator.state
    for row, shares in enumerate(kinds.T / n):
        random.bit_generator.state = start
        counts[:, row, 1:] = random.multinomial(n, shares, resamples).T
    _, second_alone, first_alone, both_right = counts
    return first_alone + both_right, second_alone + both_right, both_right


def kappa_intervals(kappa: Floats) -> tuple[Floats, Floats]:
    """Ends (m,) of the intervals of kappas (m, 1 + resamples), of the data first; NaN with too few that have one."""
    low, high = np.full((2, len(kappa)), np.nan)
    undefined = np.isnan(kappa)
    complete_rows = ~undefined.any(axis=1)
    if complete_rows.any():
        low[complete_rows], high[complete_rows] = intervals(kappa[complete_rows, 1:])
    for row in np.flatnonzero(~complete_rows & ~undefined[:, 0]):
        defined = kappa[row, 1:][~undefined[row, 1:]]
        if len(defined) >= ENOUGH * (kappa.shape[1] - 1):
            low[row], high[row] = intervals(defined)
    return low, high


def consistency_with_others(hits: Mask) -> Floats:
    """(m, n) contributions of each image to the mean kappa of each of m observers with the m - 1 others.

    Args:
        hits: (m, n), which of the same n images each has right; m is at least 2.

    Their mean over images is the mean kappa, and they vary as it does, by the formula above. NaN for an observer of
    whom a kappa is undefined.
    """
    outcomes = hits.astype(np.float64)
    count = outcomes.shape[1]
    p = outcomes.mean(axis=1)
    away, shared_share = outcomes - p[:, None], outcomes @ outcomes.T / count
    pairs = ~np.eye(len(p), dtype=bool)
    kappa = kappa_of(1 - p[:, None] - p + 2 * shared_share, p[:, None], p)
    expected = p[:, None] + p - 2 * np.outer(p, p)  # E, of each pair
    with np.errstate(invalid="ignore", divide="ignore"):
        inverse = np.where(pairs & (expected > 0), 1 / expected, 0)
        slope = np.where(pairs, (1 - kappa) * (1 - 2 * p) * inverse, 0)  # D / E^2 (1 - 2 q)
    by_observer = (slope - inverse).sum(axis=1)[:, None] * away
    by_others = (slope.T - inverse) @ away
    shared = 2 * (outcomes * (inverse @ outcomes) - (inverse * shared_share).sum(axis=1)[:, None])
    mean = kappa.mean(axis=1, where=pairs)[:, None]
    return np.asarray(mean + (by_observer + by_others + shared) / (len(p) - 1))
