import numpy as np
import pandas as pd
import pingouin
import pytest
from fuzzing import fuzz
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from statsmodels.stats.multitest import multipletests

from bandlens.analysis.statistics import Floats
from bandlens.analysis.statistics.coefficients import (
    METHODS,
    Method,
    benjamini_hochberg,
    coefficients,
    holm,
    partial,
    t_test,
)

SCIPY = {"spearman": spearmanr, "pearson": pearsonr}


def draw_ties(rng: np.random.Generator, variables: int, n: int, levels: int) -> Floats:
    """Values with ties, the first two of which differ."""
    values = rng.integers(levels, size=(variables, n)) * 1.37 + 1e3
    values[:, 1] = values[:, 0] + 0.5
    return values


@pytest.mark.parametrize("method", METHODS)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 40), levels=st.integers(2, 50))
def test_one_product_gives_what_scipy_gives_pair_by_pair(method: Method, seed: int, n: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = draw_ties(rng, 3, n, levels), draw_ties(rng, 2, n, levels)
    r = coefficients(method, x, y, np.ones(n))
    p = t_test(r, n - 2)
    for i, j in np.ndindex(3, 2):
        expected = SCIPY[method](x[i], y[j])
        assert r[i, j] == pytest.approx(expected.statistic, abs=1e-10)
        if abs(expected.statistic) < 1 - 1e-9:  # otherwise p is the root of a rounding error
            assert p[i, j] == pytest.approx(expected.pvalue, abs=1e-10)


@pytest.mark.parametrize("method", METHODS)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(4, 20), levels=st.integers(2, 30))
def test_an_observation_that_counts_twice_is_there_twice(method: Method, seed: int, n: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = draw_ties(rng, 2, n, levels), draw_ties(rng, 2, n, levels)
    weights = rng.integers(0, 3, size=(5, n)).astype(float)
    weights[:, :2] = 1
    r = coefficients(method, x, y, weights)
    batched = coefficients(method, np.repeat(x[None], 5, axis=0), np.repeat(y[None], 5, axis=0), weights)
    assert r == pytest.approx(batched, abs=1e-12)
    for k, counts in enumerate(weights.astype(int)):
        once = coefficients(method, np.repeat(x, counts, axis=1), np.repeat(y, counts, axis=1), np.ones(counts.sum()))
        assert r[k] == pytest.approx(once, abs=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_what_does_not_vary_has_no_coefficient(method: Method) -> None:
    x = np.array([[0.1, 0.1, 0.1, 5.3], [1.0, 2.0, 3.0, 4.0]])
    weights = np.array([[1.0, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 3]])
    r = coefficients(method, x, x[1:], weights)
    assert np.isnan(r[:, :, 0]).tolist() == [[False, False], [True, False], [True, True]]
    assert np.isnan(t_test(r[1], 2))[0].all()


@fuzz(15)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(8, 40), levels=st.integers(3, 50))
def test_partial_correlations_are_pingouin_s(seed: int, n: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, z = (draw_ties(rng, 1, n, levels) for _ in range(3))
    once = np.ones(n)
    for method in ("spearman", "pearson"):
        r, xz, yz = (coefficients(method, *pair, once) for pair in ((x, y), (x, z), (y, z)))
        assume(max(abs(xz[0, 0]), abs(yz[0, 0])) < 0.99)  # pingouin inverts a covariance matrix
        ours = partial(r, xz[:, 0], yz[:, 0])
        frame = pd.DataFrame({"x": x[0], "y": y[0], "z": z[0]})
        expected = pingouin.partial_corr(frame, x="x", y="y", covar="z", method=method).iloc[0]
        assert ours[0, 0] == pytest.approx(expected["r"], abs=1e-10)


def test_given_itself_there_is_no_partial_correlation() -> None:
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, 12)), rng.normal(size=(1, 12))
    y = np.vstack([z**3, rng.normal(size=(1, 12))])
    r, xz, yz = (coefficients("spearman", *pair, np.ones(12)) for pair in ((x, y), (x, z), (y, z)))
    given_z = partial(r, xz[:, 0], yz[:, 0])
    assert np.isnan(given_z).tolist() == np.isnan(t_test(given_z, 9)).tolist() == [[True, False]] * 2


@fuzz(8)  # statsmodels takes its time
@given(seed=st.integers(0, 2**32 - 1), tests=st.integers(1, 90), decimals=st.integers(1, 6))
def test_adjusted_p_values_are_those_of_statsmodels(seed: int, tests: int, decimals: int) -> None:
    p = np.round(np.random.default_rng(seed).random(tests) ** 3, decimals)
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)
    assert benjamini_hochberg(p) == pytest.approx(multipletests(p, method="fdr_bh")[1], abs=1e-12)


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
def test_a_test_that_was_not_made_does_not_count(adjust) -> None:
    p = np.array([0.01, np.nan, 0.04, 0.03])
    assert adjust(p)[[0, 2, 3]].tolist() == adjust(p[[0, 2, 3]]).tolist()
    assert np.isnan(adjust(p)[1])
    assert np.isnan(adjust(np.full(3, np.nan))).all()
    assert adjust(np.array([])).shape == (0,)
