"""Charts of metrics: what they draw follows from the column `state`, whatever the notes say."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import vl_convert

from bandlens.analysis.charts.maps import threshold_map
from bandlens.analysis.charts.numbers import (
    add_estimators,
    channel_chart,
    number_chart,
)

PROSE = "the threshold lies below the tested noise; all thresholds are equal; no Gaussian; lies above"
"""A note that would mislead whatever reads notes."""


def rows(metric: str, state: str, value: float | None = 0.05, note: str | None = PROSE) -> dict[str, Any]:
    number = {"value": value, "low": value and value / 2, "high": value and value * 2}
    return {"checkpoint": "net", "category": "own", "metric": metric, "state": state, "note": note} | number


def data(chart: Any) -> list[dict[str, Any]]:
    """All rows in all layers of a chart."""
    return [row for dataset in chart.to_dict()["datasets"].values() for row in dataset]


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        *((state, "point") for state in ("ok", "doubtful", "no_interval", "censored_below", "censored_above")),
        *((state, "text") for state in ("degenerate", "undetermined", "at_chance", "missing", "failed")),
    ],
)
def test_numbers_are_points_or_crosses(state: str, kind: str) -> None:
    value = None if state in ("undetermined", "missing", "failed") else 3.0
    frame = add_estimators(pl.DataFrame([rows("critical_bandwidth", state, value)]))
    layers = number_chart(frame, "bandwidth", "bandwidth").to_dict()["layer"]
    marks = {layer["mark"]["type"]: layer["mark"] for layer in layers}
    assert {"point", "text"} & set(marks) == {kind}
    if kind == "point":
        assert (marks["point"].get("fill") == "white") == (state != "ok")


@pytest.mark.parametrize(
    ("metric", "estimator"),
    [("psychometric_bandwidth", "psychometric"), ("critical_bandwidth", "published"), ("shape_bias", None)],
)
def test_only_a_channel_has_an_estimator_and_marks_of_its_shape(metric: str, estimator: str | None) -> None:
    frame = add_estimators(pl.DataFrame([rows(metric, "ok")]))
    assert frame["estimator"].to_list() == [estimator]
    encodings = [layer["encoding"] for layer in number_chart(frame, frame["number"][0], "title").to_dict()["layer"]]
    for encoding in encodings:
        assert ("estimator" in {tooltip["field"] for tooltip in encoding["tooltip"]}) == (estimator is not None)
    assert any("shape" in encoding for encoding in encodings) == (estimator is not None)


@pytest.mark.parametrize(
    ("state", "place", "sign"),
    [("ok", "met", ""), ("no_interval", "met", ""), ("censored_below", "below", "≤"), ("censored_above", "above", "≥")],
)
def test_thresholds_beyond_the_tested_noise_have_a_triangle_and_a_sign(state: str, place: str, sign: str) -> None:
    frame = pl.DataFrame([rows("psychometric_threshold_3", state)])
    assert {row["text"] for row in data(threshold_map(frame, "thresholds"))} == {f"{sign}0.05"}
    assert {row["place"] for row in data(channel_chart(frame, "channel")) if "place" in row} == {place}


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ("doubtful", "○ published: 4.0 octaves wide around 28 cycles per image"),
        ("degenerate", "× published: no channel, why"),
    ],
)
def test_the_subtitle_of_a_channel_says_what_its_fit_is_worth(state: str, line: str) -> None:
    names = {"critical_bandwidth": 4.0, "critical_center_frequency": 28.0}
    frame = pl.DataFrame([rows(name, state, value, "why") for name, value in names.items()])
    assert channel_chart(frame, "channel").to_dict()["title"]["subtitle"] == [line]


def test_centres_of_bands_follow_the_size_of_the_images() -> None:
    size = 384
    names = {"bandwidth": 3.0, "center_frequency": 14.0 * size / 224, "peak_noise_sensitivity": 0.25}
    fit = [rows(f"psychometric_{name}", "ok", value) for name, value in names.items()]
    frame = pl.DataFrame([rows("psychometric_threshold_3", "ok"), *fit])
    charts = (threshold_map(frame, "thresholds", size), channel_chart(frame, "channel", size))
    for chart in charts:
        assert {row["cycles"] for row in data(chart) if "value" in row or "place" in row} == {14.0 * size / 224}
    bell = [row for row in data(charts[1]) if set(row) == {"cycles", "noise_sd"}]
    peak = min(bell, key=lambda row: row["noise_sd"])
    assert peak["cycles"] == pytest.approx(14.0 * size / 224, rel=0.04)


def test_names_of_models_are_whole_where_two_charts_share_a_window_of_1100_pixels() -> None:
    name = "vit_base_patch16_224.augreg_in21k_ft_in1k"
    models = [name, f"{name} in mine@1 of ../old/results.duckdb"]
    frame = add_estimators(pl.DataFrame([rows("shape_bias", "ok") | {"checkpoint": model} for model in models]))
    spec = number_chart(frame, "shape_bias", "shape bias").to_dict()
    page = {"width": 522, "autosize": {"type": "fit-x", "contains": "padding"}}
    config = {"axis": {"labelFontSize": 11, "labelLimit": 522 / 2}, "legend": {"orient": "bottom", "labelLimit": 0}}
    svg = vl_convert.vegalite_to_svg(spec | page | {"config": config})
    assert "…" not in svg
    assert svg.count(name) >= 2
    assert "in mine@1 of ../old/results.duckdb" in svg
    legends = [layer["encoding"]["color"].get("legend") for layer in spec["layer"]]
    assert legends == [None] * len(legends), "they would begin behind the names"
