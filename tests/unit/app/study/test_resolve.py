"""The batch of a study that names none."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from small import make_images, make_model, make_pictures

from bandlens.app.commands.export import export, export_own
from bandlens.app.export import Lowering
from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve
from bandlens.engine.backends.base import BATCH
from bandlens.records import Model


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
    identity |= {"refit": False, "trt_plan_version": 2, "built_from": model.sha256} | changed
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
