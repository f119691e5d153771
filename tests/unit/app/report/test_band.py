"""The report's section on numbers: models beside people where published trials have the same number."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from made_up_results import cell, image_set, part, store_study
from reported import GRID, add_metrics, make_database

from bandlens.analysis.database.open import open_store
from bandlens.analysis.measures.compute import compute_measures
from bandlens.analysis.published.sources import VALUES
from bandlens.app.report.band import numbers_section
from bandlens.app.report.data import ReportData, read_data


def data_of(path: Path, probes: tuple[str, ...]) -> ReportData:
    make_database(path, 2, [setting for setting in GRID if setting.probe in probes])
    add_metrics(path)
    report_data = read_data(path)
    assert report_data is not None
    return report_data


def test_the_channel_of_people_is_a_line_beside_that_of_each_model(tmp_path: Path) -> None:
    results = data_of(tmp_path / "results.duckdb", ("clean", "critical_band"))
    [figure] = [figure for figure in numbers_section(results).figures if figure.name == "beside-people-1"]
    assert figure.title == "Models on photographs beside people"
    assert len(figure.panels) == 3 + 7  # width, centre and peak, and a threshold for each octave
    widths = figure.table.filter(metric="critical_bandwidth_raw")
    assert widths["subject"].to_list() == [*sorted(results.checkpoints["name"]), "humans"]
    assert widths.filter(pl.col("human")).select("value", "state").rows() == [(widths["value"][-1], "doubtful")]
    models = results.metrics.filter(metric="critical_bandwidth_raw").sort("checkpoint")
    assert widths.filter(~pl.col("human"))["value"].to_list() == models["value"].to_list()
    lines = figure.panels["critical bandwidth, accuracies not normalized (octaves)"].to_dict()["layer"]
    assert "humans" in lines[0]["encoding"]["y"]["scale"]["domain"]


def test_without_band_noise_nothing_stands_beside_people(tmp_path: Path) -> None:
    results = data_of(tmp_path / "results.duckdb", ("clean", "lowpass"))
    assert not [figure for figure in numbers_section(results).figures if "people" in figure.name]


def test_the_shape_bias_of_observers_is_drawn_beside_that_of_models_where_trials_are_imported(tmp_path: Path) -> None:
    cues = {"shape": [[0]] * 40, "texture": [[1]] * 40}
    images = image_set(
        40, name="mine", labels=[0] * 40, schemes=cues, benchmark="cue-conflict", decision_space="sixteen"
    )
    observer = dict.fromkeys(VALUES) | {
        "source": "humans",
        "model": "cue-conflict subject-01",
        "benchmark": "cue-conflict",
        "metric": "shape_bias",
        "condition": "",
        "value": 0.96,
        "low": 0.94,
        "high": 0.97,
        "unit": "share",
    }
    rows = pl.DataFrame([observer, observer | {"model": "elsewhere", "benchmark": "edge"}], VALUES)
    with open_store(tmp_path / "results.duckdb") as store:
        decided = [k % 2 for k in range(40)]
        label = store_study(store, "s", images, [part(cell(images), decided, decided)])
        compute_measures(store, label)
        store.write_source("humans", rows)
    results = read_data(tmp_path / "results.duckdb")
    assert results is not None
    [figure] = [figure for figure in numbers_section(results).figures if figure.name == "beside-people-1"]
    assert list(figure.panels) == ["shape bias"]
    assert not figure.folded
    biases = figure.table.filter(metric="shape_bias").select("subject", "value", "human").rows()
    assert biases == [("net", 0.5, False), ("cue-conflict subject-01", 0.96, True)]
