"""Charts of accuracies over frequency are in cycles per image, as the probes cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import polars as pl
import pytest
from made_up_results import condition

from bandlens.analysis.charts.curves import curves, probe_panels
from bandlens.analysis.charts.grammar import CENTER
from bandlens.analysis.charts.maps import band_map
from bandlens.core.records import Condition


def rows_of(*conditions: Condition, top1: Sequence[float | None] = (), cycles: Sequence[float] = ()) -> pl.DataFrame:
    """Rows of the view `curve` with the facts of these conditions, of one model."""
    rows = pl.DataFrame(
        [
            {"probe": setting.probe, "place": place, "top1": top1[place] if top1 else 0.5}
            | {"cycles": cycles[place] if cycles else None}
            | asdict(setting.facts)
            for place, setting in enumerate(conditions)
        ],
        schema_overrides={"cycles": pl.Float64, "x": pl.Float64, "y": pl.Float64},
    )
    names = {"checkpoint": "net", "category": "own", "measure": "accuracy"}
    numbers = {"low": 0.4, "high": 0.6, "n": 100, "clean_top1": 0.8}
    return rows.with_columns(pl.lit(value).alias(name) for name, value in (names | numbers).items())


def values(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a chart, which all of its layers share."""
    [rows] = spec["datasets"].values()
    return list(rows)


def across(spec: dict[str, Any]) -> dict[str, Any]:
    return dict(spec["layer"][-1]["encoding"]["x"])


@pytest.mark.parametrize(("probe", "cycles"), [("lowpass", [11.0, 56.0]), ("highpass", [100.0, 56.0])])
def test_filters_are_drawn_over_where_they_cut(probe: str, cycles: list[float]) -> None:
    rows = rows_of(*(condition(probe, cutoff=c) for c in (0.1, 0.5)), cycles=cycles)
    [(title, panel)] = probe_panels(rows).items()
    spec = panel.to_dict()
    side = "below" if probe == "lowpass" else "above"
    assert (across(spec)["field"], across(spec)["title"]) == (
        "cycles",
        f"cut: frequencies {side} it stay (cycles per image)",
    )
    assert {tooltip["field"] for tooltip in spec["layer"][-1]["encoding"]["tooltip"]} >= {"cycles", "setting"}
    assert {row["cycles"]: row["setting"] for row in values(spec)} == dict(
        zip(cycles, ["cutoff=0.1", "cutoff=0.5"], strict=True)
    )
    assert (title, spec["title"]) == (probe, probe)
    assert "scale" not in across(spec)


def test_a_line_has_a_gap_where_a_condition_is_left_out() -> None:
    """A point between two gaps has a bar, since an area needs two of them."""
    rows = rows_of(*(condition("lowpass", cutoff=k / 10) for k in range(1, 6)), cycles=[11, 22, 33, 44, 56])
    rows = pl.concat([rows.filter(pl.col("cycles") != 44), rows.with_columns(checkpoint=pl.lit("whole"))])
    [panel], [curve_alone] = (probe_panels(shown).values() for shown in (rows, rows.filter(checkpoint="net")))
    for chart in (panel, curve_alone, curves(rows.drop("place"), "cycles", None, "lowpass")):
        [line] = [layer["encoding"] for layer in chart.to_dict()["layer"] if layer["mark"]["type"] == "line"]
        assert [field["field"] for field in line["detail"]] == ["model", "stretch"]
        stretches = [(row["stretch"], row["alone"]) for row in values(chart.to_dict()) if row["model"] == "net"]
        assert stretches == [(-1, False)] * 3 + [(0, True)]


def test_bands_of_noise_are_at_their_centres() -> None:
    noise = [condition("critical_band", noise_sd=0.02, frequency=f, draw="shared") for f in (0, 3)]
    rows = rows_of(condition("critical_band", noise_sd=0.0), *noise, top1=[0.9, 0.5, 0.5], cycles=[0, 1.875, 15.0])
    rows = rows.with_columns(cycles=pl.when(pl.col("x").is_not_null()).then("cycles"))
    chart = band_map(rows, "net").to_dict()
    assert {(row["cycles"], row["series"]) for row in values(chart)} == {
        (1.875, "noise_sd=0.02"),
        (15.0, "noise_sd=0.02"),
    }
    assert chart["title"]["subtitle"] == "accuracy; without noise 0.90"
    [(title, panel)] = probe_panels(rows).items()
    spec = panel.to_dict()
    assert (title, across(spec)["title"]) == ("critical band, noise_sd=0.02", CENTER)
    assert across(spec)["scale"] == {"type": "log", "base": 2}
    assert across(spec)["axis"]["values"] == [1.875, 15.0]


def test_a_map_of_waves_shows_a_frequency_and_its_opposite() -> None:
    waves = [condition("fourier", row=row, column=column, norm=15.7) for row, column in [(0, 0), (0, 2), (3, -1)]]
    [(title, chart)] = probe_panels(rows_of(*waves, top1=[0.9, 0.5, 0.2])).items()
    spec = chart.to_dict()
    assert title == "fourier: net, norm=15.7"
    tiles = {(row["x"], row["y"]): row["top1"] for row in values(spec)}
    assert tiles == {(0, 0): 0.9, (2, 0): 0.5, (-2, 0): 0.5, (-1, 3): 0.2, (1, -3): 0.2}
    assert [spec["encoding"][axis]["title"] for axis in "xy"] == ["cycles across", "cycles down"]


def test_a_map_of_bins_has_octaves_across_and_orientations_down() -> None:
    bins = [(0, 0.0), (2, 45.0), (2, 90.0)]
    conditions = [condition("fourier_bin", octave=octave, orientation=turn, norm=15.7) for octave, turn in bins]
    [chart] = probe_panels(rows_of(*conditions, top1=[0.9, 0.5, None])).values()
    spec = chart.to_dict()
    assert [(row["x"], row["y"], row["top1"]) for row in values(spec)] == [(0, 0, 0.9), (2, 45, 0.5)]
    assert spec["encoding"]["y"]["title"] == "orientation (degrees)"


def test_a_probe_of_ones_own_with_one_number_has_its_curve() -> None:
    [panel] = probe_panels(rows_of(*(condition("blur", sigma=sigma) for sigma in (4, 1, 2)))).values()
    spec = panel.to_dict()
    assert (across(spec)["field"], across(spec)["type"], across(spec)["title"]) == ("x", "quantitative", "sigma")
    assert [row["x"] for row in values(spec)] == [1, 2, 4]


def test_settings_without_an_order_are_rows_of_dots_and_no_line() -> None:
    conditions = [condition("octaves", keep=keep) for keep in ("0", "456", "12")]
    [(title, panel)] = probe_panels(rows_of(*conditions)).items()
    spec = panel.to_dict()
    assert title == "octaves"
    assert "line" not in [layer["mark"]["type"] for layer in spec["layer"]]
    [points] = [layer["encoding"] for layer in spec["layer"] if layer["mark"]["type"] == "point"]
    settings = ["keep=0", "keep=456", "keep=12"]
    assert (points["x"]["field"], points["y"]["field"], points["y"]["sort"]) == ("top1", "setting", settings)
    assert [row["setting"] for row in values(spec)] == settings


def test_a_quality_is_a_line_over_its_own_name_for_each_setting_of_the_rest() -> None:
    jpegs = [
        condition("jpeg", quality=quality, sampling=sampling) for sampling in ("420", "444") for quality in (5, 95)
    ]
    panels = probe_panels(rows_of(*jpegs, condition("jpeg", quality=50, sampling="422")))
    titles = ["jpeg, sampling=420", "jpeg, sampling=444", "jpeg, quality=50, sampling=422"]
    assert [*panels] == titles, "a series of one setting has no line"
    assert across(panels["jpeg, sampling=444"].to_dict())["title"] == "quality"


def test_probes_of_one_setting_share_a_chart() -> None:
    attack = condition("pgd_linf", eps=0.5 / 255, step=2 / 255, steps=40)
    [(title, panel)] = probe_panels(rows_of(attack, condition("channel_shuffle"), condition("mirror"))).items()
    spec = panel.to_dict()
    assert title == "probes of one setting"
    assert spec["layer"][-1]["encoding"]["y"]["sort"] == ["pgd linf", "channel shuffle", "mirror"]
