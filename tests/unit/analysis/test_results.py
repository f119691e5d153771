"""A notebook gets frames and charts from `bandlens.open`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up_results import Images, cell, condition, image_set, model, part, store_study, store_values
from polars.testing import assert_frame_equal

import bandlens
from bandlens.analysis.database.open import open_store
from bandlens.analysis.statistics.coefficients import Method
from bandlens.errors import StoreError, UsageError
from bandlens.records import Condition, Finished


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six checkpoints under two filters, with a metric each."""
    path, rng = tmp_path_factory.mktemp("results") / "results.duckdb", np.random.default_rng(0)
    images = image_set(40, labels=np.zeros(40))
    with open_store(path) as store:
        parts = []
        for number in range(6):
            for setting in (condition(), condition("lowpass", cutoff=0.1), condition("lowpass", cutoff=0.5)):
                rank = (rng.random(40) < 0.1 * (number + 1)).astype(int)
                parts.append(part(cell(images, setting, by=model(f"net{number}")), rank, rank))
        store_study(store, "mine", images, parts)
        ids = store.frame(
            "SELECT DISTINCT study_id, checkpoint_id, image_set_id FROM study_version "
            "JOIN study_cell ON study_cell.study = study_id JOIN cell_detail USING (cell) ORDER BY ALL"
        )
        store_values(store, ids.with_columns(metric=pl.lit("low_frequency_bias"), value=pl.Series(np.arange(6) / 10)))
    return path


def test_frames_are_the_views(database: Path) -> None:
    with bandlens.open(database) as results:
        assert len(results.accuracy()) == len(results.curves("mine@1")) == 18
        assert len(results.metrics("mine")) == 6
        assert set(results.flips()["probe"]) == {"lowpass"}
        assert results.sql("SELECT ? + 1 AS two", [1]).item() == 2
        clean = results.curves().filter(pl.col("probe") == "clean")
        assert (clean["ratio"] == 1).all()


def test_a_query_with_a_timeout_gives_the_same_rows_or_ends(database: Path) -> None:
    with bandlens.open(database) as results:
        query = "SELECT *, ? AS x FROM accuracy ORDER BY ALL"
        assert_frame_equal(results.sql(query, ["y"], timeout=60), results.sql(query, ["y"]))
        with pytest.raises(StoreError, match=r"the query took more than 0.5 s"):
            results.sql("SELECT count(*) FROM range(1000000000000) AS t(x) WHERE x * 7 % 13 = 5", timeout=0.5)
        with pytest.raises(UsageError, match="parameters of a query with a timeout are numbers and text"):
            results.sql("SELECT ?", [np.int64(1)], timeout=60)


def test_correlations_and_charts(database: Path) -> None:
    with bandlens.open(str(database)) as results:
        table = results.correlations()
        assert set(table["bias"]) == {"low_frequency_bias"}
        assert set(table["n"]) == {6}
        assert results.plot_correlations(table).to_dict()["layer"]
        assert "vconcat" in (spec := results.plot_curves().to_dict()) or "layer" in spec
        with pytest.raises(UsageError, match="has no highpass with cycles in study \\*"):
            results.plot_curves("highpass")


@pytest.mark.parametrize("method", ["spearman", "pearson", "kendall"])
def test_a_map_of_correlations_says_which_coefficient_it_shows(database: Path, method: Method) -> None:
    with bandlens.open(database) as results:
        chart = results.plot_correlations(results.correlations(method=method)).to_dict()
    (title,) = {
        tooltip["title"]
        for layer in chart["layer"]
        for tooltip in layer["encoding"]["tooltip"]
        if "coef" in tooltip["field"]
    }
    assert title.lower().startswith(method)


def test_a_chart_of_curves_is_of_one_study_and_one_image_set(tmp_path: Path) -> None:
    set_a, set_b = image_set(4, name="one", labels=np.zeros(4)), image_set(5, name="other", labels=np.zeros(5))
    low, high = (condition("lowpass", cutoff=cutoff) for cutoff in (0.1, 0.5))
    loud, quiet = (condition("critical_band", noise_sd=sd, frequency=2) for sd in (0.16, 0.02))

    def parts(images: Images, *conditions: Condition) -> list[Finished]:
        labels = np.zeros(images.info.count, int)
        return [part(cell(images, setting), labels, labels) for setting in conditions]

    with open_store(tmp_path / "results.duckdb") as store:
        parts_a, parts_b = parts(set_a, low, high, loud, quiet), parts(set_b, low, high, loud)
        store_study(store, "first", [set_a, set_b], [*parts_a, *parts_b])
        store_study(store, "second", set_a, parts_a)
    with bandlens.open(tmp_path / "results.duckdb") as results:
        with pytest.raises(UsageError, match=r"has lowpass of first@1, second@1; name one of them with study=$"):
            results.plot_curves()
        with pytest.raises(UsageError, match=r"has lowpass of one, other; name one of them with image_set=$"):
            results.plot_curves(study="first")
        with pytest.raises(UsageError, match="has no lowpass with cycles in study first on none"):
            results.plot_curves(study="first", image_set="none")
        with pytest.raises(UsageError, match="critical_band varies more than cycles"):
            results.plot_curves("critical_band", study="second")
        results.plot_curves(study="second")
        results.plot_curves("critical_band", "noise_sd", study="second")
        chart = results.plot_curves(study="first", image_set="other").to_dict()
    datasets = list(chart["datasets"].values())
    (rows,) = (rows for rows in datasets if "cycles" in rows[0])
    assert sorted((row["cycles"], row["n"]) for row in rows) == [(11, 5), (56, 5)]
    assert [{"chance": 1 / 10}] in datasets


def test_it_only_reads(database: Path) -> None:
    with bandlens.open(database) as results, pytest.raises(bandlens.errors.StoreError):
        results.sql("DELETE FROM prediction")
