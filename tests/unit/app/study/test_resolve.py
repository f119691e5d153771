"""The batch of a study that names none, and image sets with images that a head was trained on."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import make_images, make_model, make_pictures, make_study, tune_by_hand

from bandlens.app.study import resolve as resolve_module
from bandlens.app.study.file import Study
from bandlens.app.study.resolve import Work, resolve
from bandlens.app.study.runner import run_study
from bandlens.core.errors import ExportError, UnknownName, UsageError
from bandlens.core.records import Head, Model
from bandlens.engine.device.devices import EngineChoice, processor_name, readiness

COUNT = 24
PICTURES = make_pictures(COUNT)
LABELS = [number % 4 for number in range(COUNT)]


@pytest.fixture
def models(tmp_path: Path) -> list[Model]:
    make_images(tmp_path / "images.set", make_pictures(2))
    return [make_model(tmp_path / "models", f"m{seed}", seed=seed) for seed in range(3)]


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve_module, "choose_engine", lambda: EngineChoice("onnxruntime", "no NVIDIA GPU here"))


def test_published_probes_that_small_images_cannot_have_are_left_out_and_named(tmp_path: Path, no_gpu: None) -> None:
    make_model(tmp_path / "models", "small", size=96)
    make_images(tmp_path / "small.set", make_pictures(3, size=96))
    work = resolve(
        Study(name="small", checkpoints=["*"], images=["small.set"], models="models", threads=1, folder=tmp_path)
    )
    assert {cell.condition.probe for cell in work.cells} == {"clean", "lowpass", "highpass"}
    assert work.choices[-1].startswith(
        "probes: clean, lowpass, highpass, without: critical_band needs an even number of pixels a side, at least 128"
    )


@pytest.mark.parametrize("native", [True, False])
def test_bf16_says_where_it_is_slower_than_fp32(
    native: bool, models: list[Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve_module, "has_native_bf16", lambda: native)
    keys: dict[str, Any] = {"engine": "openvino", "precision": "bf16", "folder": tmp_path}
    work = resolve(Study(name="s", checkpoints=["*"], images=["images.set"], models="models", **keys))
    line = "precision: bf16 is not native, and slower than fp32 on this processor"
    assert work.choices == ([] if native else [line])


def batch_of(folder: Path, **keys: Any) -> int:
    study = Study(
        name="batched", checkpoints=["*"], images=[str(folder / "images.set")], models=str(folder / "models"), **keys
    )
    return resolve(study).study.batch


def describe_plan(model: Model, batch: int, **changes: Any) -> Path:
    """The description of a TensorRT plan, as it lies beside one."""
    identity = {
        "name": model.name,
        "precision": "fp32",
        "library": "tensorrt 10.16.1.11",
        "gpu": "H100",
        "batch": batch,
    }
    identity |= {"settings": "tiling", "trt_plan_version": 2, "built_from": model.sha256} | changes
    file = model.path.parent / "plans" / f"{identity['name']}.fp32.b{batch}.0123abcd.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(identity))
    return file


def test_the_batch_is_that_of_the_plans_that_most_models_have(models: list[Model], tmp_path: Path) -> None:
    for model in models:
        describe_plan(model, 512, built_from="0" * 64)
        describe_plan(model, 1024, precision="fp16")
        describe_plan(model, 2048).write_text("[" * 100_000)
    assert batch_of(tmp_path, engine="tensorrt") == 256, "plans of something else and damaged ones do not count"
    for model in models[:2]:
        describe_plan(model, 64)
    describe_plan(models[0], 128)
    assert batch_of(tmp_path, engine="tensorrt") == 64
    describe_plan(models[1], 128)
    assert batch_of(tmp_path, engine="tensorrt") == 128, "the larger of two"
    assert batch_of(tmp_path, engine="tensorrt", batch=8) == 8
    assert batch_of(tmp_path, engine="torch-cuda") == 256, "it has no plans"


# The tuning of a folder of models

DEVICE = f"{processor_name()}, threads: 2"


def choices(folder: Path, **keys: Any) -> tuple[str, int, list[str]]:
    """Engine, batch and lines of a study of two threads that names neither, unless the test does."""
    keys = {"threads": 2, "probes": {"lowpass": {"cutoff": 0.3}}} | keys
    study = Study(
        name="tuned", checkpoints=["*"], images=[str(folder / "images.set")], models=str(folder / "models"), **keys
    )
    work = resolve(study, folder / "results.duckdb")
    return work.study.engine, work.study.batch, work.choices


@pytest.mark.usefixtures("models", "no_gpu")
def test_a_study_that_names_neither_takes_the_tuned_engine_and_batch(tmp_path: Path) -> None:
    assert choices(tmp_path) == ("onnxruntime", 32, ["engine: onnxruntime (no NVIDIA GPU here)"])
    tune_by_hand(tmp_path / "models")
    assert choices(tmp_path) == (
        *("openvino", 16),
        [
            "engine: openvino (by the tuning of 2026-11-28: 40 images/s of m0)",
            "batch: 16 by the tuning of 2026-11-28",
        ],
    )
    assert choices(tmp_path, engine="onnxruntime") == ("onnxruntime", 64, ["batch: 64 by the tuning of 2026-11-28"])
    assert choices(tmp_path, engine="onnxruntime", batch=8) == ("onnxruntime", 8, [])
    assert choices(tmp_path, engine="torch") == ("torch", 32, []), "it has not been measured"


@pytest.mark.usefixtures("models", "no_gpu")
def test_of_rates_that_are_close_the_usual_engine_and_the_smaller_batch_are_taken(tmp_path: Path) -> None:
    tune_by_hand(tmp_path / "models", {("onnxruntime", 16): 39.0, ("onnxruntime", 32): 39.9, ("openvino", 8): 40.0})
    assert choices(tmp_path)[:2] == ("onnxruntime", 16)
    tune_by_hand(tmp_path / "models", {("onnxruntime", 16): 30.0, ("openvino", 8): 38.0, ("openvino", 64): 40.0})
    assert choices(tmp_path)[:2] == ("openvino", 64)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device": "Another CPU, threads: 2"}, f"it is of Another CPU, threads: 2, and this is {DEVICE}"),
        (
            {"libraries": {"onnxruntime": "onnxruntime 1.0", "openvino": "openvino 1.0"}},
            f"it is of openvino 1.0, and this is {readiness('openvino').line}",
        ),
    ],
    ids=["device", "libraries"],
)
@pytest.mark.usefixtures("models", "no_gpu")
def test_a_tuning_of_something_else_is_not_taken_and_said(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    tune_by_hand(tmp_path / "models", **changes)
    engine, batch, lines = choices(tmp_path)
    assert (engine, batch) == ("onnxruntime", 32)
    assert lines[0] == (
        f"engine: onnxruntime (no NVIDIA GPU here; the tuning of 2026-11-28 prefers openvino and is not taken: {words})"
    )
    assert lines[1].startswith("batch: the tuning of 2026-11-28 is not taken: it is of ")
    assert lines[1].endswith("; `bandlens export --batch tune` measures anew")


@pytest.mark.usefixtures("models", "no_gpu")
def test_predictions_of_a_database_keep_their_engine(tmp_path: Path) -> None:
    database = tmp_path / "results.duckdb"
    keys = {"models": str(tmp_path / "models"), "threads": 2, "probes": {"lowpass": {"cutoff": 0.3}}}
    study = Study(name="tuned", checkpoints=["*"], images=[str(tmp_path / "images.set")], **keys)
    assert run_study(resolve(study, database), database).ran == 6
    tune_by_hand(tmp_path / "models")
    engine, batch, lines = choices(tmp_path)
    assert (engine, batch) == ("onnxruntime", 64)
    assert lines[0] == f"engine: onnxruntime ({database} has its predictions; `--engine openvino` runs all anew)"
    assert run_study(resolve(study, database), database).ran == 0, "the tuned batch is no part of a cell"
    openvino_study = replace(study, engine="openvino", toml="")
    assert resolve(openvino_study, database).study.engine == "openvino"
    # A tuning that is void does not change back what was run by it.
    tuned_database = tmp_path / "tuned.duckdb"
    assert run_study(resolve(openvino_study), tuned_database).ran == 6
    tune_by_hand(tmp_path / "models", device="Another CPU")
    assert resolve(study, tuned_database).study.engine == "openvino"


@pytest.mark.usefixtures("models", "no_gpu")
def test_a_damaged_tuning_is_not_taken_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "bandlens")
    file = tune_by_hand(tmp_path / "models")
    file.write_text(json.dumps({"fp32": {"rates": [{"engine": "onnxruntime", "batch": 8, "images_per_second": -1.0}]}}))
    assert choices(tmp_path)[:2] == ("onnxruntime", 32)
    assert [line.partition(":")[0] for line in caplog.messages] == [f"{file} is damaged and not taken"]


def train(folder: Path, name: str, pictures: np.ndarray) -> None:
    """A model whose description says that a head was trained on these pictures."""
    packed = make_images(folder / f"{name}.set", pictures)
    make_model(folder / "models", name, classes=4, seed=len(name))
    description = folder / "models" / f"{name}.json"
    head = {"method": "ridge", "source": f"{name}.set", "digest": packed.info.digest}
    keys = "".join(f"{key:016x}" for key in packed.keys.tolist())
    description.write_text(json.dumps(json.loads(description.read_text()) | {"head": head, "training_keys": keys}))


def make_work(folder: Path, **keys: object) -> Work:
    return resolve(Study.read(make_study(folder, **keys)))


def test_training_images_are_refused_and_can_be_left_out(tmp_path: Path) -> None:
    train(tmp_path, "train", PICTURES[5:9])
    train(tmp_path, "others", PICTURES[8:10])
    make_model(tmp_path / "models", "plain", classes=4, seed=9)
    make_images(tmp_path / "images.set", PICTURES, labels=LABELS)
    with pytest.raises(UsageError) as error:
        make_work(tmp_path)
    assert str(error.value) == (
        "the head of train was trained on 4 of the 24 images of images.set, and accuracy on these says nothing of new "
        'ones; pack others, or put overlap = "leave out" into the study'
    )
    assert make_work(tmp_path, checkpoints=["plain"]).image_sets[0].info.count == COUNT
    work = make_work(tmp_path, overlap="leave out")
    rest = [number for number in range(COUNT) if not 5 <= number < 10]
    expected = make_images(tmp_path / "rest.set", PICTURES[rest], labels=[LABELS[number] for number in rest])
    (images,) = work.image_sets
    assert images.info.digest == expected.info.digest, "it is the set that packing the others alone would have made"
    assert np.array_equal(images.take(np.arange(len(rest))), expected.take(np.arange(len(rest))))
    assert {cell.image_set.count for cell in work.cells} == {len(rest)}
    heads = {model.name: model.head for model in work.models}
    assert isinstance(heads["train"], Head)
    assert heads["plain"] is None


def test_images_that_a_limit_leaves_out_do_not_matter(tmp_path: Path) -> None:
    make_images(tmp_path / "images.set", PICTURES, labels=LABELS)
    make_model(tmp_path / "models", "plain", classes=4)
    paths = make_work(tmp_path, limit=12).image_sets[0].paths
    rest = [number for number in range(COUNT) if f"0/{number}.png" not in paths]
    train(tmp_path, "train", PICTURES[rest])
    assert make_work(tmp_path, limit=12).image_sets[0].info.count == 12
    with pytest.raises(UsageError, match="trained on 12 of the 24"):
        make_work(tmp_path)
    make_images(tmp_path / "training.set", PICTURES[rest], labels=[LABELS[number] for number in rest])
    with pytest.raises(UsageError, match=r"12 of the 12 images of training.set, and no image remains; pack others"):
        make_work(tmp_path, images=["training.set"], overlap="leave out")


def test_words_and_keys_that_are_none_are_refused(tmp_path: Path) -> None:
    train(tmp_path, "train", PICTURES[:2])
    make_images(tmp_path / "images.set", PICTURES, labels=LABELS)
    with pytest.raises(UnknownName, match=r"unknown overlap in .*study.toml 'leave'; did you mean leave out"):
        make_work(tmp_path, overlap="leave")
    description = tmp_path / "models" / "train.json"
    for keys in ("12ab", "-123456789abcdef", 5):
        description.write_text(json.dumps(json.loads(description.read_text()) | {"training_keys": keys}))
        with pytest.raises(ExportError, match="training_keys are none; export train again"):
            make_work(tmp_path)
