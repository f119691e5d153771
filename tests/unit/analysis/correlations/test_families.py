"""Correlations within and between families are those of a mixed model and of known cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from bandlens.analysis.correlations.families import by_family


def simpson(families: int = 12, size: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y goes up with x between families, and down within them."""
    random = np.random.default_rng(3)
    centre = np.repeat(np.arange(families) * 4.0, size)
    inner = random.normal(0, 1, families * size)
    y = centre - inner + random.normal(0, 0.3, families * size)
    return centre + inner, y, np.repeat([f"f{k}" for k in range(families)], size)


def test_signs_differ_within_and_between() -> None:
    x, y, family = simpson()
    correlations = by_family(x, y, family)
    assert correlations.within * correlations.between < 0
    assert correlations.overall == pytest.approx(spearmanr(x, y).statistic)
    means = np.array([[values[family == name].mean() for name in np.unique(family)] for values in (x, y)])
    assert correlations.between == pytest.approx(spearmanr(*means).statistic)
    assert correlations.within < -0.5
    assert (correlations.n, correlations.families, correlations.models_within) == (96, 12, 96)
    assert correlations.p_within < 0.01
    assert correlations.p_between < 0.01


def test_where_families_alone_differ_nothing_is_left_within() -> None:
    """A test that permutes across families would find their common centres."""
    random = np.random.default_rng(0)
    family = np.repeat([f"f{k}" for k in range(10)], 10)
    centre = np.repeat(random.normal(0, 10, 10), 10)
    correlations = by_family(centre + random.normal(0, 1, 100), centre + random.normal(0, 1, 100), family)
    assert correlations.overall > 0.9
    assert abs(correlations.within) < 0.3
    assert correlations.p_within > 0.05


def test_families_of_one_model_say_nothing_within_and_gaps_are_left_out() -> None:
    x = np.array([1.0, 2, 3, 4, 5, np.nan])
    y = np.array([2.0, 1, 4, 3, 5, 6])
    correlations = by_family(x, y, np.array(list("abcdef")), z=np.arange(6.0))
    assert (correlations.n, correlations.families, correlations.models_within) == (5, 5, 0)
    assert np.isnan(correlations.within)
    assert np.isnan(correlations.p_within)
    assert correlations.between == correlations.overall == pytest.approx(0.8)
    assert np.isnan(by_family(x, y, np.array(list("aaabbb"))).between)


def test_few_families_have_an_exact_p_between_them() -> None:
    """Two of the 24 orders of four families are perfect."""
    x = np.array([1.0, 1.1, 2, 2.1, 3, 3.1, 4, 4.1])
    correlations = by_family(x, x**2, np.array(list("aabbccdd")))
    assert (correlations.between, correlations.p_between) == pytest.approx((1, 2 / 24))


def test_partial_is_that_of_ranks() -> None:
    random = np.random.default_rng(2)
    x, y, z = random.normal(size=(3, 50))
    y, x = y + z, x + z
    correlations = by_family(x, y, np.repeat(["a", "b"], 25), z)
    xy, xz, yz = (spearmanr(*pair).statistic for pair in ((x, y), (x, z), (y, z)))
    assert correlations.partial == pytest.approx((xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2)))
