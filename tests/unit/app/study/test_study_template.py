"""Studies that `bandlens init` writes: as they are, they can be planned, or their plan says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import CLASSES, Answer, Command, make_images, make_model, make_pictures

from bandlens.app.study.file import Study

PREFIX = "bandlens: "


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, beside an empty home."""
    monkeypatch.setenv("BANDLENS_HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def plan(command: Command, file: str = "study.toml") -> Answer:
    return command("plan", file, "--engine", "onnxruntime", "--db", "results.duckdb")


def study_of(command: Command) -> Study:
    """The study that `init` writes and that is planned without a change."""
    assert command("init").code == 0
    plan_answer = plan(command)
    assert (plan_answer.code, plan_answer.err) == (0, "")
    return Study.read("study.toml")


def test_models_and_images_beside_the_file_are_planned_as_they_are(folder: Path, command: Command) -> None:
    make_model(folder / "models")
    make_images(folder / "images.set", make_pictures(20), labels=[k % CLASSES for k in range(20)])
    answer = command("init")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == "study.toml: one on images.set; next: bandlens plan study.toml\n"
    page = plan(command).out
    assert "to run: 19 cells, 380 predictions" in page
    assert "lowpass_half_cut" in page
    study = Study.read("study.toml")
    assert (study.name, study.checkpoints, study.images, study.models) == ("study", ["one"], ["images.set"], "models")


def test_a_file_that_is_there_is_kept(folder: Path, command: Command) -> None:
    (folder / "study.toml").write_text("mine")
    answer = command("init")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == "bandlens: study.toml is there already and stays as it is; name another file\n"
    assert (folder / "study.toml").read_text() == "mine"
    (folder / "link.toml").symlink_to("nowhere")
    assert command("init", "link.toml").code == 2
    assert not (folder / "nowhere").exists()


UNKNOWN = "unknown model 'mine'; export it into models with `bandlens export`"


@pytest.mark.parametrize(
    ("models", "images", "missing"),
    [
        (False, True, UNKNOWN),
        (True, False, "photos.set: not an image set; make one with 'bandlens images pack'"),
    ],
)
def test_a_plan_says_what_is_missing(folder: Path, command: Command, models: bool, images: bool, missing: str) -> None:
    if models:
        make_model(folder / "models")
    if images:
        make_images(folder / "images.set", make_pictures(20))
    missing = missing.replace("into models", f"into {(folder / 'models').absolute()}")
    answer, lacking = command("init"), "no image set photos.set" if models else "no models in models"
    assert answer.code == 0
    assert answer.err == f"bandlens: warning: study.toml cannot run yet: {lacking}; name yours in it\n"
    plan_answer = plan(command)
    assert (plan_answer.code, plan_answer.err) == (2, f"{PREFIX}{missing}\n")
    study = Study.read("study.toml")
    assert (study.checkpoints, study.images) == (
        ["one"] if models else ["mine"],
        ["images.set"] if images else ["photos.set"],
    )


def test_models_of_the_default_folder_are_taken_where_none_are_beside_it(folder: Path, command: Command) -> None:
    make_model(folder.parent / "home" / "models", "stored")
    (folder / "sets" / "a").mkdir(parents=True)
    make_images(folder / "sets" / "a" / "1", make_pictures(20))
    study = study_of(command)
    assert (study.checkpoints, study.images, study.models) == (["stored"], ["sets/a/1"], "")
    (folder / "study.toml").unlink()
    make_model(folder / "models", "near")
    assert study_of(command).checkpoints == ["near"]


def test_models_and_images_that_do_not_fit_are_named_and_refused_by_the_plan(folder: Path, command: Command) -> None:
    for name, size in (("a", 128), ("small", 64)):
        make_model(folder / "models", name, size=size)
    make_images(folder / "images.set", make_pictures(20))
    assert command("init").code == 0
    assert Study.read("study.toml").checkpoints == ["a", "small"]
    answer = plan(command)
    assert (answer.code, answer.out) == (2, "")
    assert "no image set of the study has the pixels that all of its checkpoints take; pack one for small" in answer.err


def test_the_name_of_a_study_that_comes_along_is_no_file(folder: Path, command: Command) -> None:
    assert "grid comes along: bandlens init grid.toml --study grid; or" in command("init", "grid").err
    words = f"no models in {folder.parent / 'home' / 'models'}, no image set sets/imagenet; name yours in it\n"
    assert command("init", "grid.toml", "--study", "grid").err.endswith(f": grid.toml cannot run yet: {words}")
    assert not (folder / "grid").exists()


def test_hidden_folders_are_no_image_sets(folder: Path, command: Command) -> None:
    """Another process may be filling one."""
    make_model(folder / "models")
    for number, name in enumerate(("images.set", ".other.set")):
        make_images(folder / name, make_pictures(20 + number), labels=[k % CLASSES for k in range(20 + number)])
    assert study_of(command).images == ["images.set"]
