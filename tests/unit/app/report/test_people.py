"""Models beside each other and beside people: errors on the same images, conditions, and numbers that both have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up_results import cell, condition, image_set, model, part, store_study
from reported import GRID, add_metrics, make_database, measured_section

from bandlens.analysis.database.open import open_store
from bandlens.analysis.measures.compute import compute_measures
from bandlens.analysis.measures.error_consistency import write_consistencies
from bandlens.analysis.published.sources import VALUES
from bandlens.app.report.data import ReportData, read_data
from bandlens.app.report.people import consistency_section

CONDITIONS = ("c100", "c05", "c30")


def database(path: Path, people: bool) -> ReportData:
    names = [f"dnn/session-1/{k:04d}_cop_dnn_{CONDITIONS[k % 3]}_bear_10_n0_{k}.png" for k in range(60)]
    images = image_set(60, name="shown", labels=[1] * 60, paths=names, benchmark="contrast", decision_space="sixteen")
    random = np.random.default_rng(0)
    parts = []
    for name in ("one", "two"):
        rank = (random.random(60) < 0.4).astype(int)
        parts.append(part(cell(images, condition(), by=model(name)), 1 + rank, rank))
    trials = pl.DataFrame(
        {
            "stimulus_set": "contrast",
            "condition": [CONDITIONS[k % 3] for k in range(60)] * 2,
            "subject": ["subject-01"] * 60 + ["subject-02"] * 60,
            "session": 1,
            "trial": list(range(60)) * 2,
            "image": [f"n0_{k}.png" for k in range(60)] * 2,
            "category": "bear",
            "response": ["bear" if draw < 0.7 else "cat" for draw in random.random(120)],
        }
    )
    with open_store(path) as store:
        store_study(store, "s", images, parts)
        if people:
            store.write_source("humans", store.frame("FROM published_value"), trials)
        write_consistencies(store, ["contrast"], 100)
    report_data = read_data(path)
    assert report_data is not None
    return report_data


def test_models_and_people(tmp_path: Path) -> None:
    results = database(tmp_path / "results.duckdb", people=True)
    section = consistency_section(results)
    kappas, conditions = section.figures
    spec = next(iter(kappas.panels.values())).to_dict()
    [tiles] = spec["datasets"].values()
    assert len(tiles) == 6  # one tile for every two of four subjects
    assert [layer["encoding"].get("text", {}).get("field") for layer in spec["layer"]] == [None, "text"]
    table = section.tables[0].frame
    assert len(table) == 6 * 3
    pair_rows = table.filter(first_subject="subject-01", second_subject="two")
    [tile] = [tile for tile in tiles if (tile["first"], tile["second"]) == ("subject-01", "two")]
    assert tile["kappa"] == pytest.approx(np.mean(pair_rows["kappa"].to_numpy()), abs=1e-5)
    assert (tile["low"], tile["n"]) == (None, 60)
    curves = next(iter(conditions.panels.values())).to_dict()
    [lines] = curves["datasets"].values()
    assert list(dict.fromkeys(row["condition"] for row in lines)) == ["c05", "c30", "c100"]
    rows = conditions.table
    assert set(rows["subject"]) == {"humans", "one", "two"}
    people = results.judged.filter(human=True, condition="c05")["top1"]
    mean = rows.filter(subject="humans", condition="c05").row(0, named=True)
    assert (mean["top1"], mean["low"], mean["high"]) == (people.mean(), people.min(), people.max())


def test_models_alone(tmp_path: Path) -> None:
    section = consistency_section(database(tmp_path / "results.duckdb", people=False))
    assert [len(figure.panels) for figure in section.figures] == [1, 1]
    assert set(section.figures[1].table["subject"]) == {"one", "two"}


def test_people_stand_beside_models_under_the_same_probe(tmp_path: Path) -> None:
    database(tmp_path / "results.duckdb", people=True)
    images = image_set(40, name="mine", labels=[1] * 40, decision_space="sixteen")
    rank = np.arange(40) % 4
    with open_store(tmp_path / "results.duckdb") as store:
        cells = [cell(images, condition("contrast", contrast=c), by=model("one")) for c in (0.05, 0.3, 1.0)]
        blend = cell(images, condition("grey_blend", alpha=0.2), by=model("one"))
        store_study(store, "probed", images, [part(cell, 1 + rank, rank) for cell in (*cells, blend)])
    results = read_data(tmp_path / "results.duckdb", "probed")
    assert results is not None
    [figure] = consistency_section(results).figures
    assert [panel.to_dict()["title"] for panel in figure.panels.values()] == ["contrast on mine"]
    accuracies = figure.table.pivot("subject", index="condition", values="top1").sort("condition")
    assert accuracies["condition"].to_list() == ["0.05", "0.3", "1"]
    assert accuracies["one"].to_list() == [0.25] * 3
    people = results.human_probe.filter(human=True, setting=0.3)["top1"]
    assert accuracies["humans"][1] == people.mean()


def test_an_earlier_version_shows_its_own_models_and_no_errors_of_the_newest(tmp_path: Path) -> None:
    database(tmp_path / "results.duckdb", people=True)
    images = image_set(3, labels=[1] * 3, benchmark="contrast", paths=["0_c_dnn_c05_bear_1_n0_1.png", "a", "b"])
    with open_store(tmp_path / "results.duckdb") as store:
        store_study(store, "s", images, [part(cell(images, condition(), by=model("three")), [1] * 3, [0] * 3)])
        write_consistencies(store, ["contrast"], 100)
    earlier, newest = (read_data(tmp_path / "results.duckdb", label) for label in ("s@1", "s"))
    assert earlier is not None
    assert newest is not None
    assert set(earlier.judged.filter(human=False)["subject"]) == {"one", "two"}
    assert earlier.consistency.is_empty()
    assert set(newest.judged.filter(human=False)["subject"]) == {"three"}
    assert "three" in set(newest.consistency["second_subject"])


def test_rows_are_in_the_order_of_their_names_however_the_database_keeps_them(tmp_path: Path) -> None:
    path = tmp_path / "results.duckdb"
    database(path, people=True)
    with open_store(path) as store:
        rows = store.frame("FROM error_consistency")
        store.replace("error_consistency", rows.sample(fraction=1, shuffle=True, seed=0))
    results = read_data(path)
    assert results is not None
    names = results.consistency.select("images", "first_subject", "second_subject", "condition")
    assert names.rows() == sorted(names.rows())


def data_of(path: Path, probes: tuple[str, ...]) -> ReportData:
    make_database(path, 2, [setting for setting in GRID if setting.probe in probes])
    add_metrics(path)
    report_data = read_data(path)
    assert report_data is not None
    return report_data


def test_the_channel_of_people_is_a_line_beside_that_of_each_model(tmp_path: Path) -> None:
    results = data_of(tmp_path / "results.duckdb", ("clean", "critical_band"))
    [figure] = [figure for figure in measured_section(results, "numbers").figures if figure.name == "beside-people-1"]
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
    assert not [figure for figure in measured_section(results, "numbers").figures if "people" in figure.name]


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
    [figure] = [figure for figure in measured_section(results, "numbers").figures if figure.name == "beside-people-1"]
    assert list(figure.panels) == ["shape bias"]
    assert not figure.folded
    biases = figure.table.filter(metric="shape_bias").select("subject", "value", "human").rows()
    assert biases == [("net", 0.5, False), ("cue-conflict subject-01", 0.96, True)]
