"""Ratios of two shares of the same images."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from bandlens.analysis.statistics.shares import ratio_interval


def test_equal_answers_have_a_ratio_with_an_interval() -> None:
    """Resamples, and the variance, would give 1 to 1, and call 0.9999 another number."""
    clean = np.arange(1000) % 4 > 0
    low, high = ratio_interval(clean, clean, np.arange(1000))
    assert low is not None
    assert high is not None
    assert low < 0.96 < 1.04 < high


def test_where_nothing_is_right_the_ratio_is_small_and_not_0() -> None:
    clean, nothing = np.arange(1000) % 4 > 0, np.zeros(1000, bool)
    above = proportion_confint(0, 1000, method="wilson")[1]
    low, b = proportion_confint(750, 1000, method="wilson")[0], 0.75
    # 0 / b, by MOVER: the upper end of the first over sqrt(l (2 b - l)).
    assert ratio_interval(nothing, clean, np.arange(1000)) == pytest.approx((0, above / np.sqrt(low * (2 * b - low))))
    assert ratio_interval(clean, nothing, np.arange(1000)) == (None, None)
    assert ratio_interval(clean, clean, np.zeros(1000, np.int64)) == (None, None)


@pytest.mark.parametrize("ratio", [0.001, 0.01, 0.3, 0.99, 0.999])
def test_it_holds_the_ratio(ratio: float) -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        clean = rng.random(400) < 0.7
        low, high = ratio_interval(clean & (rng.random(400) < ratio), clean, np.arange(400))
        assert low is not None
        assert high is not None
        held += low <= ratio <= high
    assert held / 400 > 0.92
