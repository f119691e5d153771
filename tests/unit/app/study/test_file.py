"""Study files: what they stand for, and one line for each way to get one wrong."""

from __future__ import annotations

import json
import os
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import make_images, make_model, make_pictures, make_study, refusal

from bandlens.analysis.comparison.gates import Limits
from bandlens.analysis.metrics.custom import read_measures
from bandlens.app.study.file import Study
from bandlens.app.study.resolve import Work, resolve
from bandlens.core.errors import UsageError
from bandlens.probes.grid import make_grid


def work_of(file: Path) -> Work:
    return resolve(Study.read(file))


# Cells that a study stands for


def test_defaults(workplace: Path) -> None:
    file = workplace / "mine.toml"
    file.write_text('checkpoints = ["one"]\nimages = ["images.set"]\nmodels = "models"\n')
    study = Study.read(file)
    assert (study.name, study.engine, study.precision, study.batch, study.seed) == ("mine", "auto", "fp32", 0, 0)
    assert study.thread_count == len(os.sched_getaffinity(0))
    work = resolve(study)
    assert work.study.batch == 32
    families = [cell.condition.probe for cell in work.cells]
    assert {name: families.count(name) for name in families} == {
        "clean": 1, "lowpass": 11, "highpass": 11, "critical_band": 29
    }  # fmt: skip


def test_checkpoints_by_name_category_or_all_each_once(workplace: Path) -> None:
    folder = workplace / "models"
    make_model(folder, "two", seed=2, category="adversarial_training")
    make_model(folder, "three", seed=3, category="adversarial_training")

    def names(*checkpoints: str) -> list[str]:
        return [model.name for model in work_of(make_study(workplace, checkpoints=checkpoints)).models]

    assert names("*") == ["one", "three", "two"]
    assert names("category:adversarial_training") == ["three", "two"]
    assert names("two", "*", "two") == ["two", "one", "three"]
    assert names("one", "category:own") == ["one"]


# Wrong keys and values


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", "a@1", "name must be a line of text without @, which asks for a version, not 'a@1'"),
        ("checkpoints", [], "checkpoints must be a list of names, and at least one"),
        ("engine", "onnx", "unknown engine 'onnx'; did you mean onnxruntime"),
        ("batch", 4097, "batch must be in [0, 4096], not 4097"),
        ("seed", 2**63, "seed must be in [0, 9223372036854775807], not 9223372036854775808"),
        ("chekpoints", ["one"], "unknown key in {file} 'chekpoints'; did you mean checkpoints?"),
        ("folder", "x", "unknown key in {file} 'folder'"),
    ],
)
def test_a_wrong_key_or_value_is_named(workplace: Path, key: str, value: Any, message: str) -> None:
    file = workplace / "wrong.toml"
    keys = {"checkpoints": ["one"], "images": ["images.set"], "models": "models", key: value}
    file.write_text("\n".join(f"{name} = {json.dumps(setting)}" for name, setting in keys.items()))
    error_text = refusal(work_of, file)
    assert message.format(file=file) in error_text
    if not message.startswith("unknown engine"):
        assert str(file) in error_text


def test_a_missing_key_is_named(workplace: Path) -> None:
    file = workplace / "wrong.toml"
    file.write_text('checkpoints = ["x"]\n')
    assert refusal(work_of, file) == f"{file}: images is missing; it is a list of names, and stands above all tables"


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        ("batch = 8", "batch is a key of the study, and stands in [probes]; write it above all tables"),
        ("blur = {file = 'blur.py'}", "probe blur: no file"),
    ],
)
def test_a_wrong_probe_is_named(workplace: Path, probes: str, message: str) -> None:
    assert message in refusal(work_of, make_study(workplace, probes=probes))


def test_what_is_not_toml_is_named(workplace: Path) -> None:
    file = workplace / "wrong.toml"
    for content in (b"checkpoints = [", b"\xff\xfe\x00"):
        file.write_bytes(content)
        assert f"{file} cannot be read as TOML: " in refusal(work_of, file)


def test_what_is_no_study_file_is_named(workplace: Path) -> None:
    assert f"no study file {workplace}/none.toml" in refusal(work_of, workplace / "none.toml")
    (workplace / "nearly.toml").touch()
    assert refusal(work_of, workplace / "nearlly.tom").endswith(f"nearlly.tom; did you mean {workplace}/nearly.toml?")
    assert refusal(work_of, workplace) == f"{workplace} is a folder; give the study's TOML file"
    database = workplace / "results.duckdb"
    database.write_bytes(bytes(1 << 19))
    message = f"{database} is a results database; give the study's TOML file, and --db {database}"
    assert refusal(work_of, database) == message


# Built in Python


def test_a_study_in_python_is_kept_as_text_that_reads_the_same(workplace: Path) -> None:
    study = Study(
        name="mine",
        checkpoints=["one"],
        images=(workplace / "images.set",),  # type: ignore[arg-type]
        probes={"lowpass": {"cutoff": np.array([0.1, 0.25])}, "highpass": {}},
        models=workplace / "models",  # type: ignore[arg-type]
        seed=np.int64(3),  # type: ignore[arg-type]
        gate=Limits(flips=0.02, margin=0.02, slices=["class"]),
    )
    file = workplace / "mine.toml"
    file.write_text(study.toml)
    assert Study.read(file) == replace(study, folder=workplace)
    assert tomllib.loads(study.toml) == {
        "name": "mine",
        "checkpoints": ["one"],
        "images": [str(workplace / "images.set")],
        "probes": {"lowpass": {"cutoff": [0.1, 0.25]}, "highpass": {}},
        "models": str(workplace / "models"),
        "seed": 3,
        "gate": {"flips": 0.02, "margin": 0.02, "slices": ["class"]},
    }
    assert len(resolve(study).cells) == 1 + 2 + 11


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"gate": {"flip": 0.1}}, "unknown key in [gate] of study mine 'flip'; did you mean flips?"),
        ({"gate": {"flips": 0}}, "gate.flips must be a share above 0 and below 1, not 0"),
        ({"gate": {"measures": "accuracy"}}, "gate.measures must be a list of names, not 'accuracy'"),
        ({"seed": 2**70}, "study mine: a whole number has more than 64 bits"),
        ({"probes": {"blur": {"strength": print}}}, "study mine cannot be written as TOML: "),
        ({"probes": {"blur": np.zeros((2, 3, 64, 64))}}, "as TOML: blur is an array of shape (2, 3, 64, 64); give"),
        ({"probes": {"blur": {"sigma": None}}}, "cannot be written as TOML: sigma is None; give text, numbers"),
        ({"models": "https://me:secret@host/models"}, "study mine holds a password or token"),
    ],
)
def test_what_is_wrong_in_python_is_said_as_of_a_file(keys: dict[str, Any], message: str) -> None:
    assert message in refusal(Study, **{"name": "mine", "checkpoints": ["one"], "images": ["images.set"]} | keys)


# Models and images that are not there, or do not fit


def test_unknown_checkpoints_are_named_with_near_names(workplace: Path) -> None:
    make_model(workplace / "models", "tv_resnet50", seed=4)
    error_text = refusal(work_of, make_study(workplace, checkpoints=["tv_resnet5"]))
    assert "'tv_resnet5'; did you mean tv_resnet50" in error_text
    error_text = refusal(work_of, make_study(workplace, checkpoints=["category:adversarial"]))
    assert "unknown category of exported models 'adversarial'; known: own" in error_text


def test_images_that_a_probe_cannot_take_are_named(workplace: Path) -> None:
    make_model(workplace / "models", "small", size=64)
    make_images(workplace / "small.set", make_pictures(3, size=64))
    probes = "critical_band = {}"
    error_text = refusal(work_of, make_study(workplace, checkpoints=["small"], images=["small.set"], probes=probes))
    assert error_text == (
        "image set small.set: critical_band needs an even number of pixels a side, at least 128, not 64; name other "
        "probes in the study's [probes], or take larger images"
    )


def test_models_and_image_sets_that_cannot_be_told_apart_are_refused(workplace: Path) -> None:
    make_model(workplace / "models", "twin", seed=0)
    assert refusal(work_of, make_study(workplace)) == "models one and twin have the same files; leave one of them out"
    assert len(work_of(make_study(workplace, checkpoints=["one"])).cells) == 1
    make_images(workplace / "twin.set", make_pictures(20), name="another")
    make_images(workplace / "other.set", make_pictures(20, seed=3), name="images.set")

    def refusal_of(images: str) -> str:
        return refusal(work_of, make_study(workplace, checkpoints=["one"], images=["images.set", images]))

    assert refusal_of("twin.set") == (
        f"image sets {workplace}/images.set and {workplace}/twin.set have the same images; leave one of them out"
    )
    assert "have the same names" in refusal_of("other.set")


# Image sets


def test_images_by_pattern_and_some_of_them_clean_alone(workplace: Path) -> None:
    for k, name in enumerate(("fog/1", "fog/2", "snow/1")):
        (workplace / "c" / name).parent.mkdir(parents=True, exist_ok=True)
        make_images(workplace / "c" / name, make_pictures(3, seed=k), name=f"c {name}")
    clean = ["images.set", "c/fog/*", "c/*/1"]
    file = make_study(
        workplace, images=["images.set", "*.set", "images.set"], clean_images=clean, probes="lowpass = {}"
    )
    counts = Counter((cell.image_set.name, cell.condition.probe) for cell in resolve(Study.read(file)).cells)
    assert counts == {
        ("images.set", "clean"): 1,
        ("images.set", "lowpass"): 11,
        ("c fog/1", "clean"): 1,
        ("c fog/2", "clean"): 1,
        ("c snow/1", "clean"): 1,
    }


def test_a_tilde_is_the_folder_of_the_user(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(workplace))
    keys = {"models": "~/models", "images": ["~/images.set"]}
    assert resolve(Study.read(make_study(workplace, **keys, probes="lowpass = {}"))).cells


def test_a_pattern_that_fits_nothing_is_named(workplace: Path) -> None:
    file = make_study(workplace, clean_images=["sets/*"])
    assert "no image set fits 'sets/*' in" in refusal(work_of, file)


def blur(images: Any, sigma: float = 1) -> Any:
    return images * sigma


def test_a_function_may_stand_for_a_probe_or_a_measure_and_its_name_runs_nothing() -> None:
    probes = {"lowpass": {"cutoff": 0.3}, "blur": blur, "blurs": {"function": blur, "sigma": [0.5, 1]}}
    study = Study("mine", ["*"], ["set"], probes=probes, measures={"worst": blur})
    assert study.probes_in_memory == ["blur", "blurs"]
    for copy in (study, replace(study, engine="torch")):
        tables = {name: dict(copy.probes[name]) for name in probes} | {"worst": dict(copy.measures["worst"])}
        versions = {name: table.pop("version", None) for name, table in tables.items()}
        assert tables == probes | {"blur": {"function": blur}, "worst": {"function": blur}}
        assert versions.pop("lowpass") is None
        assert len(set(versions.values())) == 3, "each has a version of its own"
        grid = make_grid(copy.probes, copy.folder)
        assert [str(condition) for condition in grid.conditions[2:]] == [
            "blur sigma=1",
            "blurs sigma=0.5",
            "blurs sigma=1",
        ]
    document = tomllib.loads(study.toml)
    assert document["probes"]["blurs"] == {"function": "blur", "sigma": [0.5, 1]}
    assert document["measures"] == {"worst": {"function": "blur"}}
    with pytest.raises(UsageError, match=r"unknown probe 'blur'.* a probe of your own needs"):
        make_grid(document["probes"], study.folder)
    with pytest.raises(UsageError, match="measure worst must be a table with a file"):
        read_measures(document["measures"], study.folder)
