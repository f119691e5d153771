"""Error consistency against scikit-learn-like formulas, scipy's bootstrap and known cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap
from statsmodels.stats.inter_rater import cohens_kappa

from bandlens.analysis.statistics.consistency import error_consistency, most_of
from bandlens.errors import UsageError


def observers(n: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    hard = random.random(n)
    return hard + random.normal(0, 0.3, n) < 0.7, hard + random.normal(0, 0.3, n) < 0.5


def table(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.bincount(2 * first + second, minlength=4).reshape(2, 2)


def test_kappa_is_that_of_statsmodels() -> None:
    first, second = observers()
    found = error_consistency(first, second)
    assert found.kappa == pytest.approx(cohens_kappa(table(first, second)).kappa)
    assert (found.n, found.first_accuracy, found.second_accuracy) == (
        500,
        pytest.approx(first.mean()),
        pytest.approx(second.mean()),
    )
    assert found.observed == (first == second).mean()


def test_the_interval_is_that_of_scipy_over_images() -> None:
    first, second = observers()
    found = error_consistency(first, second, resamples=4000)

    def kappa(*pair: np.ndarray) -> float:
        return float(cohens_kappa(table(*pair)).kappa)

    theirs = bootstrap(
        (first, second), kappa, paired=True, vectorized=False, n_resamples=2000, method="percentile", rng=1
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.015)


def test_images_of_one_cluster_go_together() -> None:
    first, second = (np.repeat(one, 4) for one in observers(100))
    apart = error_consistency(first, second)
    together = error_consistency(first, second, np.repeat(np.arange(100), 4))
    alone = error_consistency(*observers(100))
    assert together.kappa == apart.kappa == pytest.approx(alone.kappa)
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.15)
    assert together.high - together.low > 1.6 * (apart.high - apart.low)


def test_a_perfect_observer_has_no_kappa() -> None:
    first, second = observers()
    for pair in ((np.ones(500, bool), second), (first, np.zeros(500, bool)), (np.ones(500, bool),) * 2):
        found = error_consistency(*pair)
        assert np.isnan([found.kappa, found.low, found.high, found.most]).all()


def test_the_most_that_two_accuracies_allow() -> None:
    assert most_of(0.8, 0.6) == pytest.approx(0.545454, abs=1e-6)
    assert most_of(0.7, 0.7) == pytest.approx(1)
    first = np.arange(10) < 8
    found = error_consistency(first, np.arange(10) < 6)  # wrong wherever the first is
    assert found.kappa == pytest.approx(found.most) == pytest.approx(0.545454, abs=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    for first, second in (
        (np.ones(3, bool), np.ones(4, bool)),
        (np.ones(3), np.ones(3, bool)),
        (np.ones(0, bool),) * 2,
    ):
        with pytest.raises(UsageError, match="give bool"):
            error_consistency(first, second)
