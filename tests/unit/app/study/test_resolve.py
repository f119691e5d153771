"""The batch of a study that names none, and image sets with images that a head was trained on."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import make_images, make_model, make_pictures, make_study

from bandlens.app.commands.export import export, export_own
from bandlens.app.export import Lowering
from bandlens.app.study.file import Study
from bandlens.app.study.resolve import Work, resolve
from bandlens.engine.backends.base import BATCH
from bandlens.errors import ExportError, UnknownName, UsageError
from bandlens.records import Head, Model

COUNT = 24
PICTURES = make_pictures(COUNT)
LABELS = [number % 4 for number in range(COUNT)]


@pytest.fixture
def models(tmp_path: Path) -> list[Model]:
    make_images(tmp_path / "images.set", make_pictures(2))
    return [make_model(tmp_path / "models", f"m{seed}", seed=seed) for seed in range(3)]


def batch_of(folder: Path, **keys: Any) -> int:
    study = Study(
        name="batched", checkpoints=["*"], images=[str(folder / "images.set")], models=str(folder / "models"), **keys
    )
    return resolve(study).study.batch


def describe_plan(model: Model, batch: int, **changed: Any) -> Path:
    """The description of a TensorRT plan, as it lies beside one."""
    identity = {
        "name": model.name,
        "precision": "fp32",
        "library": "tensorrt 10.16.1.11",
        "gpu": "H100",
        "batch": batch,
    }
    identity |= {"refit": False, "settings": "tiling", "trt_plan_version": 2, "built_from": model.sha256} | changed
    file = model.path.parent / "plans" / f"{identity['name']}.fp32.b{batch}.0123abcd.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(identity))
    return file


@pytest.mark.parametrize(
    ("engine", "batch"),
    [("onnxruntime", 32), ("torch", 32), ("onnxruntime-cuda", 256), ("torch-cuda", 256), ("tensorrt", 256)],
)
def test_a_gpu_takes_more_at_once_than_a_cpu(models: list[Model], tmp_path: Path, engine: str, batch: int) -> None:
    assert batch_of(tmp_path, engine=engine) == batch
    assert batch_of(tmp_path, engine=engine, batch=7) == 7


def test_exported_plans_are_of_the_batch_that_studies_take() -> None:
    defaults = {inspect.signature(command).parameters["batch"].default for command in (export, export_own)}
    assert defaults == {Lowering().batch} == {BATCH["cupy"]}


def test_the_batch_is_that_of_the_plans_that_most_models_have(models: list[Model], tmp_path: Path) -> None:
    for model in models[:2]:
        describe_plan(model, 64)
    describe_plan(models[0], 128)
    assert batch_of(tmp_path, engine="tensorrt") == 64
    describe_plan(models[1], 128)
    assert batch_of(tmp_path, engine="tensorrt") == 128, "the larger of two"
    assert batch_of(tmp_path, engine="tensorrt", batch=8) == 8
    assert batch_of(tmp_path, engine="torch-cuda") == 256, "it has no plans"


def test_a_refittable_plan_counts_for_every_model(models: list[Model], tmp_path: Path) -> None:
    describe_plan(models[0], 64)
    describe_plan(models[0], 96, name="refit", refit=True, built_from="structure")
    assert batch_of(tmp_path, engine="tensorrt") == 96


@pytest.mark.parametrize("changed", [{"built_from": "0" * 64}, {"precision": "fp16"}], ids=str)
def test_plans_of_something_else_do_not_count(models: list[Model], tmp_path: Path, changed: dict[str, Any]) -> None:
    describe_plan(models[0], 64, **changed)
    assert batch_of(tmp_path, engine="tensorrt") == 256


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": "m0"}', "[" * 100_000])
def test_a_damaged_description_does_not_count(models: list[Model], tmp_path: Path, content: str) -> None:
    describe_plan(models[0], 64).write_text(content)
    assert batch_of(tmp_path, engine="tensorrt") == 256


def train(folder: Path, name: str, pictures: np.ndarray) -> None:
    """A model whose description says that a head was trained on these pictures."""
    packed = make_images(folder / f"{name}.set", pictures)
    make_model(folder / "models", name, classes=4, seed=len(name))
    description = folder / "models" / f"{name}.json"
    head = {"method": "ridge", "source": f"{name}.set", "digest": packed.info.digest}
    keys = "".join(f"{key:016x}" for key in packed.keys.tolist())
    description.write_text(json.dumps(json.loads(description.read_text()) | {"head": head, "training_keys": keys}))


def resolved(folder: Path, **keys: object) -> Work:
    return resolve(Study.read(make_study(folder, **keys)))


def test_training_images_are_refused_and_can_be_left_out(tmp_path: Path) -> None:
    train(tmp_path, "train", PICTURES[5:9])
    train(tmp_path, "others", PICTURES[8:10])
    make_model(tmp_path / "models", "plain", classes=4, seed=9)
    make_images(tmp_path / "images.set", PICTURES, labels=LABELS)
    with pytest.raises(UsageError) as caught:
        resolved(tmp_path)
    assert str(caught.value) == (
        "the head of train was trained on 4 of the 24 images of images.set, and accuracy on these says nothing of new "
        'ones; pack others, or put overlap = "leave out" into the study'
    )
    assert resolved(tmp_path, checkpoints=["plain"]).image_sets[0].info.count == COUNT
    work = resolved(tmp_path, overlap="leave out")
    kept = [number for number in range(COUNT) if not 5 <= number < 10]
    expected = make_images(tmp_path / "kept.set", PICTURES[kept], labels=[LABELS[number] for number in kept])
    (images,) = work.image_sets
    assert images.info.digest == expected.info.digest, "it is the set that packing the others alone would have made"
    assert np.array_equal(images.take(np.arange(len(kept))), expected.take(np.arange(len(kept))))
    assert {cell.image_set.count for cell in work.cells} == {len(kept)}
    heads = {model.name: model.head for model in work.models}
    assert isinstance(heads["train"], Head)
    assert heads["plain"] is None


def test_a_set_of_training_images_alone_is_refused(tmp_path: Path) -> None:
    train(tmp_path, "train", PICTURES)
    make_images(tmp_path / "images.set", PICTURES[:9], labels=LABELS[:9])
    with pytest.raises(
        UsageError, match=r"trained on 9 of the 9 images of images.set, and no image remains; pack others"
    ):
        resolved(tmp_path, overlap="leave out")


def test_images_that_a_limit_leaves_out_do_not_matter(tmp_path: Path) -> None:
    make_images(tmp_path / "images.set", PICTURES, labels=LABELS)
    make_model(tmp_path / "models", "plain", classes=4)
    drawn = resolved(tmp_path, limit=12).image_sets[0].paths
    undrawn = [number for number in range(COUNT) if f"0/{number}.png" not in drawn]
    train(tmp_path, "train", PICTURES[undrawn])
    assert resolved(tmp_path, limit=12).image_sets[0].info.count == 12
    with pytest.raises(UsageError, match="trained on 12 of the 24"):
        resolved(tmp_path)


def test_a_study_of_every_model_says_where_it_looked_and_how_to_name_another_folder(tmp_path: Path) -> None:
    file = make_study(tmp_path, checkpoints=["*"])
    make_images(tmp_path / "images.set", make_pictures(2))
    with pytest.raises(UsageError, match=f"no models in {tmp_path / 'models'}, .* name their folder in the study"):
        resolve(Study.read(file))


def test_words_and_keys_that_are_none_are_refused(tmp_path: Path) -> None:
    train(tmp_path, "train", PICTURES[:2])
    make_images(tmp_path / "images.set", PICTURES, labels=LABELS)
    with pytest.raises(UnknownName, match=r"unknown overlap in .*study.toml 'leave'; did you mean leave out"):
        resolved(tmp_path, overlap="leave")
    description = tmp_path / "models" / "train.json"
    for keys in ("12ab", "-123456789abcdef", ["a"], 5, None):
        description.write_text(json.dumps(json.loads(description.read_text()) | {"training_keys": keys}))
        with pytest.raises(ExportError, match="training_keys are none; export train again"):
            resolved(tmp_path)
