import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from bandlens.analysis.correlate import correlations, spearman, spearman_blocks
from bandlens.errors import StoreError


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 60), levels=st.integers(2, 100))
def test_one_product_gives_what_scipy_gives_pair_by_pair(seed: int, n: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(levels, size=(n, 3)).astype(float), rng.integers(levels, size=(n, 2)).astype(float)
    x[0], x[1], y[0], y[1] = 0, 1, 0, 1  # something varies
    rho, p = spearman(x, y)
    for i in range(3):
        for j in range(2):
            theirs = spearmanr(x[:, i], y[:, j])
            assert rho[i, j] == pytest.approx(theirs.statistic, abs=1e-12)
            # Where |rho| is 1 but for rounding, p is the root of that rounding.
            if abs(theirs.statistic) < 1 - 1e-9:
                assert p[i, j] == pytest.approx(theirs.pvalue, abs=1e-12)
            else:
                assert p[i, j] < 1e-6 or n == 3


def test_perfect_order_has_p_zero_and_no_order_p_one() -> None:
    x = np.arange(9.0)[:, None]
    rho, p = spearman(x, np.hstack([x**3, -x, (x - 4) ** 2]))
    assert rho == pytest.approx(np.array([[1, -1, 0]]), abs=1e-15)
    assert p == pytest.approx(np.array([[0, 0, 1]]), abs=1e-12)


def test_a_constant_or_two_observations_have_no_correlation() -> None:
    x = np.arange(9.0)[:, None]
    assert np.isnan(spearman(x, np.ones((9, 1)))).all()
    assert np.isnan(spearman(x[:2], x[:2])).all()


def test_missing_values_drop_their_row_from_their_pairs_only() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 4)), rng.normal(size=(40, 3))
    x[:5, 1], x[7, 2], y[3:9, 2] = np.nan, np.nan, np.nan
    rho, p, n = spearman_blocks(x, y)
    for i in range(4):
        for j in range(3):
            rows = ~np.isnan(x[:, i]) & ~np.isnan(y[:, j])
            theirs = spearmanr(x[rows, i], y[rows, j])
            assert n[i, j] == rows.sum()
            assert (rho[i, j], p[i, j]) == pytest.approx((theirs.statistic, theirs.pvalue), abs=1e-12)


def test_the_table_names_its_pairs_and_holds_null_where_nothing_is_defined() -> None:
    frame = pl.DataFrame({"a": [1, 2, 3, 4], "b": [1.0, 2.0, None, None], "c": [4, 3, 2, 1], "d": [1.0, 1, 1, 1]})
    table = correlations(frame, ["a", "b"], ["c", "d"])
    assert table.columns == ["x", "y", "spearman", "p", "n"]
    assert table.select("x", "y").rows() == [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")]
    assert table["n"].to_list() == [4, 4, 2, 2]
    assert table["spearman"][0] == pytest.approx(-1)
    assert table["spearman"].to_list()[1:] == [None] * 3
    assert table["p"].to_list()[1:] == [None] * 3


def test_a_missing_column_is_named() -> None:
    with pytest.raises(StoreError, match=r"no column z; the frame has a"):
        correlations(pl.DataFrame({"a": [1.0]}), ["a"], ["z"])
