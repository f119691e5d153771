"""Gates of real runs: two engines see the same perturbed images, once, and what differs decides what may be run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from small import Command, ask, make_images, make_model, make_pictures, make_study

from bandlens.app.study.file import Study
from bandlens.app.study.gate import gate_study_precision
from bandlens.export.model_files import save_onnx_file

LOWPASS = "lowpass = {cutoff = [0.1, 0.5]}\n"
WIDE = "[gate]\nflips = 0.25\naccuracy = 0.25\n"
"""Limits that 40 images are enough for."""
COUNT = 40
ENGINES = ("onnxruntime:fp32", "openvino:fp32")
REFERENCE = ("--reference", ENGINES[0])
LOGGED = """
from pathlib import Path
def dim(images, level):
    with (Path(__file__).parent / "log").open("a") as log:
        log.write("." * len(images))
    return images * (0.9 - level)
"""


@pytest.fixture(scope="module")
def gate_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and images. The int8 file of `one` only stands there: no test of this file runs it."""
    folder = tmp_path_factory.mktemp("gate")
    make_images(folder / "images.set", make_pictures(COUNT))
    model, _ = (make_model(folder / "models", name, seed=seed) for name, seed in (("one", 0), ("two", 2)))
    save_onnx_file(model, "int8", model.path.read_bytes(), {})
    return folder


@pytest.fixture
def place(gate_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(gate_folder, tmp_path, dirs_exist_ok=True))


def gated_study(folder: Path, *models: str, probes: str = LOWPASS + WIDE, **keys: Any) -> Path:
    """A study file of these models on OpenVINO."""
    return make_study(folder, **{"probes": probes, "engine": "openvino", "checkpoints": models} | keys)


def log_size(place: Path) -> int:
    """Images that the probe of the folder was given."""
    return len((place / "log").read_text())


# Verdicts


def test_fifteen_hundred_images_of_each_set_are_gated_unless_more_are_asked_for(command: Command, place: Path) -> None:
    """A study that has fewer images is gated on all of its own."""
    make_model(place / "models", "tiny", size=16)
    make_images(place / "tiny.set", make_pictures(1501, size=16), labels=[k % 7 for k in range(1501)])
    tiny = gated_study(
        place, "tiny", images=["tiny.set"], engine="torch", precision="bf16", probes="contrast = {contrast = 0.5}\n"
    )
    compared = ("gate", "precision", tiny, *REFERENCE, "--candidate", "torch:fp32")
    for words, count in (((), 1500), (("--images", 0), 1501)):
        assert command(*compared, *words, "--db", place / f"{count}.duckdb").code == 0
        assert ask(place / f"{count}.duckdb", "SELECT DISTINCT n FROM gate") == [(count,)]

    gated_study(place, "tiny", images=["tiny.set"], engine="torch", probes="contrast = {contrast = 0.5}\n", limit=10)
    assert command(*compared, "--db", place / "limited.duckdb").code == 3
    assert ask(place / "limited.duckdb", "SELECT DISTINCT n FROM gate") == [(10,)]


def test_a_run_can_require_that_its_precision_has_passed(command: Command, place: Path) -> None:
    study, db = gated_study(place, "one", engine="torch", precision="bf16"), place / "r.duckdb"
    warning = (
        "torch bf16 has not passed the precision gate for 3 of 3 pairs of checkpoint and condition; see: "
        f"bandlens gate precision STUDY.toml --candidate torch:bf16 --db {db}\n"
    )
    refusal = command("run", study, "--db", db, "--require-gate")
    assert (refusal.code, refusal.out, refusal.err) == (1, "", f"bandlens: {warning}")
    assert not db.exists()
    answer = command("run", study, "--db", db, "--no-analyze")
    assert answer.code == 0
    assert f"bandlens: warning: {warning}" in answer.err
    assert command("gate", "precision", study, *REFERENCE, "--db", db).code == 0
    answer = command("run", study, "--db", db, "--no-analyze", "--require-gate")
    assert (answer.code, "precision gate" in answer.err) == (0, False)


# Cells that are run


def test_each_image_is_perturbed_once_for_both(place: Path) -> None:
    (place / "dim.py").write_text(LOGGED)
    study = Study.read(gated_study(place, "one", "two", probes="dim = {file = 'dim.py', level = [0, 0.001]}\n"))
    gated = gate_study_precision(study, place / "r.duckdb", *ENGINES)
    assert gated.run_summary.predictions == COUNT * 3 * 2 * 2
    assert COUNT * 2 <= log_size(place) < COUNT * 4, "the probe is tried on a few more, and not once for each engine"


def test_chosen_checkpoints_are_gated_alone(command: Command, place: Path) -> None:
    study, db = gated_study(place, "one", "two", engine="torch", precision="bf16"), place / "r.duckdb"
    words = ("gate", "precision", study, *REFERENCE, "--candidate", "torch:fp32", "--db", db)
    assert command(*words, "--checkpoint", "two").code == 0
    assert ask(db, "SELECT DISTINCT checkpoint, candidate FROM gate") == [("two", "torch:fp32")]
    answer = command(*words, "--checkpoint", "three")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "three" in answer.err


def test_only_missing_cells_are_run(command: Command, place: Path) -> None:
    db, trusted = place / "r.duckdb", gated_study(place, "one", engine="onnxruntime", name="trusted")
    assert command("run", trusted, "--no-analyze", "--db", db).code == 0
    parts = "SELECT cell, first, committed FROM part ORDER BY ALL"
    rows = ask(db, parts)
    study = Study.read(gated_study(place, "one"))
    assert gate_study_precision(study, db, "onnxruntime:fp32", "fp32").run_summary.ran == 3
    assert set(rows) < set(ask(db, parts))
    assert gate_study_precision(study, db, "onnxruntime:fp32", "fp32").run_summary.ran == 0
    assert ask(db, "SELECT DISTINCT study, engine FROM accuracy") == [("trusted", "onnxruntime")]


def test_a_cell_that_fails_is_told_and_the_others_are_compared(command: Command, place: Path) -> None:
    make_model(place / "models", "broken", seed=4, darkest=2.0)
    db = place / "r.duckdb"
    answer = command("gate", "precision", gated_study(place, "one", "broken"), *REFERENCE, "--db", db)
    assert answer.code == 1
    (line,) = answer.err.splitlines()
    assert line.startswith(
        "bandlens: 6 of 12 cells failed, the first: broken, images.set, clean: logits are not finite"
    )
    assert ask(db, "SELECT checkpoint, verdict, count(*) FROM gate GROUP BY ALL") == [("one", "pass", 3)]


# Releases


def test_a_release_is_run_where_it_lacks_and_judged_against_the_one_before(command: Command, place: Path) -> None:
    db = place / "r.duckdb"
    keys = {"engine": "onnxruntime", "probes": f"{LOWPASS}[gate]\nmargin = 0.9\nconditions = ['lowpass']\n"}
    assert command("run", gated_study(place, "one", **keys, name="v1"), "--no-analyze", "--db", db).code == 0
    misspelt = keys | {"probes": keys["probes"].replace("['lowpass']", "['lowpas']")}
    refused = command("gate", gated_study(place, "two", **misspelt, name="v2"), "--against", "v1", "--db", db)
    assert (refused.code, ask(db, "SELECT name FROM study")) == (2, [("v1",)]), "nothing was run"
    study = gated_study(place, "two", **keys, name="v2")
    first = command("gate", study, "--against", "v1", "--db", db)
    assert first.code == 0
    assert "v2@1 against v1@1" not in first.out, "single checkpoints are called by their names"
    assert "two against one: 2 pass, 0 fail, 0 undecided" in first.out
    assert ask(db, "SELECT study, count(*) FROM accuracy GROUP BY ALL ORDER BY ALL") == [("v1", 3), ("v2", 3)]
    parts = "SELECT cell, first, committed FROM part ORDER BY ALL"
    rows = ask(db, parts)
    second = command("gate", study, "--against", "v1", "--margin", 0.0001, "--db", db)
    assert second.code in (1, 3)
    assert ask(db, parts) == rows


def test_the_version_before_is_the_newest_one_before_the_release_ran(command: Command, place: Path) -> None:
    db, keys = place / "r.duckdb", {"engine": "onnxruntime", "probes": f"{LOWPASS}[gate]\nmargin = 0.9\n"}
    assert command("run", gated_study(place, "one", **keys), "--no-analyze", "--db", db).code == 0
    study = gated_study(place, "two", **keys)
    assert "two against one" in command("gate", study, "--against", "study", "--db", db).out
    answer = command("gate", study, "--against", "study", "--db", db)
    assert (answer.code, answer.out) == (2, "")
    assert "study@2 would be compared with itself; name the release before it: --against NAME@VERSION" in answer.err


# Wrong use


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--candidate", "int4"], 2, "engine openvino runs fp32, bf16, int8, not int4"),
        (["--candidate", "openvino"], 2, "--candidate must be PRECISION or ENGINE:PRECISION, such as openvino:int8"),
        (["--reference", ":fp32"], 2, "--reference must be PRECISION or ENGINE:PRECISION, such as openvino:int8"),
        (
            ["--reference", "openvino:int8"],
            2,
            "openvino:int8 would be compared with itself; name another: --candidate ENGINE:PRECISION",
        ),
        (["--reference", "tensorrt:fp32"], 2, "tensorrt:fp32 takes cupy arrays and openvino:int8 numpy ones"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_compared_is_told_in_one_line(
    command: Command, place: Path, words: list[str], code: int, message: str
) -> None:
    study = gated_study(place, "one", precision="int8")
    answer = command("gate", "precision", study, *words, "--db", place / "r.duckdb")
    assert (answer.code, answer.out) == (code, "")
    assert message in answer.err
    assert len(answer.err.splitlines()) == 1
    assert not (place / "r.duckdb").exists()
