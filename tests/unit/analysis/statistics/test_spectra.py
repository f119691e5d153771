"""Intervals of powers hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from bandlens.analysis.statistics.spectra import exponent_weights, mean_power, weighted


def test_a_power_law_without_noise_has_its_exponent() -> None:
    cycles = np.arange(1.0, 65)
    powers = np.array([[1.0], [3.0], [7.0]]) * cycles**-2.2
    value, half = weighted(mean_power(powers, np.arange(3)), exponent_weights(cycles))
    assert value == pytest.approx(2.2)
    assert half == pytest.approx(0, abs=1e-9)


def test_intervals_hold_the_true_power_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        powers = rng.lognormal(sigma=0.6, size=(60, 1))
        value, half = weighted(mean_power(powers, np.arange(60)), np.ones(1))
        hits += abs(value - 0.18) <= half  # the logarithm of the mean of a log-normal is sigma^2 / 2
    assert 0.92 <= hits / 400 <= 0.98
