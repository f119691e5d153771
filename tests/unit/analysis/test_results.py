"""A notebook gets frames and charts from `bandlens.open`."""

from __future__ import annotations

import json
import shutil
from functools import partial
from html import escape
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_up_results import cell, condition, database_of, image_set, model, part, store_study, store_values
from polars.testing import assert_frame_equal

import bandlens
from bandlens.analysis.charts.grammar import CONFIG, ENLARGED
from bandlens.analysis.database.open import open_store
from bandlens.analysis.metrics.families.critical_band import center
from bandlens.analysis.metrics.families.psychometric import THRESHOLDS
from bandlens.core.errors import StoreError, UsageError

HOSTILE = ("a|b \\textbf{x}", "\u202egnp.exe")
"""Names that Markdown, LaTeX or a terminal would obey."""


def test_frames_are_the_views(stored_study: Path) -> None:
    with bandlens.open(stored_study) as results:
        assert (
            len(results.accuracy()) == len(results.curves("many@1")) == results.sql("FROM cell SELECT count(*)").item()
        )
        assert len(results.metrics("many")) == results.sql("FROM metric SELECT count(*)").item()
        assert {"lowpass", "highpass"} < set(results.flips()["probe"])
        assert results.sql("SELECT ? + 1 AS two", [1]).item() == 2
        with pytest.raises(StoreError):
            results.sql("DELETE FROM prediction")
        clean = results.curves().filter(pl.col("probe") == "clean")
        assert (clean["ratio"] == 1).all()


def test_a_notebook_shows_the_verdict_and_each_models_clean_accuracy(stored_study: Path) -> None:
    with bandlens.open(stored_study) as results:
        page = results._repr_html_()
        for text in (str(stored_study), "many@1", *results.verdict("many"), *results.accuracy()["checkpoint"].unique()):
            assert escape(text) in page
        row = results.accuracy("many").filter(probe="clean").row(0, named=True)
        assert all(f"{row[name]:.3f}" in page for name in ("top1", "low", "high"))


def test_a_notebook_shows_no_clean_accuracy_without_labels(tmp_path: Path) -> None:
    labelled, unlabelled = image_set(2, name="labelled", labels=[0, 0]), image_set(2, name="unlabelled")
    with open_store(tmp_path / "results.duckdb") as store:
        store_study(store, "one", labelled, [part(cell(labelled), [0, 1], [0, 1])])
        store_study(store, "two", unlabelled, [part(cell(unlabelled), [0, 1])])
    with bandlens.open(tmp_path / "results.duckdb") as results:
        table = results._repr_html_().partition("<table")[2]
    assert ">&quot;labelled" in table
    assert "unlabelled" not in table


def test_a_notebook_obeys_no_name(tmp_path: Path) -> None:
    images = image_set(2, name="<b>\u202eset", labels=[0, 0])
    name = "<script>alert(1)</script>"
    with open_store(tmp_path / "results.duckdb") as store:
        store_study(store, "one", images, [part(cell(images, by=model(name)), [0, 1], [0, 1])])
    with bandlens.open(tmp_path / "results.duckdb") as results:
        page = results._repr_html_()
    assert escape(name) in page
    assert "&lt;b&gt;\\u202eset" in page
    assert "<script" not in page
    assert "\u202e" not in page
    with open_store(tmp_path / "empty.duckdb"):
        pass
    with bandlens.open(tmp_path / "empty.duckdb") as results:
        assert "empty.duckdb: no results" in results._repr_html_()


def test_a_query_with_a_timeout_gives_the_same_rows_or_ends(stored_study: Path) -> None:
    with bandlens.open(stored_study) as results:
        query = "SELECT *, ? AS x FROM accuracy ORDER BY ALL"
        assert_frame_equal(results.sql(query, ["y"], timeout=60), results.sql(query, ["y"]))
        for value in ("y", 3, b"y"):
            assert results.sql("SELECT ? AS x", value).item() == value
        with pytest.raises(StoreError, match=r"the query took more than 0.5 s"):
            results.sql("SELECT count(*) FROM range(1000000000000) AS t(x) WHERE x * 7 % 13 = 5", timeout=0.5)


def test_correlations_and_charts(stored_study: Path) -> None:
    with bandlens.open(str(stored_study)) as results:
        table = results.correlations()
        assert "low_frequency_bias" in set(table["bias"])
        assert set(table["n"]) == {0, 5}, "the networks are random, and some biases at chance"
        assert results.plot_correlations(table).to_dict()["layer"]
        assert results.plot_correlations("many").to_dict() == results.plot_correlations(table).to_dict()
        spec = (curves := results.plot_curves()).to_dict()
        assert spec["config"] == CONFIG, "the style of the report, in which no name of 40 characters is cut"
        assert spec["layer"][-1]["encoding"]["x"]["title"] == "cut: frequencies below it stay (cycles per image)"
        axis = curves.configure_axis(gridColor="red").to_dict()["config"]["axis"]
        assert axis == CONFIG["axis"] | {"gridColor": "red"}
        with pytest.raises(UsageError, match=r"has no clean with cycles$"):
            results.plot_curves("clean")
        with pytest.raises(UsageError, match="unknown probe 'lowpas'; did you mean lowpass"):
            results.plot_curves("lowpas")
        with pytest.raises(UsageError, match=r"probe is \['lowpass', 'highpass'\]; give text"):
            results.plot_curves(["lowpass", "highpass"])  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="parameters is a dictionary; give a list of values"):
            results.sql("SELECT $cutoff", {"cutoff": 0.2})
        with pytest.raises(UsageError, match=r"no low_frequency_bais; did you mean low_frequency_bias"):
            results.plot_metric("low_frequency_bais")


def test_a_chart_of_curves_is_of_one_study_and_one_image_set(tmp_path: Path) -> None:
    set_a, set_b = image_set(4, name="one", labels=np.zeros(4)), image_set(5, name="other", labels=np.zeros(5))
    conditions = [condition("lowpass", cutoff=cutoff) for cutoff in (0.1, 0.5)]
    conditions += [condition("critical_band", noise_sd=sd, frequency=2) for sd in (0.16, 0.02)]
    conditions += [condition("contrast", contrast=contrast) for contrast in (0.1, 0.2)]
    parts = [
        part(cell(images, setting), *np.zeros((2, images.info.count)))
        for images in (set_a, set_b)
        for setting in conditions
    ]
    with open_store(tmp_path / "results.duckdb") as store:
        store_study(store, "first", [set_a, set_b], parts)
        store_study(store, "second", set_a, parts[:6])
    with bandlens.open(tmp_path / "results.duckdb") as results:
        with pytest.raises(UsageError, match=r"has lowpass of first@1, second@1; name one of them with study=$"):
            results.plot_curves()
        with pytest.raises(UsageError, match=r"has lowpass of one, other; name one of them with image_set=$"):
            results.plot_curves(study="first")
        with pytest.raises(UsageError, match=r"has no lowpass in study first on othr; did you mean other\?"):
            results.plot_curves(study="first", image_set="othr")
        with pytest.raises(UsageError, match=r"critical_band varies more than .*cycles"):
            results.plot_curves("critical_band", study="second")
        results.plot_curves(study="second")
        results.plot_curves("critical_band", "noise_sd", study="second")
        assert {0.1, 0.2} < {row.get("x") for row in rows_of_chart(results.plot_curves("contrast", study="second"))}
        rows = rows_of_chart(results.plot_curves(study="first", image_set="other"))
    assert sorted((row["cycles"], row["n"]) for row in rows if "cycles" in row) == [(11, 5), (56, 5)]
    assert {"chance": 1 / 10} in rows


@pytest.fixture(scope="module")
def fourier_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints on two image sets under waves of two rows, with made-up thresholds and shape biases on each."""
    path, rng = tmp_path_factory.mktemp("fourier_study") / "results.duckdb", np.random.default_rng(1)
    sets = [image_set(20 + k, name=name, labels=np.zeros(20 + k)) for k, name in enumerate(("photographs", "cues"))]
    waves = [condition("fourier", row=row, column=column, norm=15.7) for row in (0, 2) for column in (1, 2)]
    with open_store(path) as store:
        parts = []
        for images, setting, name in product(sets, (condition(), *waves), HOSTILE):
            rank = (rng.random(images.info.count) < 0.3).astype(int)
            parts.append(part(cell(images, setting, by=model(name)), rank, rank))
        store_study(store, "mine", sets, parts)
        ids = store.frame(
            "SELECT DISTINCT study_id, checkpoint_id, image_set_id FROM study_version "
            "JOIN study_cell ON study_cell.study = study_id JOIN cell_detail USING (cell) ORDER BY ALL"
        )
        rows = []
        for place, name in enumerate(("shape_bias", *THRESHOLDS)):
            value = pl.Series(0.02 + 0.01 * place + 0.001 * np.arange(len(ids)))
            rows.append(ids.with_columns(metric=pl.lit(name), value=value, low=value / 2, high=value * 1.1))
        store_values(store, pl.concat(rows))
    return path


def six_digits(value: float) -> float:
    """A number as charts hold it."""
    return float(f"{value:.6g}")


def rows_of_chart(chart: Any) -> list[dict[str, Any]]:
    """All rows that a chart holds, those of its parts included."""
    return [row for dataset in chart.to_dict()["datasets"].values() for row in dataset]


def test_a_chart_of_shape_bias_holds_the_numbers_of_the_database(fourier_study: Path) -> None:
    with bandlens.open(fourier_study) as results:
        rows = {
            (row["model"], row["value"], row["low"], row["high"])
            for row in rows_of_chart(results.plot_metric("shape_bias", image_set="cues"))
        }
        view = results.metrics().filter(pl.col("metric") == "shape_bias", pl.col("image_set") == "cues")
    numbers = {(row[0], *map(six_digits, row[1:])) for row in view.select("checkpoint", "value", "low", "high").rows()}
    assert rows == numbers
    assert {row[0] for row in rows} == set(HOSTILE)


def test_channels_hold_the_thresholds_of_the_database(fourier_study: Path) -> None:
    with bandlens.open(fourier_study) as results:
        channels = results.plot_channels("mine@1", "cues")
        view = results.metrics().filter(pl.col("metric").is_in(list(THRESHOLDS)), pl.col("image_set") == "cues")
        size = results.sql("SELECT size FROM image_set WHERE name = 'cues'").item()
    expected = {
        (six_digits(center(THRESHOLDS[row["metric"]], size)), six_digits(row["value"])) for row in view.to_dicts()
    }
    assert len(view) == 2 * len(THRESHOLDS)
    spec = channels.to_dict()
    titles = [panel["title"]["text"] for panel in spec["concat"]]
    assert titles == sorted(HOSTILE)
    points = {(row["cycles"], row["noise_sd"]) for row in rows_of_chart(channels)}
    assert points == expected


def test_charts_shade_what_enlarged_images_do_not_have(stored_study: Path, fourier_study: Path, tmp_path: Path) -> None:
    for file, plot, images in (
        (stored_study, "plot_curves", "photographs"),
        (fourier_study, "plot_channels", "cues"),
    ):
        path = Path(shutil.copyfile(file, tmp_path / f"{plot}.duckdb"))
        for shaded in (False, True):
            with bandlens.open(path) as results:
                spec = json.dumps(getattr(results, plot)(image_set=images).to_dict())
            assert (ENLARGED in spec) == shaded, plot
            with open_store(path) as store:
                store.execute("UPDATE image_set SET own_cycles = 30")


def test_curves_of_agreement_have_the_floor_of_the_clean_answers(tmp_path: Path) -> None:
    """Three in four answers are of one class: 20 images agree on (15 x 14 + 5 x 4) / (20 x 19) of pairs."""
    images, answers = image_set(20), np.arange(20) % 4 == 0
    settings = condition(), condition("lowpass", cutoff=0.1), condition("lowpass", cutoff=0.5)
    path = database_of(tmp_path, images, [part(cell(images, setting), answers) for setting in settings])
    with bandlens.open(path) as results:
        chances = [row["chance"] for row in rows_of_chart(results.plot_curves()) if "chance" in row]
    assert chances == pytest.approx([230 / 380])


def test_charts_of_metrics_are_of_one_image_set_that_has_them(stored_study: Path, fourier_study: Path) -> None:
    with bandlens.open(fourier_study) as results:
        shape_bias = partial(results.plot_metric, "shape_bias")
        for plot in (shape_bias, results.plot_channels):
            with pytest.raises(UsageError, match=r"of cues, photographs; name one of them with image_set=$"):
                plot()
    missing = r"has no shape_bias in study many on photographs$"
    with bandlens.open(stored_study) as results, pytest.raises(UsageError, match=missing):
        results.plot_metric("shape_bias", "many", "photographs")


def test_bars_of_octave_shares_end_at_the_accuracies_of_the_database(sample: Path, stored_study: Path) -> None:
    with bandlens.open(sample) as results:
        bars = rows_of_chart(results.plot_octave_shares("octaves", "photographs"))
        accuracies = results.accuracy("octaves").filter(pl.col("probe") == "clean").select("checkpoint", "top1").rows()
    for name, top1 in accuracies:
        parts = [row for row in bars if row["model"] == name]
        assert len(parts) == 8
        assert sum(row["value"] for row in parts) == pytest.approx(top1, abs=1e-5)
    with bandlens.open(stored_study) as results, pytest.raises(UsageError, match=r"has no octave shares$"):
        results.plot_octave_shares()
