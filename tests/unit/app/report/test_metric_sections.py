"""The sections of what a study measured: accuracies, octaves that add up, and every measure under every condition."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_up_results import cell, condition, database_of, image_set, model, part, store_study, store_trials, trials_of
from reported import measured_section

from bandlens.analysis.charts.curves import probe_panels
from bandlens.analysis.database.open import open_store
from bandlens.analysis.metrics.compute import compute_measures
from bandlens.analysis.metrics.families.error_consistency import write_consistencies
from bandlens.app.report.data import ReportData, read_data
from bandlens.app.report.metric_sections import consistency_section, count_columns, measured_sections
from bandlens.app.report.page import Figure

NOISE = [condition("critical_band", noise_sd=sd, frequency=f) for sd in (0.04, 0.16) for f in (1, 3, 5)]
SETTINGS = [
    condition(),
    condition("critical_band", noise_sd=0.0),
    *(condition("lowpass", cutoff=c) for c in (0.1, 0.5)),
    *NOISE,
    *(condition("blur", sigma=sigma) for sigma in (1, 2)),
]


NETWORKS = ["EfficientNet-Lite0", "EfficientNet-Lite1", "EfficientNet-Lite2", "SqueezeNet-1.1"]


@pytest.fixture(scope="module")
def octaves(sample: Path) -> ReportData:
    return read_data(sample, "octaves")


def parts_of(chart: Any, model: str) -> list[dict[str, Any]]:
    [rows] = chart.to_dict()["datasets"].values()
    return [row for row in rows if row["model"] == model]


@pytest.mark.parametrize("model", NETWORKS)
def test_a_bar_begins_at_zero_goes_on_where_it_ended_and_ends_at_the_accuracy(octaves: ReportData, model: str) -> None:
    bars, _ = measured_section(octaves, "octave-shares").figures
    parts = parts_of(bars.panels["shares"], model)
    clean = octaves.curve.filter(probe="clean", checkpoint=model)["top1"].item()
    flat = octaves.curve.filter(probe="octaves", checkpoint=model, setting="keep=none")["top1"].item()
    assert [part["start"] for part in parts] == pytest.approx([0, *(part["end"] for part in parts[:-1])], abs=1e-5)
    assert (parts[0]["part"], parts[0]["end"]) == ("flat image", pytest.approx(flat, abs=1e-5))
    assert parts[-1]["end"] == pytest.approx(clean, abs=1e-5)
    assert sorted(part["octave"] for part in parts[1:]) == [*range(7)]


def test_an_octave_that_takes_away_comes_last(octaves: ReportData) -> None:
    value = pl.when(metric="octave_share_2").then(-pl.col("value")).otherwise("value")
    bars, _ = measured_section(
        replace(octaves, metrics=octaves.metrics.with_columns(value=value)), "octave-shares"
    ).figures
    assert [part["octave"] for part in parts_of(bars.panels["shares"], NETWORKS[0])[1:]] == [0, 1, 3, 4, 5, 6, 2]


def test_octaves_are_named_by_their_cycles_and_pairs_have_a_matrix_a_model(octaves: ReportData) -> None:
    bars, pairs = measured_section(octaves, "octave-shares").figures
    assert (bars.title, pairs.title) == ("Octave shares on photographs", "Pairs of octaves on photographs")
    names = {part["octave"]: part["part"] for part in parts_of(bars.panels["shares"], NETWORKS[0])[1:]}
    assert [names[octave] for octave in range(7)] == [
        *("0: 1", "1: 2 to 3", "2: 4 to 7", "3: 8 to 14", "4: 15 to 28", "5: 29 to 56", "6: 57 to 112")
    ]
    assert sorted(pairs.panels) == NETWORKS
    assert len(pairs.table) == 4 * 21
    colors = [panel.to_dict()["layer"][0]["encoding"]["color"]["scale"]["domain"] for panel in pairs.panels.values()]
    assert colors == [[-pairs.table["value"].abs().max(), pairs.table["value"].abs().max()]] * 4, "one scale for all"
    assert len(bars.table) == 4 * 7


def test_models_at_chance_are_in_the_table_alone(octaves: ReportData) -> None:
    """Nobody can tell what they owe to an octave."""
    guesses = pl.col("checkpoint") == "SqueezeNet-1.1"
    state = pl.when(guesses).then(pl.lit("at_chance")).otherwise("state")
    bars, pairs = measured_section(
        replace(octaves, metrics=octaves.metrics.with_columns(state=state)), "octave-shares"
    ).figures
    assert not parts_of(bars.panels["shares"], "SqueezeNet-1.1")
    assert parts_of(bars.panels["shares"], NETWORKS[0])
    assert bars.caption[-1].endswith("no more often than blind guesses are in the table alone.")
    assert sorted(pairs.panels) == NETWORKS[:3]
    assert "SqueezeNet-1.1" in bars.table["checkpoint"]


def test_masks_have_their_section_and_no_panel_of_a_hundred_settings(octaves: ReportData) -> None:
    figures = {figure.name: figure for section in measured_sections(octaves) for figure in section.figures}
    assert {"octaves-1", "octave-pairs-1"} <= figures.keys()
    assert any(" owes " in finding for finding in octaves.verdict.findings)
    panels = [str(panel.to_dict()) for figure in figures.values() for panel in figure.panels.values()]
    assert sum(panel.count("keep=0123") for panel in panels) < 1000


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    """Cue conflicts, 60 of them, under filters, noise in bands, and a probe of one's own."""
    path = tmp_path_factory.mktemp("measures") / "results.duckdb"
    rng = np.random.default_rng(0)
    images = image_set(60, labels=[0] * 60, schemes={"texture": [[1]] * 60}, name="conflicts")
    parts = [part(cell(images, setting), answers := rng.integers(0, 3, 60), answers) for setting in SETTINGS]
    with open_store(path) as store:
        store_study(store, "s", images, parts)
        compute_measures(store, "s")
    return read_data(path)


def figures(results: ReportData) -> dict[str, Figure]:
    return {figure.title: figure for figure in measured_section(results, "measures").figures}


def points(panel: Any) -> list[dict[str, Any]]:
    [rows] = panel.to_dict()["datasets"].values()
    return list(rows)


def test_each_metric_is_a_figure_and_each_probe_and_level_a_panel(results: ReportData) -> None:
    figures_by_name = figures(results)
    titles = ("shape bias", "cue accuracy", "confidence", "error consistency with clean")
    assert {f"{name} on conflicts" for name in titles} <= set(figures_by_name)
    assert "accuracy on conflicts" not in figures_by_name, "accuracy has a section of curves for itself"
    panels = {name: panel.to_dict() for name, panel in figures_by_name["shape bias on conflicts"].panels.items()}
    across = {title: spec["layer"][-1]["encoding"]["x"]["field"] for title, spec in panels.items()}
    assert across == {
        "lowpass": "cycles",
        "critical band, noise_sd=0.04": "cycles",
        "critical band, noise_sd=0.16": "cycles",
        "blur": "x",
    }


def test_a_curve_has_the_numbers_of_the_view_and_the_clean_one_beside_it(results: ReportData) -> None:
    figure = figures(results)["shape bias on conflicts"]
    view = results.condition_metrics.filter(metric="shape_bias")
    (clean,) = view.filter(probe="clean")["value"]
    panel = figure.panels["lowpass"]
    expected = view.filter(probe="lowpass").select("cycles", "value", "low", "high").sort("cycles").rows()
    rows = points(panel)
    assert [row["cycles"] for row in rows] == [11, 56]
    for row, numbers in zip(rows, expected, strict=True):
        assert (row["cycles"], row["top1"], row["low"], row["high"]) == pytest.approx(numbers, rel=1e-5)
        assert row["clean_top1"] == pytest.approx(clean, rel=1e-5)
    assert set(figure.table["probe"]) == {"lowpass", "critical_band", "blur"}
    assert figure.table["difference_low"].is_not_null().all()


def test_a_channel_of_no_threshold_has_no_frame_and_its_noise_a_map(results: ReportData) -> None:
    metrics = results.metrics.with_columns(value=pl.lit(None, pl.Float64))
    [figure] = measured_section(replace(results, metrics=metrics), "critical-band").figures
    assert [*figure.panels] == ["net"]


@pytest.mark.parametrize(("letters", "columns"), [(24, 3), (38, 2), (60, 1)])
def test_charts_of_numbers_have_room_for_whole_names(letters: int, columns: int) -> None:
    assert count_columns(pl.Series(["net", "n" * letters])) == columns


def test_slices_are_a_table_with_the_condition_under_which_each_is_worst(tmp_path: Path) -> None:
    """A blur of 2 takes half of what is right, and one of 1 a tenth: a loss is worst where it is highest."""
    slices = {("site", "A"): np.arange(40), ("weather", "fog"): np.arange(20, 60)}
    images = replace(image_set(60, labels=[0] * 60), attributes=slices)
    shares = {condition(): 1.0, condition("blur", sigma=1): 0.9, condition("blur", sigma=2): 0.5}
    ranks = {setting: (np.arange(60) % 10 >= 10 * share).astype(int) for setting, share in shares.items()}
    database_of(tmp_path, images, [part(cell(images, s), rank, rank) for s, rank in ranks.items()], measured=True)
    results = read_data(tmp_path / "results.duckdb")
    titles = figures(results).keys()
    assert {"accuracy on the worst slice on set", "largest loss of a slice on set"} <= titles
    assert not any("site" in title for title in titles), "one figure a slice would be too many"
    rows = measured_section(results, "measures").tables[0].frame
    assert "slice_accuracy_weather=fog" in rows["metric"]
    assert rows.filter(pl.col("metric").str.ends_with("_site")).select("metric", "setting", "value").rows() == [
        ("largest_slice_loss_site", "sigma=2", 0.5),
        ("worst_slice_site", "sigma=2", 0.5),
    ]


def test_the_report_says_and_shades_what_enlarged_images_do_not_have(tmp_path: Path) -> None:
    images = replace(image_set(12, labels=[0] * 12), own_cycles=20.0)
    settings = [condition(), *(condition("lowpass", cutoff=c) for c in (0.1, 0.3, 0.5))]
    database_of(tmp_path, images, [part(cell(images, s), [0] * 12, [0] * 12) for s in settings])
    results = read_data(tmp_path / "results.duckdb")
    assert any("nothing of their own above 20 cycles per image" in doubt for doubt in results.doubts)
    (panel,) = probe_panels(results.curve.filter(pl.col("probe") == "lowpass")).values()
    spec = panel.to_dict()
    shade = spec["layer"][0]
    assert (shade["mark"]["type"], shade["encoding"]["x"]["field"]) == ("rect", "cycles")
    ends = [rows for rows in spec["datasets"].values() if "last" in rows[0]] or [[shade["data"]["values"][0]]]
    assert (ends[0][0]["cycles"], ends[0][0]["last"]) == (20, 56)


# Models beside people


CONDITIONS = ("c100", "c05", "c30")


@pytest.fixture(scope="module")
def judgements(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of two models and two people on the same 60 images in three contrasts: only to be read."""
    path = tmp_path_factory.mktemp("judged") / "results.duckdb"
    names = [f"dnn/session-1/{k:04d}_cop_dnn_{CONDITIONS[k % 3]}_bear_10_n0_{k}.png" for k in range(60)]
    images = image_set(60, name="shown", labels=[1] * 60, paths=names, benchmark="contrast", decision_space="sixteen")
    random = np.random.default_rng(0)
    parts = []
    for name in ("one", "two"):
        rank = (random.random(60) < 0.4).astype(int)
        parts.append(part(cell(images, condition(), by=model(name)), 1 + rank, rank))
    contrasts = [CONDITIONS[k % 3] for k in range(60)]
    people = ("subject-01", "subject-02")
    trials = [trials_of("contrast", contrasts, person, random.random(60) < 0.7) for person in people]
    with open_store(path) as store:
        store_study(store, "s", images, parts)
        store_trials(store, *trials)
        write_consistencies(store, ["contrast"])
    return path


@pytest.fixture
def judgements_copy(judgements: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(judgements, tmp_path))


def test_models_and_people(judgements: Path) -> None:
    results = read_data(judgements)
    section = consistency_section(results)
    kappas, conditions = section.figures
    spec = next(iter(kappas.panels.values())).to_dict()
    [tiles] = spec["datasets"].values()
    assert len(tiles) == 6  # one tile for every two of four subjects
    assert [layer["encoding"].get("text", {}).get("field") for layer in spec["layer"]] == [None, "text"]
    table = section.tables[0].frame
    assert len(table) == 6 * 2, "not of the full contrast"
    assert set(table["convention"]) == {"model-vs-human"}
    pair_rows = table.filter(first_subject="subject-01", second_subject="two")
    [tile] = [tile for tile in tiles if (tile["first"], tile["second"]) == ("subject-01", "two")]
    assert tile["kappa"] == pytest.approx(np.mean(pair_rows["kappa"].to_numpy()), abs=1e-5)
    assert (tile["low"], tile["n"]) == (None, 40)
    curves = next(iter(conditions.panels.values())).to_dict()
    [lines] = curves["datasets"].values()
    assert list(dict.fromkeys(row["condition"] for row in lines)) == ["c05", "c30", "c100"]
    rows = conditions.table
    assert set(rows["subject"]) == {"humans", "one", "two"}
    people = results.judgements.filter(human=True, condition="c05")["top1"]
    mean = rows.filter(subject="humans", condition="c05").row(0, named=True)
    assert (mean["top1"], mean["low"], mean["high"]) == (people.mean(), people.min(), people.max())


def test_an_earlier_version_shows_its_own_models_and_no_errors_of_the_newest(judgements_copy: Path) -> None:
    images = image_set(3, labels=[1] * 3, benchmark="contrast", paths=["0_c_dnn_c05_bear_1_n0_1.png", "a", "b"])
    with open_store(judgements_copy) as store:
        store_study(store, "s", images, [part(cell(images, condition(), by=model("three")), [1] * 3, [0] * 3)])
        write_consistencies(store, ["contrast"])
    first, newest = (read_data(judgements_copy, label) for label in ("s@1", "s"))
    assert set(first.judgements.filter(human=False)["subject"]) == {"one", "two"}
    assert first.consistency.is_empty()
    assert set(newest.judgements.filter(human=False)["subject"]) == {"three"}
    assert "three" in set(newest.consistency["second_subject"])


def test_rows_are_in_the_order_of_their_names_however_the_database_keeps_them(judgements_copy: Path) -> None:
    with open_store(judgements_copy) as store:
        rows = store.frame("FROM error_consistency")
        store.replace("error_consistency", rows.sample(fraction=1, shuffle=True, seed=0))
    consistency = read_data(judgements_copy).consistency
    names = consistency.select("images", "first_subject", "second_subject", "condition")
    assert names.rows() == sorted(names.rows())
