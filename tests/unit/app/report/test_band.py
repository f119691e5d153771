"""The report's section on numbers: models beside people where published trials have the same number."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from reported import GRID, add_metrics, make_database

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
