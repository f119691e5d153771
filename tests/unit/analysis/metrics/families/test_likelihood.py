"""Fits do not depend on how many are computed together, and end where they may.

The last bits of an exponential depend on its place in an array, and a fit ends when its steps are below 1e-7.
"""

from __future__ import annotations

import numpy as np

from bandlens.analysis.metrics.families.likelihood import fit_channels, fit_thresholds, maximize, noise_of
from bandlens.analysis.metrics.families.psychometric import PUBLISHED
from bandlens.analysis.statistics import Floats

FITS, BATCH = 150, 10


def test_thresholds_of_few_fits_are_those_among_many() -> None:
    """Accuracies of all shapes: falling, rising, flat and at the floor, so that fits end in different steps."""
    random = np.random.default_rng(3)
    images, reference = np.full(FITS, 400.0), random.uniform(0.3, 0.9, FITS)
    hits = random.binomial(400, random.uniform(0.0, 0.9, (4, FITS))).astype(np.float64)
    hits[:, ::3] = np.sort(hits[:, ::3], axis=0)[::-1]
    thresholds = fit_thresholds(hits, images, reference, 0.1)
    for first in range(0, FITS, BATCH):
        batch = slice(first, first + BATCH)
        batch_thresholds = fit_thresholds(hits[:, batch], images[batch], reference[batch], 0.1)
        np.testing.assert_allclose(batch_thresholds, [numbers[batch] for numbers in thresholds], rtol=1e-6, atol=1e-6)


def test_channels_of_few_fits_are_those_among_many() -> None:
    sensitivity = np.random.default_rng(4).uniform(-1, 4, (7, FITS))
    channels = fit_channels(sensitivity, noise_of(PUBLISHED))
    for first in range(0, FITS, BATCH):
        batch = slice(first, first + BATCH)
        batch_channels = fit_channels(sensitivity[:, batch], noise_of(PUBLISHED))
        np.testing.assert_allclose(batch_channels, channels[:, batch], rtol=1e-6, atol=1e-6)


def test_a_fit_ends_at_its_optimum_or_at_a_bound() -> None:
    """Parabolas with their tops at 0.5, which lies within the bounds, and at 3 and -3, which do not."""
    tops = np.array([0.5, 3.0, -3.0])

    def parabola(theta: Floats, top: Floats) -> tuple[Floats, Floats, Floats]:
        away = top - theta[0]
        return -(away**2), 2 * away[None], np.full((1, 1, len(top)), 2.0)

    optimum = maximize(parabola, np.zeros((1, 3)), np.array([-1.0]), np.array([2.0]), [tops])
    np.testing.assert_allclose(optimum, [[0.5, 2.0, -1.0]], atol=1e-6)
