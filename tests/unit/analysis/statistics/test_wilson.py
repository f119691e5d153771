"""The interval of a share, of independent images and of clusters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, t
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import proportion_confint

from bandlens.analysis.statistics import Floats, Ints
from bandlens.analysis.statistics.proportions import share_interval, share_of
from bandlens.analysis.statistics.wilson import SampledShare, counted_share, independent_share


def interval(hits: Ints, sizes: Ints) -> tuple[Floats, Floats, Floats]:
    """The interval of each run: right answers (runs, clusters) among `sizes` (clusters,) images."""
    sampled = counted_share(hits, sizes)
    low, high = sampled.ends()
    return low, high, np.asarray(sampled.effective)


@given(hits=st.integers(0, 5000), errors=st.integers(0, 5000))
def test_it_is_that_of_statsmodels(hits: int, errors: int) -> None:
    n = max(1, hits + errors)
    assert SampledShare(hits / n, n).ends() == pytest.approx(proportion_confint(hits, n, method="wilson"), abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 7, 29, 30, 400, 50_000])
def test_clusters_of_one_have_wilsons_interval_and_below_30_students_quantile(n: int) -> None:
    alpha = 2 * norm.sf(t.ppf(0.975, max(n - 1, 1))) if n < 30 else 0.05
    hits = np.arange(n) < n // 3
    expected = proportion_confint(n // 3, n, alpha, "wilson")
    assert interval(hits.astype(np.int64), np.ones(n, np.int64))[:2] == pytest.approx(expected)
    assert share_interval(share_of(hits, np.arange(n))) == pytest.approx(expected)
    assert independent_share(n // 3, n).ends() == pytest.approx(expected)


def test_where_nothing_is_right_a_cluster_counts_as_one_image_and_unequal_ones_as_fewer() -> None:
    for hits in (np.zeros(40, np.int64), np.full(40, 8)):
        low, high, effective = interval(hits, np.full(40, 8))
        assert effective == 40
        expected = SampledShare(hits.mean() / 8, 40, 0, 39, 39).ends()
        assert (float(low), float(high)) == pytest.approx([float(end) for end in expected])
    # Three clusters of 40 hold nearly all images, so they are nearly all that is known.
    low, high, effective = interval(np.zeros(30, np.int64), np.repeat([40, 1], [3, 27]))
    assert effective == pytest.approx(147**2 / (3 * 1600 + 27))
    assert high == pytest.approx(SampledShare(0.0, effective, 0, 29, 29).ends()[1])


@pytest.mark.parametrize("correlation", [0.3, 1.0])
@pytest.mark.parametrize("p", [0.1, 0.95])
def test_it_holds_the_share_where_clusters_are_unequal_or_all_or_none(correlation: float, p: float) -> None:
    """Clusters are beta-binomial; the sandwich variance alone held in as few as 0.49."""
    rng, images = np.random.default_rng(2), np.where(np.arange(60) % 5, 1, 40)
    scale = 1 / correlation - 1
    shape = (4000, len(images))
    chance = rng.beta(p * scale, (1 - p) * scale, shape) if scale else (rng.random(shape) < p).astype(float)
    low, high, _ = interval(rng.binomial(images, chance), images)
    assert np.mean((low <= p) & (p <= high)) > 0.93


@pytest.mark.parametrize(
    ("sizes", "correlation", "p"),
    [
        (np.full(50, 200), 0.6, 0.01),
        (np.linspace(1, 40, 50).round().astype(int), 0.3, 0.05),
        (np.where(np.arange(10) % 5, 1, 40), 1.0, 0.05),
    ],
)
def test_it_holds_the_share_where_clusters_that_are_all_alike_may_be_unseen(
    sizes: Ints, correlation: float, p: float
) -> None:
    """Some clusters are right or wrong as a whole; where none that is right was drawn, the others do not show it.

    The variance of what was drawn alone held in 0.28 and 0.86 of the first two.
    """
    rng, shape = np.random.default_rng(3), (1000, len(sizes))
    chance = np.where(rng.random(shape) < correlation, rng.random(shape) < p, p)
    low, high, _ = interval(rng.binomial(sizes, chance), sizes)
    assert np.mean((low <= p) & (p <= high)) > 0.93


def test_one_sided_tests_have_half_the_level_where_the_interval_ends() -> None:
    sampled = counted_share(np.array([[0, 3, 9, 1, 0, 2, 5, 8]]), np.array([4, 9, 9, 6, 3, 5, 8, 20]))
    low, high = (float(end[0]) for end in sampled.ends())
    assert (sampled.p_above(low)[0], sampled.p_below(high)[0]) == pytest.approx((0.025, 0.025))


def test_where_sizes_hide_nothing_the_variance_is_that_of_statsmodels() -> None:
    """Large clusters are right or wrong as a whole, and small ones are mixed: V exceeds what sizes let one expect."""
    sizes = np.repeat([20, 4], [12, 60])
    hits = np.concatenate([np.tile([20, 0], 6), np.tile([1, 2, 3], 20)])
    y = np.concatenate([np.arange(n) < r for n, r in zip(sizes, hits, strict=True)]).astype(float)
    fit = OLS(y, np.ones(len(y))).fit(cov_type="cluster", cov_kwds={"groups": np.repeat(np.arange(72), sizes)})
    share, (_, _, effective) = y.mean(), interval(hits, sizes)
    assert share * (1 - share) / effective == pytest.approx(fit.cov_params()[0, 0])
