"""`bandlens verify`: what is right passes, and every way in which a row can be wrong is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small import Command, make_model, study_in

import bandlens
from bandlens.analysis.database.open import open_store
from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve
from bandlens.app.study.study_run import run_study
from bandlens.core.errors import UsageError

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
    words = ("verify", original / "study.toml", "--db", original / "results.duckdb", "--cells", "99", "--images", "16")
    answer = command(*words)
    assert (answer.code, answer.err) == (0, "")
    report = json.loads(command(*words, "--format", "json").out)
    assert report["problems"] == []
    assert {row["problems"] for row in report["checks"]} == {0}
    assert [(row["differing"], row["same_session"]) for row in report["recomputed"]] == [(0, True)] * 8
    assert all(row["cell"] in answer.out for row in report["recomputed"]), "cells of attacks among them"


def test_the_seed_chooses_the_cells(command: Command, original: Path) -> None:
    def chosen(seed: int) -> list[tuple[str, int]]:
        words = ("--cells", "2", "--images", "8", "--seed", str(seed), "--format", "json")
        answer = command("verify", original / "study.toml", "--db", original / "results.duckdb", *words)
        return [(row["cell"], row["first"]) for row in json.loads(answer.out)["recomputed"]]

    assert chosen(1) == chosen(1)
    assert len({tuple(chosen(seed)) for seed in range(4)}) > 1


def test_without_a_study_the_database_alone_is_checked(command: Command, original: Path) -> None:
    answer = command("verify", "--db", original / "results.duckdb", "--format", "json")
    assert answer.code == 0
    assert "files" not in {row["check"] for row in json.loads(answer.out)["checks"]}


ONE = "(SELECT min(cell) FROM prediction)"
PREDICTION = f"cell = {ONE} AND image_index = 3"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (f"DELETE FROM prediction WHERE {PREDICTION}", "lacks predictions"),
        (f"INSERT INTO prediction FROM prediction WHERE {PREDICTION}", "lacks predictions"),
        (f"UPDATE prediction SET image_index = 4 WHERE {PREDICTION}", "lacks predictions"),
        (f"UPDATE prediction SET label_rank = label_rank + 7 WHERE cell = {ONE}", "sums of right answers"),
        (f"UPDATE part SET right1 = right1 + 1 WHERE cell = {ONE}", "sums of right answers"),
        (f"UPDATE prediction SET label_rank = NULL WHERE {PREDICTION}", "labels without ranks"),
        (f"UPDATE prediction SET confidence = 1.5 WHERE {PREDICTION}", "confidences that are no probabilities"),
        (f"UPDATE prediction SET confidence = 'NaN' WHERE cell = {ONE}", "confidences that are no probabilities"),
        (f"UPDATE prediction SET confidence = NULL WHERE {PREDICTION}", "confidences that are no probabilities"),
        (f"UPDATE part SET right5 = NULL WHERE cell = {ONE}", "sums of right answers"),
        (f"UPDATE prediction SET predicted = (predicted + 1) % 12 WHERE cell = {ONE}", "ranks that do not fit"),
        (f"UPDATE cell SET complete = false WHERE id = {ONE}", "is called complete and is not"),
        (f"UPDATE part SET first = 8 WHERE cell = {ONE} AND first = 0", "overlap or leave a gap"),
        ("DELETE FROM image WHERE image_index = 39", "another number of images"),
    ],
)
def test_what_does_not_fit_is_found(command: Command, folder: Path, damage: str, words: str) -> None:
    database = folder / "results.duckdb"
    with open_store(database) as store:
        store.execute(damage)
    answer = command("verify", "--db", database)
    assert answer.code == 1
    assert len(answer.err.splitlines()) == 1
    assert any(
        words in problem
        for problem in json.loads(command("verify", "--db", database, "--format", "json").out)["problems"]
    )


def test_predictions_that_fit_each_other_but_not_the_images_are_found_by_computing_them(
    command: Command, folder: Path
) -> None:
    database = folder / "results.duckdb"
    with open_store(database) as store:
        store.execute(
            "UPDATE prediction SET predicted = (predicted + 1) % 12, label_rank = 11 WHERE label_rank NOT IN (0, 11) "
            "AND image_index < 16"
        )
    words = ("verify", folder / "study.toml", "--db", database, "--cells", "8", "--images", "64", "--format", "json")
    problems = json.loads(command(*words).out)["problems"]
    assert any("are predicted otherwise" in problem for problem in problems)


def test_images_and_models_that_changed_are_found(command: Command, folder: Path) -> None:
    words = ("verify", folder / "study.toml", "--db", folder / "results.duckdb", "--cells", "0", "--format", "json")
    pixels = folder / "images.set" / "pixels.npy"
    content = bytearray(pixels.read_bytes())
    content[-1] ^= 1
    pixels.write_bytes(content)
    assert any("image 39" in problem for problem in json.loads(command(*words).out)["problems"])
    assert make_model(folder / "models", "two", seed=9)
    model = folder / "models" / "one.onnx"
    damaged = bytearray(model.read_bytes())
    damaged[-1] ^= 1
    model.write_bytes(damaged)
    assert any("one.onnx has sha256" in problem for problem in json.loads(command(*words).out)["problems"])


@pytest.mark.parametrize(("cells", "images"), [(1, 0), (-1, 8)])
def test_numbers_that_choose_nothing_are_refused(original: Path, cells: int, images: int) -> None:
    with pytest.raises(UsageError, match=f"{cells} cells, {images} images of each: give 0 cells or more, and 1 image"):
        bandlens.verify(original / "study.toml", original / "results.duckdb", cells=cells, images=images)
