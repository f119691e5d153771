from math import factorial

import numpy as np
import pandas as pd
import pingouin
import polars as pl
import pytest
from scipy.stats import norm, permutation_test, spearmanr
from statsmodels.stats.multitest import multipletests

from bandlens.analysis.correlations.table import SCHEMA, correlate
from bandlens.analysis.correlations.table_inputs import SUBSET_FILTERS
from bandlens.analysis.published.study_figures import BIASES, shipped_figures
from bandlens.analysis.statistics import Floats
from bandlens.core.errors import StoreError, UnknownName
from bandlens.core.protocol import GROUPS

TOTAL = {"total": pl.lit(True)}


def published_table(**options) -> pl.DataFrame:
    return correlate(shipped_figures(), list(BIASES), list(GROUPS), SUBSET_FILTERS, **options)


def models(n: int = 12, **columns) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    defaults = {"category": ["one", "two", "three", "four"] * n, "x": rng.normal(size=n), "y": rng.normal(size=n)}
    return pl.DataFrame({name: list(values)[:n] for name, values in (defaults | columns).items()})


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    return published_table(control="ID")


def test_every_row_has_the_smallest_correlation_that_its_models_show(table: pl.DataFrame) -> None:
    """Fisher's z of Spearman's rho has the variance (1 + rho^2 / 2) / (n - 3); 80 % are found as one of 72 tests."""
    rho = table["detectable"].to_numpy()
    quantiles = norm.ppf(1 - 0.025 / 72) + norm.ppf(0.8) * np.sqrt(1 + rho**2 / 2)
    np.testing.assert_allclose(np.arctanh(rho), quantiles / np.sqrt(table["n"].to_numpy() - 3))


# Data that determine no coefficient, or no interval


def test_missing_values_drop_their_model_from_their_pairs_only_and_are_told() -> None:
    frame = models(
        12, x2=[None, None, *range(10)], y2=[*map(float, range(9)), float("nan"), 3.0, None], z=[*range(11), None]
    ).with_columns(x2=pl.col("x2").cast(pl.Float64))
    table = correlate(frame, ["x", "x2"], ["y", "y2"], TOTAL, control="z", resamples=200)
    assert table["n"].to_list() == [12, 10, 10, 8]
    notes = table["note"].to_list()
    assert notes[0] == "11 of 12 models have z, over which partial is"
    assert notes[1].startswith("2 of 12 models lack a value; y2 has 9 different values")
    assert "2 of 12 models lack a value" in notes[2]
    complete = frame.drop_nulls(["x2", "y"])
    expected = spearmanr(complete["x2"], complete["y"])
    assert (table["coefficient"][2], table["p"][2]) == pytest.approx((expected.statistic, expected.pvalue), abs=1e-10)


def test_the_coefficient_given_a_third_value_and_its_p_are_pingouin_s() -> None:
    frame = models(12, z=np.random.default_rng(1).normal(size=12))
    row = correlate(frame, ["x"], ["y"], TOTAL, control="z", resamples=100).row(0, named=True)
    columns = pd.DataFrame(frame.to_dict(as_series=False))
    expected = pingouin.partial_corr(columns, x="x", y="y", covar="z", method="spearman").iloc[0]
    assert (row["partial"], row["partial_p"]) == pytest.approx((expected["r"], expected["p_val"]), abs=1e-10)


def test_a_constant_has_no_correlation_and_does_not_count_as_a_test() -> None:
    frame = models(12, flat=[0.3] * 12, tied=[1.0, 2.0, 3.0] * 4)
    table = correlate(frame, ["x", "flat", "tied"], ["y"], TOTAL, resamples=200)
    assert table["note"].to_list() == [None, "flat does not vary", "tied has 3 different values"]
    numbers = table.row(1, named=True)
    assert all(numbers[name] is None for name, kind in SCHEMA.items() if kind == pl.Float64)
    assert table["p_holm"][0] == pytest.approx(min(1, 2 * table["p"][0])) or table["p"][0] > table["p"][2]
    without_constant = correlate(frame, ["x", "tied"], ["y"], TOTAL, resamples=200)
    assert table["detectable"].drop_nulls().to_list() == without_constant["detectable"].to_list()


@pytest.mark.parametrize(("n", "words"), [(1, "1 model"), (3, "3 models")])
def test_fewer_than_four_models_are_told(n: int, words: str) -> None:
    table = correlate(models(n), ["x"], ["y"], TOTAL)
    assert table["note"].item() == f"{words}, and a correlation needs 4"
    assert table["n"].item() == n
    assert table["coefficient"].item() is None
    assert table.schema == SCHEMA


def exact_spearman_p(x: Floats, y: Floats) -> float:
    return permutation_test(
        (x,), lambda values: spearmanr(values, y).statistic, permutation_type="pairings", n_resamples=np.inf
    ).pvalue


def test_few_models_have_an_exact_p_and_neither_an_interval_nor_the_p_of_t() -> None:
    """scipy.stats.permutation_test counts all orders; the formula of t has p = 0 for a perfect order of four."""
    frame = models(8, z=np.random.default_rng(1).normal(size=8), x_low=[-3.0] * 8, x_high=[3.0] * 8)
    for n in (4, 6):
        few = frame.head(n).with_columns(up=pl.col("x").rank(), down=-pl.col("x"))
        table = correlate(few, ["x", "up"], ["y", "down"], TOTAL, control="z", resamples=100)
        expected = [
            exact_spearman_p(few[bias].to_numpy(), few[group].to_numpy())
            for bias, group in table.select("bias", "group").rows()
        ]
        assert table["p"].to_list() == table["p_permutation"].to_list() == pytest.approx(expected, abs=1e-12)
        assert table["p_least"].to_list() == pytest.approx([2 / factorial(n)] * 4)
        for name, method in (("p_holm", "holm"), ("p_bh", "fdr_bh")):
            assert table[name].to_list() == pytest.approx(multipletests(expected, method=method)[1].tolist())
        blank = ("low", "high", "low_images", "high_images", "partial_p", "detectable")
        assert all(table[name].is_null().all() for name in blank)
        assert table["partial"].is_not_null().any()
        words = {
            4: "cannot reach 0.05 (least possible p 0.083)",
            6: "are too few for an interval (least possible p 0.0028)",
        }
        assert table["note"].str.contains(f"{n} models {words[n]}", literal=True).all()
    enough = correlate(models(9), ["x"], ["y"], TOTAL, control="x", resamples=100).row(0, named=True)
    assert enough["low"] is not None
    assert enough["p"] == pytest.approx(spearmanr(models(9)["x"], models(9)["y"]).pvalue)
    assert enough["p_least"] is None


def test_the_least_possible_p_of_a_note_is_that_of_its_pair() -> None:
    frame = models(5, x=[1.0, 2, 3, 4, 5], ties=[1.0, 1, 1, 1, 2], y=[1.0, 2, 3, 4, 5])
    table = correlate(frame, ["x", "ties"], ["y"], TOTAL)
    assert table["p_least"].to_list() == pytest.approx([2 / 120, 2 / 5])
    note, note_of_ties = table["note"]
    assert "5 models are too few for an interval (least possible p 0.017)" in note
    assert "5 models cannot reach 0.05 (least possible p 0.4)" in note_of_ties


def test_one_category_and_a_dominant_one_leave_nothing_without_it() -> None:
    single_category = correlate(models(8, category=["a"] * 8), ["x"], ["y"], TOTAL, resamples=100)
    assert single_category["note"].item().endswith("; one category, so none can be left out (loco_low)")
    dominant_category = correlate(models(8, category=["a"] * 5 + ["b"] * 3), ["x"], ["y"], TOTAL, resamples=100)
    assert dominant_category["note"].item().endswith("; without a fewer than 4 models are left (loco_low)")
    assert dominant_category["loco_low"].item() is None


# Images


def test_intervals_of_the_values_go_into_the_interval_of_the_coefficient() -> None:
    n = 40
    x = np.random.default_rng(1).normal(size=n)
    frame = models(n, x=x, y=x + 0.3 * np.random.default_rng(2).normal(size=n))
    frame = frame.with_columns(x_low=pl.col("x") - 0.4, x_high=pl.col("x") + 0.4)
    frame = frame.with_columns(other=pl.col("y").reverse())
    table = correlate(frame, ["x", "other"], ["y", "other"], TOTAL, resamples=2000)
    assert table["low_images"][0] > table["low"][0]  # the loss by noise is made up for
    assert table["low_images"].is_null().to_list() == [False, False, True, True]
    drowned = frame.with_columns(x_low=pl.col("x") - 40, x_high=pl.col("x") + 40)
    row = correlate(drowned, ["x"], ["y"], TOTAL, resamples=500).row(0, named=True)
    assert row["low_images"] is None
    assert "over images: all resamples lie on one side of the coefficient: no interval" in row["note"]


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(StoreError, match="no column z; the frame has category, x, y"):
        correlate(models(), ["x"], ["z"], TOTAL)
    with pytest.raises(UnknownName, match="unknown method 'spearmann'; did you mean spearman"):
        correlate(models(), ["x"], ["y"], TOTAL, method="spearmann")  # type: ignore[arg-type]
