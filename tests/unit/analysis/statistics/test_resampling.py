import itertools
import tracemalloc
from collections.abc import Iterator
from math import factorial

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import pearsonr, permutation_test, spearmanr
from threadpoolctl import threadpool_limits

from bandlens.analysis.statistics import Floats, resampling
from bandlens.analysis.statistics.coefficients import METHODS, Method
from bandlens.analysis.statistics.proportions import share_of
from bandlens.analysis.statistics.resampling import (
    Spread,
    bca_intervals,
    bootstrap,
    count_right,
    crossed_bootstrap,
    exact_p,
    permutation_p,
    shared_factors,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests use one thread, as `correlate` does: products are small, and threads would wait for each other."""
    with threadpool_limits(1, "blas"):
        yield


SCIPY = {"spearman": spearmanr, "pearson": pearsonr}


def data(n: int = 20, ties: bool = True) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, n))
    y = np.vstack([x[0] + rng.normal(size=n), rng.normal(size=n)])
    return (np.round(x), np.round(y, 1)) if ties else (x, y)


@pytest.mark.parametrize("method", METHODS)
def test_the_bootstrap_is_scipy_s_resample_by_resample(method: Method) -> None:
    x, y = data()
    resampled = bootstrap(method, x, y, 200, seed=5)
    [interval] = bca_intervals(method, x, y, resampled)
    for i, j in np.ndindex(2, 2):
        expected = scipy_bootstrap(
            (x[i], y[j]),
            lambda a, b: SCIPY[method](a, b).statistic,
            paired=True,
            vectorized=False,
            n_resamples=200,
            method="BCa",
            rng=np.random.default_rng(5),
        )
        assert resampled[:, i, j] == pytest.approx(expected.bootstrap_distribution, abs=1e-10)
        ends = (interval.low[i, j], interval.high[i, j])
        assert ends == pytest.approx(tuple(expected.confidence_interval), abs=1e-10)
    assert not interval.undefined.any()


def test_resamples_that_do_not_vary_are_counted_and_too_many_leave_no_interval() -> None:
    y = np.arange(12.0)[None]
    one_differs, three_differ = np.eye(12)[:1], np.eye(12)[:3].sum(axis=0, keepdims=True)
    x = np.vstack([one_differs, three_differ])
    [interval] = bca_intervals("spearman", x, y, bootstrap("spearman", x, y, 2000, 0))
    assert np.isnan(interval.low).ravel().tolist() == [True, False]
    assert interval.undefined[0, 0] == pytest.approx(2000 * (11 / 12) ** 12, rel=0.1)
    assert 0 < interval.undefined[1, 0] < 100


@pytest.mark.parametrize("n", [4, 5])
@pytest.mark.parametrize("ties", [False, True])
def test_all_permutations_of_few_models_give_scipy_s_exact_p(n: int, ties: bool) -> None:
    """Spearman's p counts coefficients of either sign; Pearson's is twice that of the rarer side, as SciPy's."""
    x, y = data(n, ties)
    orders = [list(order) for order in itertools.permutations(range(n))]
    for i, j in np.ndindex(2, 2):
        shuffled = np.array([spearmanr(x[i], y[j][order]).statistic for order in orders])
        p, least = (values[i, j] for values in exact_p("spearman", x, y))
        assert p == pytest.approx(np.mean(abs(shuffled) >= abs(shuffled[0]) - 1e-9), abs=1e-12)
        assert least == pytest.approx(np.mean(abs(shuffled) >= abs(shuffled).max() - 1e-9), abs=1e-12)
        expected = permutation_test(
            (x[i],), lambda values, fixed=y[j]: pearsonr(values, fixed).statistic, permutation_type="pairings",
            n_resamples=np.inf,
        )  # fmt: skip
        p, least = (values[i, j] for values in exact_p("pearson", x, y))
        assert p == pytest.approx(expected.pvalue, abs=1e-12)
        assert least <= p


@pytest.mark.parametrize("method", METHODS)
def test_the_least_possible_p_is_that_of_two_orders_of_all(method: Method) -> None:
    for n in range(4, 9):
        values = np.arange(1.0, n + 1)[None] ** 2
        p, least = exact_p(method, values, -values)
        assert (p.item(), least.item()) == pytest.approx((2 / factorial(n), 2 / factorial(n)))
    p, least = exact_p(method, np.array([[1.0, 2, 3, 4]]), np.array([[1.0, 1, 2, 3]]))
    assert (p.item(), least.item()) == pytest.approx((1 / 6, 1 / 6)), "a tie makes more orders alike"
    assert np.isnan(exact_p(method, np.ones((1, 5)), np.arange(5.0)[None])).all()


def test_all_permutations_of_many_variables_take_little_memory() -> None:
    x = np.random.default_rng(4).normal(size=(100, 8))
    tracemalloc.start()
    exact_p("spearman", x, x[:1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 26


def test_permutation_p_is_uniform_without_a_correlation() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(20, 15)), rng.normal(size=(20, 15))
    p = permutation_p("spearman", x, y, 1000, 0)
    assert p.min() >= 1 / 1001
    assert np.mean(p <= 0.1) == pytest.approx(0.1, abs=0.05)
    assert permutation_p("spearman", x[:3], y[:2], 1000, 0).tolist() == p[:3, :2].tolist()
    assert np.isnan(permutation_p("spearman", np.ones((1, 9)), np.arange(9.0)[None], 100, 0)).all()


@pytest.mark.parametrize("method", METHODS)
def test_values_without_intervals_are_not_moved(method: Method) -> None:
    x, y = data(12)
    no_spread = Spread(np.zeros_like(x), np.zeros_like(x))
    crossed = crossed_bootstrap(method, x, y, no_spread, no_spread, 100, 4)
    assert crossed == pytest.approx(bootstrap(method, x, y, 100, 4), abs=1e-12)


def test_drawn_values_keep_the_ends_of_their_interval() -> None:
    spread = Spread(np.array([[1.0]]), np.array([[3.0]]))
    values = spread.move(np.array([[10.0]]), np.random.default_rng(0).standard_normal((40_000, 1, 1)))
    assert np.quantile(values, [0.025, 0.5, 0.975]) == pytest.approx([9, 10, 13], abs=0.1)


def test_shares_of_the_same_images_err_together() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(500) < 0.7
    second = np.where(rng.random(500) < 0.8, first, rng.random(500) < 0.7)
    shares = [share_of(answers, np.arange(500)) for answers in (first, second, first)] + [
        share_of(first, np.arange(500, 1000))
    ]
    factors = shared_factors([*shares, None])
    correlation = factors @ factors.T
    assert correlation[0, 1] == pytest.approx(np.corrcoef(first, second)[0, 1], abs=1e-5)
    assert correlation[0, 2] == pytest.approx(1, abs=1e-5)
    assert correlation[0, 3] == pytest.approx(0, abs=1e-5)
    assert not factors[4].any()


def test_errors_that_all_models_share_take_nothing_from_a_correlation() -> None:
    """All models go up and down together, and keep their order."""
    x = np.arange(20.0)[None]
    y = x + 0.1 * np.random.default_rng(0).standard_normal((1, 20))
    spread, zero = Spread(np.full_like(y, 30.0), np.full_like(y, 30.0)), Spread(np.zeros_like(x), np.zeros_like(x))
    shared = np.concatenate([np.zeros((1, 20, 1)), np.ones((1, 20, 1))])
    own_r, shared_r = (crossed_bootstrap("pearson", x, y, zero, spread, 300, 0, factors) for factors in (None, shared))
    assert shared_r.min() > 0.98 > 0.8 > np.median(own_r)
    assert shared_r == pytest.approx(bootstrap("pearson", x, y, 300, 0), abs=1e-9)


def test_errors_that_values_share_are_independent_of_those_of_a_value_of_its_own() -> None:
    """Each model's y errs by a factor of its own, which in no resample goes with the error of its x."""
    values, spread = np.zeros((1, 30)), Spread(np.ones((1, 30)), np.ones((1, 30)))
    factors = np.stack([np.zeros((30, 30)), np.eye(30)])
    assert np.abs(crossed_bootstrap("pearson", values, values, spread, spread, 100, 0, factors)).max() < 0.9


@pytest.mark.parametrize("at_once", [1 << 20, 10_000], ids=["kept", "drawn by parts"])
def test_each_resample_counts_the_clusters_that_it_draws(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "_DRAWS_AT_ONCE", at_once)
    ids = np.repeat(np.arange(60), [1, 2, 3] * 20)
    for seed in (0, 1):
        correct = np.random.default_rng(seed + 5).random((3, len(ids))) < 0.6
        hits, counts = count_right(correct, ids, 500, seed)
        choices = np.random.default_rng(seed).integers(60, size=(500, 60))
        for resample, clusters in enumerate(choices, start=1):
            members = np.concatenate([np.flatnonzero(ids == cluster) for cluster in clusters])
            assert counts[resample] == len(members)
            assert hits[:, resample].tolist() == correct[:, members].sum(axis=1).tolist()
        assert hits[:, 0].tolist() == correct.sum(axis=1).tolist()
