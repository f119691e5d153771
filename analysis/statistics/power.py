"""The smallest difference that n images, and the smallest correlation that m models, would show.

80 % of studies find a difference at 5 %, to first order, where it is, with s the standard error of its estimate,

    delta = k s,    k = z(1 - 0.05 / (2 t)) + z(0.8)         2.802 for one test; for the first of t tests after Holm

    accuracies on the same n images     s^2 = effect d / n             (Connor 1987)
    their test, `paired`                delta + 1 / n, for the correction of McNemar's test
    an interval (low, high)             s = (high - low) / (2 * 1.96)
    kappa of n images, told from 0      s^2 = (1 - kappa) ((1 - kappa) (1 - 2 kappa) + c) / n,
                                        c = kappa (2 - kappa) / (2 p (1 - p))     (Bloch & Kraemer 1989)
    Pearson's coefficient over m models atanh |rho| = k / sqrt(m - 3)  (Fisher 1921)
    Spearman's                          the same, with k = z(1 - 0.05 / (2 t)) + z(0.8) sqrt(1 + rho^2 / 2)
                                        (Bonett & Wright 2000)

d, at least delta, is the share of images that one of the two alone has right, or the variance of the difference of an
image's two scores (Miller 2024). p is the accuracy of both models. Clusters of n_u images whose answers are all alike
have effect = sum n_u^2 / n (Kish 1965). Solved for n or m, these formulas say what a study needs. Those of
coefficients hold from nine models on.
"""

from __future__ import annotations

from math import atanh, ceil, sqrt, tanh
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from . import ALPHA, EXACT_MODELS, Z

POWER = 0.8
"""The share of studies that find a difference of the size that is told."""
CORRELATION_SPREADS = {"pearson": 0.0, "spearman": 0.5}
"""Coefficient -> c, where the variance of its atanh is (1 + c rho^2) / (m - 3)."""
DISCORDANCE = 0.1
"""The discordance of two models that is assumed where nothing tells it."""


def detection_quantile(tests: int = 1) -> float:
    """How many standard errors a difference has to be, to be found as one of so many tests: k above."""
    return float(scipy.special.ndtri(1 - ALPHA / (2 * tests)) + scipy.special.ndtri(POWER))


def detected_widths(tests: int = 1) -> float:
    """The smallest difference that is found, in widths of its 95 % interval: k / (2 * 1.96)."""
    return detection_quantile(tests) / (2 * Z)


def design_effect(clusters: NDArray[np.integer[Any]]) -> float:
    """How many images of a set count as one if those of a cluster are all alike: sum n_u^2 / n of (n,) clusters."""
    sizes = np.unique(clusters, return_counts=True)[1]
    return float(np.square(sizes).sum() / sizes.sum())


def smallest_difference(images: float, discordance: float = DISCORDANCE, tests: int = 1, effect: float = 1.0) -> float:
    """The smallest difference of two accuracies on the same images whose interval would leave zero out, as a share.

    `effect` is the `design_effect` of clusters. Above 1, no difference is large enough.
    """
    k, independent = detection_quantile(tests), images / effect
    return k * sqrt(max(discordance, k**2 / independent) / independent)


def smallest_tested_difference(
    images: float, discordance: float = DISCORDANCE, tests: int = 1, effect: float = 1.0
) -> float:
    """As `smallest_difference`, of two accuracies that McNemar's test tells apart after Holm."""
    return smallest_difference(images, discordance, tests, effect) + 1 / images


def images_needed(difference: float, discordance: float = DISCORDANCE, tests: int = 1) -> int:
    """The images with which a difference has an interval that leaves zero out; the opposite of `smallest_difference`.

    `discordance` may be any variance of the paired difference of an image.
    """
    return ceil((detection_quantile(tests) / difference) ** 2 * discordance)


def images_needed_by_test(difference: float, discordance: float = DISCORDANCE, tests: int = 1) -> int:
    """The opposite of `smallest_tested_difference`: the root of k sqrt(d / n) + 1 / n = difference."""
    spread = detection_quantile(tests) * sqrt(discordance)
    return ceil(4 / (sqrt(spread**2 + 4 * difference) - spread) ** 2)


def smallest_kappa(images: float, tests: int = 1, accuracy: float = 0.75) -> float:
    """The smallest error consistency of two models of one accuracy that is told from 0; it is below 1."""
    k, low, high = detection_quantile(tests), 0.0, 1.0
    for _ in range(60):  # kappa lies between the two: it is k standard errors or less from `high` on
        kappa = (low + high) / 2
        shared = kappa * (2 - kappa) / (2 * accuracy * (1 - accuracy))
        reach = k * sqrt((1 - kappa) * ((1 - kappa) * (1 - 2 * kappa) + shared) / images)
        low, high = (kappa, high) if reach > kappa else (low, kappa)
    return high


def smallest_correlation(models: int, tests: int = 1, method: str = "spearman") -> float:
    """The smallest |rho| over so many models, at least 9, that a test of the coefficient `method` would find."""
    rho = 0.0
    for _ in range(60):  # each step halves the distance at least
        rho = tanh(_correlation_quantile(rho, tests, method) / sqrt(models - 3))
    return rho


def models_needed(correlation: float, tests: int = 1, method: str = "spearman") -> int:
    """The models, at least 9, over which a correlation, between -1 and 1 and not 0, would be found."""
    ratio = _correlation_quantile(correlation, tests, method) / atanh(abs(correlation))
    return max(3 + ceil(ratio**2), EXACT_MODELS + 1)


def _correlation_quantile(rho: float, tests: int, method: str) -> float:
    spread = sqrt(1 + CORRELATION_SPREADS[method] * rho**2)
    return detection_quantile(tests) + (spread - 1) * float(scipy.special.ndtri(POWER))
