"""Gates of real runs: two engines see the same perturbed images, once, and what differs decides what may be run."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_results import python
from polars.testing import assert_frame_equal
from small import Command, ask, make_images, make_model, make_pictures, make_study, rows_of

from bandlens.app.study.file import Study
from bandlens.app.study.gate import gate_study
from bandlens.engine.backends.base import open_session, variant_of
from bandlens.errors import EngineError
from bandlens.export.models import load_model
from bandlens.export.onnx.files import save_onnx_file
from bandlens.export.onnx.int8 import to_int8

LOWPASS = "lowpass = {cutoff = [0.1, 0.5]}\n"
WIDE = "[gate]\nflips = 0.25\naccuracy = 0.25\n"
"""What 40 images are enough for."""
COUNT = 40
ENGINES = ("onnxruntime:fp32", "openvino:fp32")
REFERENCE = ("--reference", ENGINES[0])

LOGGED = """
from pathlib import Path
from time import sleep
def dim(images, seconds):
    with (Path(__file__).parent / "log").open("a") as log:
        log.write("." * len(images))
    sleep(seconds)
    return images * 0.9
"""

GATE = """
import sys
from pathlib import Path
from bandlens.app.study.gate import gate_study
from bandlens.app.study.file import Study
gate_study(Study.read(Path(sys.argv[1])), Path(sys.argv[2]), *sys.argv[3:], range_seconds=0)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and images. The int8 of `one` is its own; that of `two` is made of other weights."""
    folder = tmp_path_factory.mktemp("gate")
    pictures = make_pictures(COUNT)
    make_images(folder / "images.set", pictures)
    one, two = (make_model(folder / "models", name, seed=seed) for name, seed in (("one", 0), ("two", 2)))
    other = make_model(folder / "others", "other", seed=3)
    calibration = (pictures.transpose(0, 3, 1, 2) / 255).astype(np.float32)
    for model, content in ((one, one.path.read_bytes()), (two, other.path.read_bytes())):
        save_onnx_file(model, "int8", to_int8(content, [calibration]), {})
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path, dirs_exist_ok=True))


@pytest.fixture(scope="module")
def int8(made: Path) -> None:
    """Skips where the processor cannot run int8 as the graph says."""
    try:
        with open_session(variant_of(load_model(made / "models", "one"), "openvino", "int8"), 8, 1):
            pass
    except EngineError as error:
        if "this processor" not in str(error):
            raise
        pytest.skip(str(error))


def study_of(place: Path, *names: str, probes: str = LOWPASS + WIDE, **keys: Any) -> Path:
    return make_study(place, **{"probes": probes, "engine": "openvino", "checkpoints": names} | keys)


def perturbed(place: Path) -> int:
    """Images that the probe of the folder was given."""
    log = place / "log"
    return len(log.read_text()) if log.exists() else 0


# What passes and what does not


@pytest.mark.usefixtures("int8")
def test_a_precision_that_answers_the_same_passes_and_may_be_run(command: Command, place: Path) -> None:
    study, db = study_of(place, "one", precision="int8"), place / "r.duckdb"
    answer = command("gate", study, *REFERENCE, "--db", db)
    assert (answer.code, answer.err) == (0, "")
    assert "openvino:int8 against onnxruntime:fp32: ran 6 of 6 cells, 240 predictions" in answer.out
    assert answer.out.endswith("3 of 3 gates pass\n")
    found = ask(db, "SELECT checkpoint, image_set, probe, cutoff, n, verdict FROM gate ORDER BY cutoff NULLS FIRST")
    assert found == [
        ("one", "images.set", probe, cutoff, COUNT, "pass")
        for probe, cutoff in (("clean", None), ("lowpass", 0.1), ("lowpass", 0.5))
    ]
    run = command("run", study, "--db", db, "--require-gate")
    assert (run.code, run.err) == (0, "")
    assert "nothing to run, all 3 cells are in" in run.out
    assert ask(db, "SELECT DISTINCT precision FROM accuracy") == [("int8",)]


@pytest.mark.usefixtures("int8")
def test_one_that_answers_otherwise_fails_is_warned_of_and_can_be_refused(command: Command, place: Path) -> None:
    study, db = study_of(place, "one", "two", precision="int8"), place / "r.duckdb"
    answer = command("gate", study, *REFERENCE, "--db", db)
    assert answer.code == 1
    (line,) = answer.err.splitlines()
    assert line.startswith("bandlens: openvino:int8 against onnxruntime:fp32: 3 of 6 gates fail, up to ")
    assert line.endswith("run the study at a precision that passes")
    assert "3 of 6 gates pass; these do not:" in answer.out
    shown = answer.out.split("these do not:")[1]
    assert "two" in shown
    assert "one" not in shown

    warning = (
        "openvino int8 has not passed the precision gate for 3 of 6 pairs of checkpoint and condition; see: "
        f"bandlens gate STUDY.toml --candidate openvino:int8 --db {db}\n"
    )
    refused = command("run", study, "--db", db, "--require-gate")
    assert (refused.code, refused.out, refused.err) == (1, "", f"bandlens: {warning}")
    assert ask(db, "FROM study") == []
    warned = command("run", study, "--db", db)
    assert (warned.code, warned.err) == (0, f"bandlens: warning: {warning}")
    assert ask(db, "SELECT name FROM study") == [("study",)]


def test_a_run_that_no_gate_was_made_for_is_refused_before_anything_is_run(command: Command, place: Path) -> None:
    study, db = study_of(place, "one", precision="int8"), place / "r.duckdb"
    answer = command("run", study, "--db", db, "--require-gate")
    assert answer.code == 1
    assert "for 3 of 3 pairs" in answer.err
    assert ask(db, "FROM cell") == []
    trusted = command("run", study_of(place, "one"), "--db", db, "--require-gate")
    assert trusted.code == 0
    assert "gate" not in trusted.err


def test_too_few_images_are_undecided_and_how_many_would_do_is_said(command: Command, place: Path) -> None:
    answer = command("gate", study_of(place, "one", probes=LOWPASS), *REFERENCE, "--db", place / "r.duckdb")
    assert answer.code == 1
    assert answer.err == (
        "bandlens: openvino:fp32 against onnxruntime:fp32: 3 of 3 gates are undecided; about 930 images would "
        "decide: give --images, or sets that have as many\n"
    )
    assert "0 of 3 gates pass; these do not:" in answer.out


@pytest.mark.usefixtures("int8")
def test_json_holds_every_row(command: Command, place: Path) -> None:
    study = study_of(place, "one", "two", precision="int8")
    answer = command("gate", study, *REFERENCE, "--db", place / "r.duckdb", "--json")
    assert answer.code == 1
    found = json.loads(answer.out)
    assert (found["cells"], found["ran"], found["predictions"], found["failed"]) == (12, 12, 12 * COUNT, [])
    assert len(found["rows"]) == 6
    one, two = found["checkpoints"]
    assert (one["checkpoint"], one["pass"], one["fail"], one["undecided"]) == ("one", 3, 0, 0)
    assert (two["checkpoint"], two["pass"], two["fail"], two["undecided"]) == ("two", 0, 3, 0)
    assert two["worst_flips"] == max(row["flips"] for row in found["rows"])
    assert {"reference", "candidate", "p", "needed", "max_flips", "decided"} <= found["rows"][0].keys()


@pytest.mark.usefixtures("int8")
def test_a_gate_on_a_part_of_the_images_counts_for_all_of_them(command: Command, place: Path) -> None:
    study, db = study_of(place, "one", precision="int8"), place / "r.duckdb"
    assert command("gate", study, *REFERENCE, "--images", 30, "--db", db).code == 0
    assert ask(db, "SELECT DISTINCT image_set, n FROM gate") == [("images.set", 30)]
    assert command("run", study, "--db", db, "--require-gate").code == 0
    assert ask(db, "SELECT DISTINCT n FROM accuracy") == [(COUNT,)]


def test_a_thousand_images_of_each_set_are_gated_unless_others_are_asked_for(command: Command, place: Path) -> None:
    """Where the study itself has fewer, its own are."""
    make_model(place / "models", "tiny", size=32)
    make_images(place / "tiny.set", make_pictures(1001, size=32), labels=[k % 7 for k in range(1001)])
    tiny = study_of(
        place, "tiny", images=["tiny.set"], engine="torch", precision="bf16", probes="contrast = {contrast = 0.5}\n"
    )
    compared = ("gate", tiny, *REFERENCE, "--candidate", "torch:fp32")
    given = ((), ("--images", 0), ("--images", 20))
    for number, words in enumerate(given):
        assert command(*compared, *words, "--db", place / f"{number}.duckdb").code == (1 if words == given[2] else 0)
    found = [ask(place / f"{number}.duckdb", "SELECT DISTINCT n FROM gate") for number in range(3)]
    assert found == [[(1000,)], [(1001,)], [(20,)]]

    planned = json.loads(command("plan", tiny, "--json").out)
    assert planned["gate_predictions"] == 1000 * len(planned["missing"])

    study_of(place, "tiny", images=["tiny.set"], engine="torch", probes="contrast = {contrast = 0.5}\n", limit=10)
    assert command(*compared, "--db", place / "limited.duckdb").code == 1
    assert ask(place / "limited.duckdb", "SELECT DISTINCT n FROM gate") == [(10,)]
    assert json.loads(command("plan", tiny, "--json").out)["gate_predictions"] == 0


@pytest.mark.usefixtures("int8")
def test_the_report_shows_the_gates_of_what_the_study_ran(command: Command, place: Path) -> None:
    db, page = place / "r.duckdb", place / "r.html"
    study, trusted = study_of(place, "one", precision="int8"), study_of(place, "one", name="other")
    for words in (("gate", study, *REFERENCE), ("run", study), ("run", trusted)):
        assert command(*words, "--db", db).code == 0
    assert command("report", "--db", db, "--study", "study", "--out", page).code == 0
    assert "Precision gates" in page.read_text()
    assert command("report", "--db", db, "--study", "other", "--out", page).code == 0
    assert "Precision gates" not in page.read_text()


# What is run


def test_each_image_is_perturbed_once_for_both(place: Path) -> None:
    (place / "dim.py").write_text(LOGGED)
    study = Study.read(study_of(place, "one", "two", probes="dim = {file = 'dim.py', seconds = [0, 0.001]}\n"))
    found = gate_study(study, place / "r.duckdb", *ENGINES)
    assert found.ran.predictions == COUNT * 3 * 2 * 2
    tried = 5  # images more, for each condition: a probe is tried alone twice and once among three
    assert perturbed(place) == (COUNT + tried) * 2


def test_chosen_checkpoints_are_gated_alone(command: Command, place: Path) -> None:
    study, db = study_of(place, "one", "two", engine="torch", precision="bf16"), place / "r.duckdb"
    given = ("gate", study, *REFERENCE, "--candidate", "torch:fp32", "--db", db)
    assert command(*given, "--checkpoint", "two").code == 0
    assert ask(db, "SELECT DISTINCT checkpoint, candidate FROM gate") == [("two", "torch:fp32")]
    planned = command("plan", study, "--db", db).out
    assert f"and runs {2 * 3 * COUNT} predictions at fp32 and as many at bf16; on all images (--images 0) it" in planned
    answer = command(*given, "--checkpoint", "three")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "three" in answer.err


def test_only_missing_cells_are_run(command: Command, place: Path) -> None:
    db, trusted = place / "r.duckdb", study_of(place, "one", engine="onnxruntime", name="trusted")
    assert command("run", trusted, "--db", db).code == 0
    parts = "SELECT cell, first, committed FROM part ORDER BY ALL"
    before = ask(db, parts)
    study = Study.read(study_of(place, "one"))
    assert gate_study(study, db, "onnxruntime:fp32", "fp32").ran.ran == 3
    assert set(before) < set(ask(db, parts))
    assert gate_study(study, db, "onnxruntime:fp32", "fp32").ran.ran == 0
    assert ask(db, "SELECT DISTINCT study, engine FROM accuracy") == [("trusted", "onnxruntime")]


def test_killed_and_gated_again_it_goes_on_where_it_stopped(place: Path) -> None:
    (place / "dim.py").write_text(LOGGED)
    study = study_of(place, "one", "two", probes="dim = {file = 'dim.py', seconds = 0.2}\n" + WIDE)
    whole, db = place / "whole.duckdb", place / "r.duckdb"
    expected = gate_study(Study.read(study), whole, *ENGINES).rows
    (place / "log").unlink()
    with subprocess.Popen(python(GATE, study, db, *ENGINES)) as process:
        deadline = time.monotonic() + 60
        while perturbed(place) <= 8 + 5:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    total, stored = COUNT * 2 * 2 * 2, ask(db, "SELECT count(*) FROM prediction")[0][0]
    found = gate_study(Study.read(study), db, *ENGINES)
    assert 0 < stored < total
    assert found.ran.predictions == total - stored
    assert_frame_equal(rows_of(db), rows_of(whole))
    changing = ("decided", "reference_cell", "candidate_cell")
    assert_frame_equal(found.rows.drop(changing), expected.drop(changing))


def test_a_cell_that_fails_is_told_and_the_others_are_compared(command: Command, place: Path) -> None:
    make_model(place / "models", "broken", seed=4, darkest=2.0)
    db = place / "r.duckdb"
    answer = command("gate", study_of(place, "one", "broken"), *REFERENCE, "--db", db)
    assert answer.code == 1
    (line,) = answer.err.splitlines()
    assert line.startswith(
        "bandlens: 6 of 12 cells failed, the first: broken, images.set, clean: logits are not finite"
    )
    assert ask(db, "SELECT checkpoint, verdict, count(*) FROM gate GROUP BY ALL") == [("one", "pass", 3)]


# Wrong use


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--candidate", "int4"], 1, "engine openvino runs fp32, bf16, int8, not int4"),
        (["--candidate", "openvin:int8"], 2, "unknown engine 'openvin'; did you mean openvino"),
        (["--candidate", "openvino:"], 2, "--candidate must be PRECISION or ENGINE:PRECISION, such as openvino:int8"),
        (["--reference", ":fp32"], 2, "--reference must be PRECISION or ENGINE:PRECISION"),
        (
            ["--reference", "openvino:int8"],
            2,
            "openvino:int8 would be compared with itself; name another with --candidate",
        ),
        (["--reference", "tensorrt:fp32"], 2, "tensorrt:fp32 takes cupy arrays and openvino:int8 numpy ones"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_compared_is_told_in_one_line(
    command: Command, place: Path, words: list[str], code: int, message: str
) -> None:
    answer = command("gate", study_of(place, "one", precision="int8"), *words, "--db", place / "r.duckdb")
    assert (answer.code, answer.out) == (code, "")
    assert message in answer.err
    assert len(answer.err.splitlines()) == 1
    assert not (place / "r.duckdb").exists()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("flips = 0", "gate.flips must be a share above 0 and below 1, not 0"),
        ("flips = 1", "gate.flips must be a share above 0 and below 1, not 1"),
        ("accuracy = -0.1", "gate.accuracy must be a share above 0 and below 1, not -0.1"),
        ("accuracy = nan", "gate.accuracy must be a share above 0 and below 1, not nan"),
        ("accuracy = true", "gate.accuracy must be a share above 0 and below 1, not True"),
        ("flips = '1 %'", "gate.flips must be a share above 0 and below 1, not '1 %'"),
        ("flip = 0.1", "unknown key in [gate] of {file} 'flip'; did you mean flips?"),
    ],
)
def test_limits_that_make_no_sense_are_named(command: Command, place: Path, table: str, message: str) -> None:
    file = study_of(place, "one", probes=f"{LOWPASS}[gate]\n{table}\n")
    answer = command("gate", file, "--db", place / "r.duckdb")
    assert answer.code == 2
    assert message.format(file=file) in answer.err
    assert str(file) in answer.err


def test_the_gate_must_be_a_table_and_the_study_needs_images(command: Command, place: Path) -> None:
    file = place / "wrong.toml"
    file.write_text('checkpoints = ["one"]\nimages = ["images.set"]\ngate = 0.1\n')
    assert f"{file}: gate must be a table, not 0.1" in command("gate", file).err
    file.write_text('checkpoints = ["one"]\n')
    assert f"{file}: images is missing; it is a list of names" in command("gate", file).err
