"""Power analysis: minimum detectable differences and correlations, and the sample sizes that they need.

A difference is detectable if a two-sided test at the 5% level finds it with a power of 80%. To first order, the minimum
detectable difference is a multiple of the standard error s of its estimate:

    delta = k s,    k = z(1 - 0.05 / (2 t)) + z(0.8)         2.802 for one test; for the first of t tests after Holm

    accuracies on the same n images     s^2 = effect d / n             (Connor 1987)
    their McNemar test (`paired`)       delta + 1 / n, because of the continuity correction
    any interval (low, high)            s = (high - low) / (2 * 1.96)
    kappa of n images, tested against 0 s^2 = (1 - kappa) ((1 - kappa) (1 - 2 kappa) + c) / n,
                                        c = kappa (2 - kappa) / (2 p (1 - p))     (Bloch & Kraemer 1989)
    Pearson's coefficient over m models atanh |rho| = k / sqrt(m - 3)  (Fisher 1921)
    Spearman's coefficient              the same, with k = z(1 - 0.05 / (2 t)) + z(0.8) sqrt(1 + rho^2 / 2)
                                        (Bonett & Wright 2000)

z is the quantile function of the standard normal distribution. d, which is at least delta, is the discordance of two
models: the proportion of images that exactly one of them classifies correctly. For scores, it is the variance of the
difference between the two scores of an image (Miller 2024). p is the accuracy of both models. effect = sum n_u^2 / n is
the design effect of clusters of n_u images in which all predictions are alike (Kish 1965). Solved for n or m, the
formulas give the sample size that a study needs. The formulas for correlation coefficients apply to nine or more
models.
"""

from __future__ import annotations

from math import atanh, ceil, sqrt, tanh
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from . import ALPHA, EXACT_MODELS, Z

POWER = 0.8
"""Power of a test: the proportion of studies that detect a difference of the given size."""
CORRELATION_SPREADS = {"pearson": 0.0, "spearman": 0.5}
"""Maps a correlation method to c, where the variance of atanh(rho) is (1 + c rho^2) / (m - 3)."""
DISCORDANCE = 0.1
"""Discordance of two models that is assumed if it is unknown."""


def detection_quantile(tests: int = 1) -> float:
    """Return k, the minimum detectable difference in units of its standard error.

    Args:
        tests: Number of tests that the Holm correction accounts for.
    """
    return float(scipy.special.ndtri(1 - ALPHA / (2 * tests)) + scipy.special.ndtri(POWER))


def detected_widths(tests: int = 1) -> float:
    """Return the minimum detectable difference in units of the width of its 95% confidence interval, k / (2 * 1.96)."""
    return detection_quantile(tests) / (2 * Z)


def design_effect(clusters: NDArray[np.integer[Any]]) -> float:
    """Compute the design effect sum n_u^2 / n, if all images of a cluster have the same outcome.

    Args:
        clusters: Cluster number of each of n images, (n,).
    """
    sizes = np.unique(clusters, return_counts=True)[1]
    return float(np.square(sizes).sum() / sizes.sum())


def smallest_difference(images: float, discordance: float = DISCORDANCE, tests: int = 1, effect: float = 1.0) -> float:
    """Compute the minimum difference between two accuracies on the same images that a confidence interval detects.

    It is detected if the 95% confidence interval of the difference excludes 0.

    Args:
        images: Number of images.
        discordance: Proportion of images that exactly one of the models classifies correctly, in [0, 1].
        tests: Number of tests that the Holm correction accounts for.
        effect: Design effect of the clusters, see `design_effect`.

    Returns:
        Difference as a proportion. If it exceeds 1, no difference is detectable with so few images.
    """
    k, independent = detection_quantile(tests), images / effect
    return k * sqrt(max(discordance, k**2 / independent) / independent)


def smallest_tested_difference(
    images: float, discordance: float = DISCORDANCE, tests: int = 1, effect: float = 1.0
) -> float:
    """Compute the minimum difference between two accuracies on the same images that McNemar's test detects.

    The arguments are those of `smallest_difference`. The p-values are corrected by Holm's method.
    """
    return smallest_difference(images, discordance, tests, effect) + 1 / images


def images_needed(difference: float, discordance: float = DISCORDANCE, tests: int = 1) -> int:
    """Compute the number of images at which the confidence interval of a difference excludes 0.

    This is the inverse of `smallest_difference`.

    Args:
        difference: True difference as a proportion, not 0.
        discordance: Proportion of images that exactly one of the models classifies correctly. Any other variance of the
            paired difference of an image can be given instead.
        tests: Number of tests that the Holm correction accounts for.
    """
    return ceil((detection_quantile(tests) / difference) ** 2 * discordance)


def images_needed_by_test(difference: float, discordance: float = DISCORDANCE, tests: int = 1) -> int:
    """Compute the number of images at which McNemar's test detects a difference.

    This is the inverse of `smallest_tested_difference`. It solves k sqrt(d / n) + 1 / n = difference for n.
    """
    spread = detection_quantile(tests) * sqrt(discordance)
    return ceil(4 / (sqrt(spread**2 + 4 * difference) - spread) ** 2)


def smallest_kappa(images: float, tests: int = 1, accuracy: float = 0.75) -> float:
    """Compute the minimum error consistency of two models that a test distinguishes from 0.

    Args:
        images: Number of images.
        tests: Number of tests that the Holm correction accounts for.
        accuracy: Accuracy of both models, in (0, 1).

    Returns:
        Cohen's kappa, below 1.
    """
    k, low, high = detection_quantile(tests), 0.0, 1.0
    # Bisection: kappa is at most k standard errors at `low`, and at least k standard errors at `high`.
    for _ in range(60):
        kappa = (low + high) / 2
        shared = kappa * (2 - kappa) / (2 * accuracy * (1 - accuracy))
        reach = k * sqrt((1 - kappa) * ((1 - kappa) * (1 - 2 * kappa) + shared) / images)
        low, high = (kappa, high) if reach > kappa else (low, kappa)
    return high


def smallest_correlation(models: int, tests: int = 1, method: str = "spearman") -> float:
    """Compute the minimum absolute correlation coefficient that a test detects.

    Args:
        models: Number of models, at least 9.
        tests: Number of tests that the Holm correction accounts for.
        method: Key of `CORRELATION_SPREADS`.
    """
    rho = 0.0
    for _ in range(60):  # fixed-point iteration: each step at least halves the error
        rho = tanh(_correlation_quantile(rho, tests, method) / sqrt(models - 3))
    return rho


def models_needed(correlation: float, tests: int = 1, method: str = "spearman") -> int:
    """Compute the number of models at which a test detects a correlation.

    Args:
        correlation: True coefficient, in (-1, 1) and not 0.
        tests: Number of tests that the Holm correction accounts for.
        method: Key of `CORRELATION_SPREADS`.

    Returns:
        Number of models, at least 9.
    """
    ratio = _correlation_quantile(correlation, tests, method) / atanh(abs(correlation))
    return max(3 + ceil(ratio**2), EXACT_MODELS + 1)


def _correlation_quantile(rho: float, tests: int, method: str) -> float:
    spread = sqrt(1 + CORRELATION_SPREADS[method] * rho**2)
    return detection_quantile(tests) + (spread - 1) * float(scipy.special.ndtri(POWER))
