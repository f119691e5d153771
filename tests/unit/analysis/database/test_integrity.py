"""`bandlens verify`: what is right passes, and every way in which a row can be wrong is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small import Command, study_in

from bandlens.analysis.database.open import open_store
from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve
from bandlens.app.study.runner import run_study

COUNT = 40
PROBES = (
    "lowpass = {cutoff = 0.3}\ncritical_band = {noise_sd = 0.1, frequency = 4, grey = false}\npgd_linf = {steps = 1}"
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that was run."""
    folder = tmp_path_factory.mktemp("verify")
    run_study(resolve(Study.read(study_in(folder, COUNT, PROBES))), folder / "results.duckdb")
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_database_that_is_right_passes(command: Command, original: Path) -> None:
    answer = command("verify", "--db", original / "results.duckdb", "--format", "json")
    assert (answer.code, answer.err) == (0, "")
    report = json.loads(answer.out)
    assert report["problems"] == []
    assert {row["problems"] for row in report["checks"]} == {0}
    assert {row["checked"] for row in report["checks"]} == {8, 1}, "cells, those of attacks among them, and the set"


CELL = "(SELECT min(cell) FROM prediction)"
PREDICTION = f"cell = {CELL} AND image_index = 3"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (f"DELETE FROM prediction WHERE {PREDICTION}", "lacks predictions"),
        (f"UPDATE prediction SET image_index = 4 WHERE {PREDICTION}", "lacks predictions"),
        (f"UPDATE part SET right1 = right1 + 1 WHERE cell = {CELL}", "sums of right answers"),
        (f"UPDATE prediction SET label_rank = NULL WHERE {PREDICTION}", "labels without ranks"),
        (f"UPDATE prediction SET confidence = 'NaN' WHERE cell = {CELL}", "confidences that are no probabilities"),
        (f"UPDATE prediction SET label_probability = 1.5 WHERE cell = {CELL}", "label_probabilities"),
        (f"UPDATE prediction SET label_probability = NULL WHERE {PREDICTION}", "label_probabilities"),
        (f"UPDATE prediction SET predicted = (predicted + 1) % 12 WHERE cell = {CELL}", "ranks that do not fit"),
        (f"UPDATE cell SET complete = false WHERE id = {CELL}", "is called complete and is not"),
        (f"UPDATE part SET first = 8 WHERE cell = {CELL} AND first = 0", "overlap or leave a gap"),
        ("DELETE FROM image WHERE image_index = 39", "another number of images"),
        (f"UPDATE cell SET checkpoint = 999999 WHERE id = {CELL}", "is not in the database"),
        (f"UPDATE cell SET condition = 999999 WHERE id = {CELL}", "is not in the database"),
        (
            f"UPDATE cell SET ci_high = ci_high + 1e-6 WHERE id = {CELL}",
            "an interval that is not that of its predictions",
        ),
        (f"UPDATE cell SET ci_low = NULL WHERE id = {CELL}", "an interval that is not that of its predictions"),
        (f"INSERT INTO label_interval VALUES ({CELL}, 'real', 0, 1)", "an interval by the labels real that is not"),
        ("UPDATE condition SET parameters = '[1]'", "condition.parameters [1] is no JSON object"),
    ],
)
def test_what_does_not_fit_is_found(command: Command, folder: Path, damage: str, words: str) -> None:
    database = folder / "results.duckdb"
    with open_store(database) as store:
        store.execute(damage)
    answer = command("verify", "--db", database, "--format", "json")
    assert answer.code == 1
    assert len(answer.err.splitlines()) == 1
    assert any(words in problem for problem in json.loads(answer.out)["problems"])


@pytest.mark.parametrize(
    "damage",
    [
        f"DELETE FROM prediction WHERE {PREDICTION}",
        f"UPDATE prediction SET image_index = 4 WHERE {PREDICTION}",
        f"UPDATE prediction SET image_index = 4000000000 WHERE {PREDICTION}",
        "DELETE FROM image WHERE image_index = 39",
        "UPDATE label SET image_index = 4000000000 WHERE image_index = 3",
    ],
)
def test_no_number_is_made_of_predictions_and_images_that_do_not_fit(
    command: Command, folder: Path, damage: str
) -> None:
    database = folder / "results.duckdb"
    with open_store(database) as store:
        store.execute(damage)
    answer = command("analyze", "--db", database)
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith(f"bandlens: {database}: ")
    assert answer.err.endswith(f"`bandlens verify --db {database}` says which\n")
