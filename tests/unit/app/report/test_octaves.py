"""The report's section on octaves: bars that add up to accuracies, and matrices of pairs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import vl_convert
from made_up_octaves import WEIGHTS, make_octaves

from bandlens.app.report.build import write_report
from bandlens.app.report.data import ReportData, read_data
from bandlens.app.report.octaves import octaves_section


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    path = tmp_path_factory.mktemp("octaves") / "results.duckdb"
    make_octaves(path)
    report_data = read_data(path)
    assert report_data is not None
    return report_data


def parts_of(chart: Any, model: str) -> list[dict[str, Any]]:
    [rows] = chart.to_dict()["datasets"].values()
    return [row for row in rows if row["model"] == model]


@pytest.mark.parametrize("model", WEIGHTS)
def test_a_bar_begins_at_zero_goes_on_where_it_ended_and_ends_at_the_accuracy(results: ReportData, model: str) -> None:
    bars, _ = octaves_section(results).figures
    parts = parts_of(bars.panels["shares"], model)
    clean = results.curve.filter(probe="clean", checkpoint=model)["top1"].item()
    flat = results.curve.filter(probe="octaves", checkpoint=model, setting="keep=none")["top1"].item()
    assert [part["start"] for part in parts] == pytest.approx([0, *(part["end"] for part in parts[:-1])], abs=1e-5)
    assert (parts[0]["part"], parts[0]["end"]) == ("flat image", pytest.approx(flat, abs=1e-5))
    assert parts[-1]["end"] == pytest.approx(clean, abs=1e-5)
    assert sorted(part["octave"] for part in parts[1:]) == [*range(7)]
    assert parts[-1]["octave"] == 6 or model == "coarse", "an octave that takes away comes last"


def test_numbers_stand_in_bars_that_have_room_for_them_and_the_legend_fits_a_phone(results: ReportData) -> None:
    bars, _ = octaves_section(results).figures
    chart = bars.panels["shares"]
    narrow, wide = (vl_convert.vegalite_to_svg(chart.properties(width=width).to_dict()) for width in (290, 1100))
    shown_narrow, shown_wide = (len(re.findall(r'"text mark"[^>]*opacity="1"', svg)) for svg in (narrow, wide))
    assert 0 < shown_narrow < shown_wide
    assert float(str(re.search(r'width="([\d.]+)"', narrow)[1])) <= 390  # type: ignore[index]


def test_octaves_are_named_by_their_cycles_and_pairs_have_a_matrix_a_model(results: ReportData) -> None:
    bars, pairs = octaves_section(results).figures
    assert (bars.title, pairs.title) == ("Octave shares on photographs", "Pairs of octaves on photographs")
    names = {part["octave"]: part["part"] for part in parts_of(bars.panels["shares"], "coarse")[1:]}
    assert [names[octave] for octave in range(7)] == [
        *("0: 1", "1: 2 to 3", "2: 4 to 7", "3: 8 to 14", "4: 15 to 28", "5: 29 to 56", "6: 57 to 112")
    ]
    assert [*pairs.panels] == sorted(WEIGHTS)
    assert len(pairs.table) == 3 * 21
    colors = [panel.to_dict()["layer"][0]["encoding"]["color"]["scale"]["domain"] for panel in pairs.panels.values()]
    assert colors == [[-pairs.table["value"].abs().max(), pairs.table["value"].abs().max()]] * 3, "one scale for all"
    assert len(bars.table) == 3 * 7


def test_models_at_chance_are_in_the_table_alone(results: ReportData) -> None:
    """Nobody can tell what they owe to an octave."""
    guesses = pl.col("checkpoint") == "coarse"
    state = pl.when(guesses).then(pl.lit("at_chance")).otherwise("state")
    bars, pairs = octaves_section(replace(results, metrics=results.metrics.with_columns(state=state))).figures
    assert not parts_of(bars.panels["shares"], "coarse")
    assert parts_of(bars.panels["shares"], "fine")
    assert bars.caption.endswith("no more often than blind guesses are in the table alone.")
    assert [*pairs.panels] == ["fine", "middle"]
    assert "coarse" in bars.table["checkpoint"]
    state = pl.lit("at_chance")
    bars, pairs = octaves_section(replace(results, metrics=results.metrics.with_columns(state=state))).figures
    assert (bars.panels, pairs.panels, len(bars.table)) == ({}, {}, 3 * 7)


def test_the_page_has_the_section_and_no_panel_of_a_hundred_settings(tmp_path: Path) -> None:
    make_octaves(tmp_path / "results.duckdb")
    write_report(tmp_path / "results.duckdb", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert 'id="octaves-1"' in page
    assert 'id="octave-pairs-1"' in page
    assert "coarse owes" in page
    assert page.count("keep=0123") < 1000
