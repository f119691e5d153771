"""Charts of accuracies over frequency: in cycles per image, as the probes cut."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from bandlens.analysis.charts.curves import band_map, bin_map, curves, wave_map
from bandlens.analysis.charts.style import CENTER
from bandlens.app.report.accuracy import CUT, SPECTRAL


def curve(probe: str, **columns: list[float]) -> pl.DataFrame:
    rows = pl.DataFrame({"cutoff": None, "frequency": None} | columns)
    names = {"checkpoint": "net", "category": "own", "measure": "accuracy", "probe": probe}
    numbers = {"top1": 0.5, "low": 0.4, "high": 0.6, "n": 100, "clean_top1": 0.8}
    return rows.with_columns(pl.lit(value).alias(name) for name, value in (names | numbers).items())


def values(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a chart, which all of its layers share."""
    [rows] = spec["datasets"].values()
    return list(rows)


@pytest.mark.parametrize(("probe", "cycles"), [("lowpass", [11.0, 56.0]), ("highpass", [100.0, 56.0])])
def test_filters_are_drawn_over_where_they_cut(probe: str, cycles: list[float]) -> None:
    spec = curves(curve(probe, cutoff=[0.1, 0.5], cycles=cycles), "cycles", CUT, SPECTRAL[probe]).to_dict()
    points = spec["layer"][-1]
    assert (points["encoding"]["x"]["field"], points["encoding"]["x"]["title"]) == ("cycles", "cut (cycles per image)")
    assert {one["field"] for one in points["encoding"]["tooltip"]} >= {"cycles", "cutoff"}
    assert {row["cycles"]: row["cutoff"] for row in values(spec)} == dict(zip(cycles, [0.1, 0.5], strict=True))
    assert ("removed" in spec["title"]) == (probe == "highpass")
    assert "scale" not in points["encoding"]["x"]


def test_bands_of_noise_are_at_their_centres() -> None:
    rows = curve("critical_band", frequency=[0.0, 3.0], noise_sd=[0.02, 0.02], cycles=[1.875, 15.0])
    assert {row["cycles"] for row in values(band_map(rows, "net").to_dict())} == {1.875, 15.0}
    across = curves(rows, "cycles", CENTER, "noise").to_dict()["layer"][-1]["encoding"]["x"]
    assert across["scale"] == {"type": "log", "base": 2}
    assert across["axis"]["values"] == [1.875, 15.0]


def test_a_map_of_waves_shows_a_frequency_and_its_opposite() -> None:
    rows = curve("fourier", norm=[15.7] * 3).with_columns(
        pl.Series(
            "parameters",
            [f'{{"row":{row},"column":{column},"norm":15.7}}' for row, column in [(0, 0), (0, 2), (3, -1)]],
        ),
        pl.Series("top1", [0.9, 0.5, 0.2]),
    )
    found = {(row["row"], row["column"]): round(row["error"], 6) for row in values(wave_map(rows, "net").to_dict())}
    assert found == {(0, 0): 0.1, (0, 2): 0.5, (0, -2): 0.5, (3, -1): 0.8, (-3, 1): 0.8}


def test_a_map_of_bins_has_octaves_across_and_orientations_down() -> None:
    bins = [(0, 0.0), (2, 45.0), (2, 90.0)]
    rows = curve("fourier_bin", norm=[15.7] * 3).with_columns(
        pl.Series("parameters", [f'{{"octave":{octave},"orientation":{turn},"norm":15.7}}' for octave, turn in bins]),
        pl.Series("top1", [0.9, 0.5, None]),
    )
    spec = bin_map(rows, "net").to_dict()
    found = [(row["octave"], row["orientation"], round(row["error"], 6)) for row in values(spec)]
    assert found == [(0, 0, 0.1), (2, 45, 0.5)]
    assert (spec["encoding"]["x"]["field"], spec["encoding"]["y"]["field"]) == ("octave", "orientation")
