"""Ratios of two shares of the same images."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from bandlens.analysis.statistics.shares import difference_interval, ratio_interval, share_of


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
    low, b = proportion_confint(750, 1000, method="beta")[0], 0.75
    # 0 / b, by MOVER: the upper end of the first over sqrt(l (2 b - l)).
    assert ratio_interval(nothing, clean, np.arange(1000)) == pytest.approx((0, above / np.sqrt(low * (2 * b - low))))
    assert ratio_interval(clean, nothing, np.arange(1000)) == (None, None)
    assert ratio_interval(clean, clean, np.zeros(1000, np.int64)) == (None, None)


@pytest.mark.parametrize("ratio", [0.0005, 0.001, 0.01, 0.3, 0.99, 0.999])
def test_it_holds_the_ratio(ratio: float) -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        clean = rng.random(400) < 0.7
        low, high = ratio_interval(clean & (rng.random(400) < ratio), clean, np.arange(400))
        assert low is not None
        assert high is not None
        held += low <= ratio <= high
    assert held / 400 > 0.92


def test_a_difference_over_the_same_images_is_that_of_their_differences() -> None:
    rng = np.random.default_rng(0)
    one = rng.random(600) < 0.7
    other = np.where(rng.random(600) < 0.9, one, rng.random(600) < 0.5)
    clusters = np.arange(600) // 3
    found = difference_interval(share_of(one, clusters), share_of(other, clusters))
    d = (other.astype(float) - one).reshape(200, 3).mean(axis=1)
    assert found is not None
    assert np.mean(found) == pytest.approx(d.mean())
    half = (found[1] - found[0]) / 2
    assert half == pytest.approx(1.98 * d.std(ddof=1) / np.sqrt(200), rel=0.02)
    assert difference_interval(share_of(one, clusters), share_of(other, clusters + 1000)) is None
    assert difference_interval(share_of(one, clusters), share_of(one, clusters)) is None
