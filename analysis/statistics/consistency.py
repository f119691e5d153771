"""Error consistency: whether two observers err on the same images more often than their accuracies imply.

An observer is a model or a person. Error consistency is Cohen's kappa of the correctness of their responses (Cohen
1960; Geirhos, Meding & Wichmann 2020). For two observers with accuracies p and q:

    observed = proportion of images on which both are correct or both are incorrect
    expected = p q + (1 - p) (1 - q)             `observed` if errors were independent
    kappa    = (observed - expected) / (1 - expected)
    least    = (|p + q - 1| - expected) / (1 - expected)     minimum of kappa for these accuracies
    most     = (1 - |p - q| - expected) / (1 - expected)     maximum of kappa for these accuracies
    p_copy   = kappa (1 - expected) / (2 p (1 - p)),  p >= q
    needed   = n (k s / kappa)^2                             k as in `power`, s the standard error from the interval

Kappa is NaN if an observer is always correct or always incorrect. Confidence intervals are percentile intervals over
resampled images, or over resampled clusters if images depend on each other. There is no interval for fewer than 20
images or clusters. p_copy is the proportion of images on which the less accurate observer would have to copy the
other's response to produce this kappa (Klein et al. 2025). With `needed` images, a test has 80% power to distinguish
kappa from 0.

The mean kappa of one observer with others, or over pairs and conditions, is to first order a mean over images (delta
method). With r the proportion of images on which both are correct, D = p + q - 2 r, E = p + q - 2 p q and kappa = 1 - D
/ E, an image with the outcomes a and b (1 correct, 0 incorrect) contributes

    (2 (a b - r) - (a - p) - (b - q)) / E + D / E^2 ((1 - 2 q) (a - p) + (1 - 2 p) (b - q))

averaged over the other observers. `proportions` computes the confidence interval of this mean, and of its difference
from another condition.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import Floats, Ints, Mask
from .power import detected_widths
from .resampling import FEWEST_CLUSTERS, count_right, draws_are_kept, intervals

ENOUGH = 0.95
"""Minimum proportion of resamples in which kappa must be defined for an interval."""


def kappa_of(observed: Floats, p: Floats, q: Floats) -> Floats:
    """Compute Cohen's kappa from proportions.

    Args:
        observed: Proportion of images on which both observers are correct or both are incorrect.
        p: Accuracy of the first observer.
        q: Accuracy of the second observer.

    Returns:
        Kappa in [-1, 1], of the broadcast shape. NaN where an accuracy is 0 or 1.
    """
    expected = p * q + (1 - p) * (1 - q)
    varied = (p > 0) & (p < 1) & (q > 0) & (q < 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(varied, (observed - expected) / (1 - expected), np.nan)


def copied_share(kappa: Floats | float, p: Floats | float, q: Floats | float) -> Floats:
    """Compute p_copy, the proportion of copied responses that explains a kappa, by the formula in the module header.

    Args:
        kappa: Cohen's kappa.
        p: Accuracy of the first observer.
        q: Accuracy of the second observer.

    Returns:
        Proportion of images. NaN where kappa is NaN or negative.
    """
    better, expected = np.maximum(p, q), np.multiply(p, q) + np.multiply(np.subtract(1, p), np.subtract(1, q))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(kappa) >= 0, kappa * (1 - expected) / (2 * better * (1 - better)), np.nan)


def error_consistencies(
    first: Mask, seconds: Mask, clusters: Ints | None = None, resamples: int = 2000
) -> dict[str, NDArray[Any]]:
    """Compute the error consistency of one observer with each of several others.

    Args:
        first: Whether the first observer is correct on each of n images, (n,).
        seconds: The same for m other observers, (m, n).
        clusters: Cluster number of each image, (n,). None if the images are independent.
        resamples: Number of bootstrap resamples for the confidence interval of kappa.

    Returns:
        Maps each quantity in the module header to its values, (m,): among them `kappa` and its 95% confidence interval
        `low` and `high`. Undefined values are NaN. `p_copy` is also NaN for a negative kappa, which copying cannot
        explain. All pairs use the same random seed, so the result for a pair does not depend on the other pairs.
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
    """Count the images that the first, the second and both observers classify correctly, in the data and in resamples.

    An image is one of four kinds: correct for both, for either one, or for neither. Only the counts of the four kinds
    matter, so each resample is one multinomial draw, and its cost does not depend on the number of images.

    Returns:
        Three arrays of shape (m, 1 + resamples). Column 0 is the data.
    """
    n, all_first, all_second, all_both = len(first), first.sum(), seconds.sum(axis=1), shared_hits.sum(axis=1)
    kinds = np.stack([n - all_first - all_second + all_both, all_second - all_both, all_first - all_both, all_both])
    counts = np.empty((4, len(seconds), 1 + resamples))
    counts[:, :, 0] = kinds
    random = np.random.default_rng(0)
    start = random.bit_generator.state
    for row, shares in enumerate(kinds.T / n):
        # Reset the generator, so that each pair gets the draws that it would get on its own.
        random.bit_generator.state = start
        counts[:, row, 1:] = random.multinomial(n, shares, resamples).T
    _, second_alone, first_alone, both_right = counts
    return first_alone + both_right, second_alone + both_right, both_right


def kappa_intervals(kappa: Floats) -> tuple[Floats, Floats]:
    """Compute 95% percentile intervals of kappa.

    Args:
        kappa: Kappa of the data in column 0 and of the resamples in the others, (m, 1 + resamples).

    Returns:
        Lower and upper limits, (m,). NaN where kappa is undefined in the data or in more than 5% of the resamples.
    """
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
    """Compute the contribution of each image to the mean error consistency of each observer with all others.

    The mean over images is the mean kappa, and the variance over images gives its confidence interval. The module
    header has the formula.

    Args:
        hits: Whether each of m observers is correct on each of n images, (m, n), m at least 2.

    Returns:
        Contributions, (m, n). NaN for an observer that has an undefined kappa with another one.
    """
    outcomes = hits.astype(np.float64)
    count = outcomes.shape[1]
    p = outcomes.mean(axis=1)
    away, shared_share = outcomes - p[:, None], outcomes @ outcomes.T / count
    pairs = ~np.eye(len(p), dtype=bool)
    kappa = kappa_of(1 - p[:, None] - p + 2 * shared_share, p[:, None], p)
    expected = p[:, None] + p - 2 * np.outer(p, p)  # E of each pair
    with np.errstate(invalid="ignore", divide="ignore"):
        inverse = np.where(pairs & (expected > 0), 1 / expected, 0)
        slope = np.where(pairs, (1 - kappa) * (1 - 2 * p) * inverse, 0)  # D / E^2 (1 - 2 q)
    by_observer = (slope - inverse).sum(axis=1)[:, None] * away
    by_others = (slope.T - inverse) @ away
    shared = 2 * (outcomes * (inverse @ outcomes) - (inverse * shared_share).sum(axis=1)[:, None])
    mean = kappa.mean(axis=1, where=pairs)[:, None]
    return np.asarray(mean + (by_observer + by_others + shared) / (len(p) - 1))
