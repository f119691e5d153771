"""Gates of int8 against fp32, as NNCF and OpenVINO make and run it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from gated import COUNT, REFERENCE, gated_study
from small import Command, ask, make_images, make_model, make_pictures

from bandlens.core.errors import EngineError
from bandlens.engine.backends.base import open_session, variant_of
from bandlens.export.model_files import load_model, save_onnx_file
from bandlens.export.onnx.int8 import to_int8


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and images. The int8 of `one` is its own; that of `two` is made of other weights."""
    folder = tmp_path_factory.mktemp("gate")
    pictures = make_pictures(COUNT)
    make_images(folder / "images.set", pictures)
    first, second = (make_model(folder / "models", name, seed=seed) for name, seed in (("one", 0), ("two", 2)))
    donor = make_model(folder / "others", "other", seed=3)
    calibration = (pictures.transpose(0, 3, 1, 2) / 255).astype(np.float32)
    for model, content in ((first, first.path.read_bytes()), (second, donor.path.read_bytes())):
        save_onnx_file(model, "int8", to_int8(content, [calibration]), {})
    return folder


@pytest.fixture
def place(models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models, tmp_path, dirs_exist_ok=True))


@pytest.fixture(scope="module")
def int8(models: Path) -> None:
    """Skips where the processor cannot run int8 as the graph says."""
    try:
        with open_session(variant_of(load_model(models / "models", "one"), "openvino", "int8"), 8, 1):
            pass
    except EngineError as error:
        if "this processor" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.usefixtures("int8")
def test_a_precision_that_answers_the_same_on_a_part_passes_and_may_be_run_on_all(
    command: Command, place: Path
) -> None:
    study, db = gated_study(place, "one", precision="int8"), place / "r.duckdb"
    answer = command("gate", "precision", study, *REFERENCE, "--images", 30, "--db", db)
    assert (answer.code, answer.err) == (0, "")
    assert "ran 6 of 6 cells, 180 predictions" in answer.out
    assert "openvino:int8 against onnxruntime:fp32: 3 pass, 0 fail, 0 undecided" in answer.out
    rows = ask(db, "SELECT checkpoint, image_set, probe, cutoff, n, verdict FROM gate ORDER BY cutoff NULLS FIRST")
    assert rows == [
        ("one", "images.set", probe, cutoff, 30, "pass")
        for probe, cutoff in (("clean", None), ("lowpass", 0.1), ("lowpass", 0.5))
    ]
    run = command("run", study, "--db", db, "--require-gate")
    assert run.code == 0
    assert "precision gate" not in run.err
    assert ask(db, "SELECT DISTINCT precision, n FROM accuracy") == [("int8", COUNT)]


@pytest.mark.usefixtures("int8")
def test_one_that_answers_otherwise_fails_is_warned_of_and_can_be_refused(command: Command, place: Path) -> None:
    study, db = gated_study(place, "one", "two", precision="int8"), place / "r.duckdb"
    answer = command("gate", "precision", study, *REFERENCE, "--db", db)
    assert answer.code == 1
    (line,) = answer.err.splitlines()
    assert line.startswith("bandlens: openvino:int8 against onnxruntime:fp32: 3 pass, 3 fail, 0 undecided; a row that")
    rows = answer.out.split("Rows that do not pass")[1]
    assert "two" in rows
    assert "one" not in rows

    warning = (
        "openvino int8 has not passed the precision gate for 3 of 6 pairs of checkpoint and condition; see: "
        f"bandlens gate precision STUDY.toml --candidate openvino:int8 --db {db}\n"
    )
    refusal = command("run", study, "--db", db, "--require-gate")
    assert (refusal.code, refusal.out, refusal.err) == (1, "", f"bandlens: {warning}")
    assert ask(db, "FROM study") == []
    answer = command("run", study, "--db", db)
    assert (answer.code, answer.err) == (0, f"bandlens: warning: {warning}")
    assert ask(db, "SELECT name FROM study") == [("study",)]
