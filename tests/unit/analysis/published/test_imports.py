"""Human trials give the published figures, and files that are not as described are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from small import Command

from bandlens.analysis.published.imports import figures, read_trials

PUBLISHED = Path(__file__).parents[5] / "shared" / "published"
ACCURACY = {
    "low-pass": {"0": 0.920, "1": 0.914, "3": 0.795, "5": 0.630, "7": 0.588, "10": 0.380, "15": 0.200, "40": 0.061},
    "phase-scrambling": {"0": 0.898, "30": 0.880, "60": 0.795, "90": 0.686, "120": 0.391, "150": 0.106, "180": 0.102},
    "power-equalisation": {"0": 0.900, "pow": 0.759},
}
"""Experiment -> accuracy of people by condition, as published."""


@pytest.fixture(scope="module")
def trials() -> pl.DataFrame:
    if not (PUBLISHED / "atlas").is_dir():
        pytest.skip(f"no {PUBLISHED / 'atlas'}")
    return read_trials(PUBLISHED / "atlas/humans/trials.parquet")


def test_accuracy_by_condition(trials: pl.DataFrame) -> None:
    assert len(trials) == 85_120
    assert trials["stimulus_set"].n_unique() == 17
    rows = pl.DataFrame(list(figures(trials)), infer_schema_length=None)
    humans = rows.filter(model="humans", metric="top1")
    for name, expected in ACCURACY.items():
        experiment = humans.filter(benchmark=name)
        assert set(experiment["n"]) == ({2240} if name == "power-equalisation" else {640})
        accuracies = dict(experiment.select("condition", pl.col("value") / 100).rows())
        assert accuracies == {key: pytest.approx(value, abs=0.00051) for key, value in expected.items()}
    observers = rows.filter(pl.col("model") != "humans", metric="top1")
    assert observers["model"].n_unique() == 4 * 12 + 10 * 3 + 7 + 5
    assert (observers["low"] <= observers["value"]).all()


TRIALS = {
    "set": ["contrast"] * 3,
    "file": ["contrast_subject-01_session_1.csv"] * 3,
    "subj": ["subject-01"] * 3,
    "session": ["1"] * 3,
    "trial": ["1", "2", "3"],
    "rt": ["0.5", None, "NaN"],
    "object_response": ["oven", "na", "cat"],
    "category": ["oven", "cat", "dog"],
    "condition": ["c10"] * 3,
    "imagename": [f"000{k}_cop_s01_c10_oven_10_n0_{k}.png" for k in range(3)],
}


def test_no_answer_is_wrong(tmp_path: Path) -> None:
    pl.DataFrame(TRIALS).write_parquet(tmp_path / "trials.parquet")
    trials = read_trials(tmp_path / "trials.parquet")
    assert trials["response"].to_list() == ["oven", None, "cat"]
    assert trials["image"].to_list() == ["n0_0.png", "n0_1.png", "n0_2.png"]
    row = next(row for row in figures(trials) if row["model"] == "humans")
    assert (row["value"], row["n"]) == (pytest.approx(100 / 3), 3)


def test_observers_of_the_same_images_tell_no_more_of_them_than_one(tmp_path: Path) -> None:
    """Four observers answer alike: together they have the interval of one, but for the freedom of its variance."""
    images = [{key: values[0] for key, values in TRIALS.items()} | {"trial": str(k)} for k in range(100)]
    rows = [
        row | {"subj": f"subject-0{observer}", "imagename": f"{k}_cop_s0{observer}_c10_oven_10_n0_{k}.png"}
        | {"object_response": "oven" if k % 4 else "cat"}
        for observer in range(4)
        for k, row in enumerate(images)
    ]  # fmt: skip
    pl.DataFrame(rows).write_parquet(tmp_path / "trials.parquet")
    accuracies = pl.DataFrame(list(figures(read_trials(tmp_path / "trials.parquet")))).filter(metric="top1")
    width = dict(accuracies.select("model", pl.col("high") - pl.col("low")).rows())
    assert set(accuracies["value"]) == {75.0}
    assert width["contrast subject-01"] < width["humans"] < 1.05 * width["contrast subject-01"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop("subj"), "row 1: no column subj"),
        (lambda t: t.with_columns(trial=pl.lit("1")), "row 2, column trial: 1 is there more than once"),
        (lambda t: t.with_columns(session=pl.lit("one")), "row 1, column session: 'one' is not a number"),
        (lambda t: t.with_columns(category=pl.lit("horse")), "row 1, column category: 'horse' is none of the sixteen"),
        (lambda t: t.with_columns(imagename=pl.lit("a.png")), "row 1, column imagename: 'a.png' is not the name of"),
    ],
)
def test_another_file_of_trials_is_refused(
    command: Command, tmp_path: Path, change: Callable[[pl.DataFrame], pl.DataFrame], message: str
) -> None:
    change(pl.DataFrame(TRIALS)).write_parquet(tmp_path / "trials.parquet")
    result = command("published", "import", "humans", tmp_path, "--db", tmp_path / "results.duckdb")
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert message in result.err
    assert "trials.parquet" in result.err
    assert not (tmp_path / "results.duckdb").exists()
