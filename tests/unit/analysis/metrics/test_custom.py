"""Measures of the user's own have numbers, intervals and an identity; a function that fails has a note."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from made_up_results import cell, condition, database_of, image_set, model, part, store_study
from numpy.typing import NDArray
from small import Command, ask

import bandlens
from bandlens.analysis.comparison.cell_pairs import Run
from bandlens.analysis.comparison.runs import compare_runs
from bandlens.analysis.correlations.table_inputs import study_table
from bandlens.analysis.database.open import open_store
from bandlens.analysis.database.store import Store
from bandlens.analysis.metrics.compute import compute_measures, compute_own
from bandlens.analysis.metrics.custom import OwnMeasure, read_measures
from bandlens.core.errors import UsageError
from bandlens.core.records import UNKNOWN_RANK, Condition, Finished

COUNT = 60
LOWPASS = condition("lowpass", cutoff=0.1)
LABELS = np.arange(COUNT) % 3
LABELLED = image_set(COUNT, labels=LABELS)
SOURCE = '''import numpy

def worst(confidence, right, quantile=0.5):
    """Confidence of the least confident right answers"""
    return numpy.quantile(confidence[right], quantile)

def cost(predicted, label, factor):
    """Cost of errors"""
    return factor * numpy.abs(predicted - label)

def swap(predicted, rihgt):
    return rihgt

def sure(confidence):
    return 2 * confidence

def lowest(confidence):
    return numpy.sort(confidence)[2]

def rare(right):
    return 1.0 if right[1] else numpy.inf
'''


def answers(seed: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(COUNT,) predicted classes and confidences."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(COUNT) < 0.6, LABELS, rng.integers(0, 3, COUNT)), rng.random(COUNT).round(3)


def outcome(name: str, setting: Condition, predicted: NDArray[np.int64], confidence: NDArray[np.float64]) -> Finished:
    """A cell of a model on the labelled images."""
    rank = (predicted != LABELS).astype(int)
    return part(cell(LABELLED, setting, by=model(name)), predicted, rank, confidence=confidence)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four models on labelled images and one on images without labels, clean and under a filter."""
    unlabelled = image_set(COUNT, name="unlabelled")
    parts = [
        outcome(name, setting, *answers(10 * seed + at))
        for seed, name in enumerate(("a", "b", "c", "d"))
        for at, setting in enumerate((condition(), LOWPASS))
    ]
    predicted, confidence = answers(99)
    parts.append(part(cell(unlabelled, by=model("a")), predicted, confidence=confidence))
    return database_of(tmp_path_factory.mktemp("own"), [LABELLED, unlabelled], parts)


@pytest.fixture
def database(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(template, tmp_path))


@pytest.fixture
def store(database: Path) -> Iterator[Store]:
    with open_store(database) as store:
        yield store


def read_own(folder: Path, source: str, **tables: dict[str, Any]) -> list[OwnMeasure]:
    (folder / "mine.py").write_text(source, encoding="utf-8")
    return read_measures({name: {"file": "mine.py", **table} for name, table in tables.items()}, folder)


def rows(store: Store, name: str, checkpoint: str = "a") -> dict[tuple[str | None, str | None], dict[str, Any]]:
    """(image set, probe) -> the row of a measure; the probe is None for the number of the clean images."""
    frame = store.frame(
        "SELECT image_set, NULL AS probe, value, low, high, NULL::DOUBLE AS difference, state, note FROM metric "
        "WHERE metric = $1 AND checkpoint = $2 UNION ALL SELECT image_set, probe, value, low, high, difference, state, "
        "note FROM condition_metric WHERE metric = $1 AND checkpoint = $2",
        [name, checkpoint],
    )
    return {(row["image_set"], row["probe"]): row for row in frame.to_dicts()}


def test_a_number_is_that_of_the_function_with_an_interval_over_resampled_images(store: Store, tmp_path: Path) -> None:
    assert compute_own(store, "s", read_own(tmp_path, SOURCE, worst={"quantile": 0.1}, rare={})) == ["worst", "rare"]
    predicted, confidence = answers(0)
    filtered, filtered_confidence = answers(1)
    clean = np.quantile(confidence[predicted == LABELS], 0.1)
    low_passed = np.quantile(filtered_confidence[filtered == LABELS], 0.1)
    worst_rows = rows(store, "worst")
    assert worst_rows["set", None]["value"] == worst_rows["set", "clean"]["value"] == pytest.approx(clean)
    assert worst_rows["set", "lowpass"]["value"] == pytest.approx(low_passed)
    assert worst_rows["set", "lowpass"]["difference"] == pytest.approx(low_passed - clean)
    rng, resamples = np.random.default_rng(5), []
    for _ in range(2000):
        index = rng.integers(0, COUNT, COUNT)
        resamples.append(np.quantile(confidence[index][predicted[index] == LABELS[index]], 0.1))
    ends = np.quantile(resamples, [0.025, 0.975])
    row = worst_rows["set", "clean"]
    assert (row["low"], row["high"]) == pytest.approx(tuple(ends), abs=0.2 * (ends[1] - ends[0]))
    assert rows(store, "rare")["set", "clean"]["state"] == "no_interval", "no end of an interval is infinite"
    assert worst_rows["unlabelled", "clean"]["state"] == "ok", "right is agreement with the clean prediction"


def test_numbers_of_images_are_a_mean_with_its_interval_and_paired_difference(store: Store, tmp_path: Path) -> None:
    compute_own(store, "s", read_own(tmp_path, SOURCE, cost={"factor": 4}))
    predicted, filtered = answers(0)[0], answers(1)[0]
    clean, low_passed = (4 * np.abs(answer - LABELS) for answer in (predicted, filtered))
    row = rows(store, "cost")["set", "lowpass"]
    assert row["value"] == pytest.approx(low_passed.mean())
    assert row["difference"] == pytest.approx((low_passed - clean).mean())
    spread = 1.96 * low_passed.std() / np.sqrt(COUNT)
    assert (row["low"], row["high"]) == pytest.approx((row["value"] - spread, row["value"] + spread), abs=0.6 * spread)
    assert not any(image_set == "unlabelled" and probe for image_set, probe in rows(store, "cost"))
    lack = rows(store, "cost")["unlabelled", None]
    assert (lack["state"], lack["note"]) == ("missing", "it takes label, and the images have no labels")


def test_an_edit_recomputes_its_measure_alone_and_leaves_the_others(store: Store, tmp_path: Path) -> None:
    compute_measures(store, "s")
    built_in = store.frame("FROM measure_value ORDER BY ALL")
    tables: dict[str, dict[str, Any]] = {"worst": {}, "cost": {"factor": 2}}
    assert compute_own(store, "s", read_own(tmp_path, SOURCE, **tables)) == ["worst", "cost"]
    assert compute_own(store, "s", read_own(tmp_path, SOURCE, **tables)) == []
    assert compute_own(store, "s", read_own(tmp_path, SOURCE, **tables | {"cost": {"factor": 3}})) == ["cost"]
    assert rows(store, "cost")["set", "clean"]["value"] == pytest.approx(3 * np.abs(answers(0)[0] - LABELS).mean())
    remainder = store.frame("FROM measure_value WHERE metric NOT IN ('worst', 'cost') ORDER BY ALL")
    assert remainder.equals(built_in)
    compute_measures(store, "s")
    assert rows(store, "worst")["set", "clean"]["value"] is not None, "built-in measures leave own ones alone"


@pytest.mark.parametrize(
    ("body", "note"),
    [
        ("raise ValueError('no\\nluck')", "measure mine failed: ValueError: no luck (mine.py, line 3)"),
        ("raise SystemExit(3)", "measure mine failed: SystemExit: 3 (mine.py, line 3)"),
        ("return confidence[:3]", "measure mine returned an array of shape (3,); expected a number, or shape (60,)"),
        ("return 'much'", "measure mine returned <U4 values; expected numbers"),
    ],
)
def test_what_fails_is_the_state_and_note_of_its_estimates(
    store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str], body: str, note: str
) -> None:
    source = f"def mine(confidence):\n    print('printed')\n    {body}\n"
    assert compute_own(store, "s", read_own(tmp_path, source + SOURCE, mine={}, worst={})) == ["mine", "worst"]
    failed = rows(store, "mine")
    assert {row["state"] for row in failed.values()} == {"failed"}
    assert all(row["note"].startswith(note) and "\n" not in row["note"] for row in failed.values())
    assert rows(store, "worst")["set", "clean"]["state"] == "ok", "nothing else fails"
    assert "printed" not in capfd.readouterr().out


def test_ranks_that_are_not_known_are_not_computed_with(tmp_path: Path) -> None:
    predicted, confidence = answers(0)
    rank = np.where(predicted == LABELS, 0, UNKNOWN_RANK)
    with open_store(tmp_path / "r.duckdb") as store:
        store_study(store, "s", LABELLED, [part(cell(LABELLED, by=model("a")), predicted, rank, confidence=confidence)])
        compute_own(store, "s", read_own(tmp_path, "def mine(label_rank):\n    return label_rank\n", mine={}))
        row = rows(store, "mine")["set", "clean"]
    note = "measure mine takes label_rank, which is not known of all predictions"
    assert (row["state"], row["value"], row["note"]) == ("failed", None, note)


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ({"accuracy": {"file": "mine.py"}}, "measure accuracy: a built-in measure has that name, so give yours"),
        ({"a-b": {"file": "mine.py"}}, "measure a-b: a name has letters, digits and _ alone, so give yours another"),
        ({"a_low": {"file": "mine.py"}}, "measure a_low: tables of models have a column of that name, so give yours"),
        ({"worst": {}}, 'measure worst must be a table with a file, such as worst = { file = "worst.py" }'),
        (
            {"worst": {"file": "mine.py", "quantil": 1}},
            "unknown parameter of measure worst 'quantil'; did you mean quantile",
        ),
        ({"worst": {"file": "mine.py", "right": 1}}, "measure worst: right is whether each image is right"),
        ({"cost": {"file": "mine.py"}}, "measure cost: factor has no default; give it a value in the study, or the"),
        ({"swap": {"file": "mine.py"}}, "measure swap: rihgt has no default; did you mean right[?]; give it a value"),
        ({"nothing": {"file": "mine.py"}}, "measure nothing: .*mine.py has no function nothing"),
    ],
)
def test_a_table_that_describes_no_measure_is_one_line(tmp_path: Path, table: dict[str, Any], line: str) -> None:
    (tmp_path / "mine.py").write_text(SOURCE, encoding="utf-8")
    with pytest.raises(UsageError, match=line) as error:
        read_measures(table, tmp_path)
    assert "\n" not in str(error.value)


def test_it_is_correlated_like_a_built_in_measure(store: Store, tmp_path: Path) -> None:
    compute_own(store, "s", read_own(tmp_path, SOURCE, worst={}))
    assert study_table(store, "s@1").biases == ["worst (set)", "worst (unlabelled)"]


def test_two_runs_on_the_same_images_are_paired(tmp_path: Path) -> None:
    """A constant added to every confidence is told apart without error, since the images are the same ones."""
    predicted, confidence = answers(3)
    for run, offset in enumerate((0.0, 0.25)):
        with open_store(tmp_path / f"{run}.duckdb") as store:
            settings = condition(), LOWPASS
            parts = [outcome("a", setting, predicted, confidence / 2 + offset) for setting in settings]
            store_study(store, "s", LABELLED, parts)
            compute_own(store, "s", read_own(tmp_path, SOURCE, sure={}, lowest={}))
    with open_store(tmp_path / "0.duckdb") as store_a, open_store(tmp_path / "1.duckdb") as store_b:
        comparison = compare_runs(Run(store_a, "s@1"), Run(store_b, "s@1"))
    for rows_of, count in ((comparison.metrics, 1), (comparison.conditions, 2)):
        means, minima = (rows_of.filter(metric=name).to_dicts() for name in ("sure", "lowest"))
        assert len(means) == len(minima) == count
        for row in means:
            assert row["difference"] == pytest.approx(0.5)
            assert row["high"] - row["low"] < 0.15, "of independent runs it would be 0.2"
        for row in minima:
            assert (row["low"], row["difference"], row["high"]) == pytest.approx((0.25,) * 3, abs=1e-6)


def test_a_study_file_names_measures_and_the_commands_take_them(
    command: Command, database: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(SOURCE, encoding="utf-8")
    study = tmp_path / "s.toml"
    study.write_text(
        'name = "s"\ncheckpoints = ["a"]\nimages = ["set"]\n'
        '[measures]\nworst = { file = "mine.py", quantile = 0.1, unit = "share" }\n',
        encoding="utf-8",
    )
    measures = json.loads(command("measures", "list", "--study", study, "--format", "json").out)
    title = "Confidence of the least confident right answers"
    assert [measures[-1][key] for key in ("name", "title", "unit", "bias")] == ["worst", title, "share", True]
    assert "low_frequency_bias" in {row["name"] for row in measures}
    answer = command("analyze", "--study", study, "--db", database, "--format", "json")
    assert (answer.code, answer.err) == (0, "")
    assert "worst" in {row["metric"] for row in json.loads(answer.out)}
    assert ask(database, "SELECT name, title, unit FROM own_measure") == [("worst", title, "share")]


def test_python_computes_a_file_of_what_is_stored(database: Path, tmp_path: Path) -> None:
    (tmp_path / "worst.py").write_text(SOURCE, encoding="utf-8")
    values = bandlens.measure(tmp_path / "worst.py", database, "s", quantile=0.25)
    assert set(values["probe"]) == {"clean", "lowpass"}
    assert values["value"].null_count() == 0

    def worst(confidence: Any, right: Any, quantile: float) -> Any:
        return np.quantile(confidence[right], quantile)

    study = bandlens.Study("s", ["a"], ["set"], measures={"worst": {"file": "worst.py"}}, folder=tmp_path)
    bandlens.analyze(database, study)
    stored_metrics = ask(database, "SELECT DISTINCT metric FROM condition_metric")
    assert {("worst",), ("accuracy",)} <= set(stored_metrics)
    columns = ["checkpoint", "image_set", "probe", "value", "low", "high"]
    same_values = bandlens.measure(worst, database, "s", quantile=0.25)
    assert same_values.select(columns).equals(values.select(columns))
    with pl.Config(), pytest.raises(UsageError, match="no results database"):
        bandlens.measure(tmp_path / "worst.py", tmp_path / "nowhere.duckdb")


def test_a_function_that_changes_its_arguments_changes_them_for_no_later_call(store: Store, tmp_path: Path) -> None:
    """The clean images and the filtered ones are two calls, and resamples are two hundred more."""
    source = (
        "def mine(confidence, class_names, levels):\n"
        "    confidence *= levels.pop() + len(class_names)\n    class_names['new'] = 'class'\n"
        "    return confidence.mean()\n"
    )
    compute_own(store, "s", read_own(tmp_path, source, mine={"levels": [0, 2]}))
    for seed, probe in enumerate(("clean", "lowpass")):
        row = rows(store, "mine")["set", probe]
        assert row["value"] == pytest.approx(2 * answers(seed)[1].mean(), rel=1e-6)
        assert row["low"] < row["value"] < row["high"]


def test_a_function_in_memory_is_computed_anew_or_compared_with_what_is_stored(database: Path) -> None:
    def factor(confidence: Any) -> Any:
        return level * confidence

    level = 0.5
    for version in ({}, {"version": "1"}):
        halves = bandlens.measure(factor, database, "s", **version)["value"]
        assert bandlens.measure(factor, database, "s", **version)["value"].equals(halves)
    level = 0.25
    with pytest.raises(
        UsageError, match=r"measure factor has other values than those that are stored .* is now 0\.\d+"
    ):
        bandlens.measure(factor, database, "s", version="1")
    for version in ({}, {"version": "2"}):
        quarters = bandlens.measure(factor, database, "s", **version)["value"]
        assert (quarters / halves).to_list() == pytest.approx([0.5] * len(halves))


def test_the_example_of_the_documentation_runs(store: Store, tmp_path: Path) -> None:
    page = (Path(__file__).parents[4] / "docs" / "guide" / "measures.md").read_text(encoding="utf-8")
    for name, body in re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(body, encoding="utf-8")
    tables = tomllib.loads((tmp_path / "measures.toml").read_text(encoding="utf-8"))["measures"]
    assert compute_own(store, "s", read_measures(tables, tmp_path)) == ["worst_decile", "cost"]
    predicted, confidence = answers(0)
    assert rows(store, "cost")["set", "clean"]["value"] == pytest.approx((predicted != LABELS).mean())
    decile = np.quantile(confidence[predicted == LABELS], 0.1)
    assert rows(store, "worst_decile")["set", "clean"]["value"] == pytest.approx(decile)
