"""Features of a training set, what is refused before they are computed, and class embeddings as heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.numpy import save_file
from small import make_model, make_pictures
from torch.nn import functional

from bandlens.core.errors import ExportError, UnknownName, UsageError
from bandlens.core.records import Crop
from bandlens.export.assembly import HeadRequest
from bandlens.export.heads.recipes import TrainedHead, TrainingImages, compute_features, prompts_of_array, read_prompts
from bandlens.export.model_files import verify_model
from bandlens.export.pipeline import headed_name

COUNT, SIZE = 70, 64


@pytest.fixture(scope="module")
def images() -> TrainingImages:
    pixels = make_pictures(COUNT, SIZE).transpose(0, 3, 1, 2)
    labels = (np.arange(COUNT) % 3).astype(np.int32)
    clusters, keys = np.arange(COUNT, dtype=np.int32), np.arange(COUNT, dtype=np.uint64)
    return TrainingImages(
        "train", "d" * 64, SIZE, Crop(SIZE, SIZE).key, labels, clusters, keys, None, lambda rows: pixels[rows]
    )


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    return verify_model(make_model(tmp_path, size=SIZE, classes=9))


def test_a_model_with_a_head_is_called_by_the_whole_name_of_its_set(images: TrainingImages) -> None:
    for name, ending in (("train.set", "train"), ("photos.2024", "photos.2024")):
        assert headed_name("net", HeadRequest(TrainedHead(replace(images, name=name)))) == f"net+{ending}"


def test_features_are_those_of_a_bare_session(images: TrainingImages, content: bytes) -> None:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    pixels = make_pictures(COUNT, SIZE).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    (expected,) = session.run(None, {"images": pixels})
    np.testing.assert_allclose(compute_features(content, images), expected, atol=1e-4)


def test_a_head_is_recorded_with_its_images(images: TrainingImages, content: bytes) -> None:
    head = TrainedHead(images).make(content, 9, "mine")
    assert (head.record.method, head.record.source, head.record.digest) == ("ridge", "train", "d" * 64)
    assert head.record.images == COUNT
    assert head.keys.tolist() == images.keys.tolist()


def test_features_that_are_not_finite_are_refused(images: TrainingImages, tmp_path: Path) -> None:
    pixels = make_pictures(COUNT, SIZE).transpose(0, 3, 1, 2).copy()
    pixels[5] = 0
    dark = verify_model(make_model(tmp_path, size=SIZE, classes=9, darkest=0.05))
    with pytest.raises(ExportError, match=r"mine gives features that are NaN for 1 of 70 images \(numbers 5, from 0\)"):
        TrainedHead(replace(images, take=lambda rows: pixels[rows])).make(dark, 9, "mine")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.zeros(COUNT, np.int32)}, "all images of train are of one class"),
        ({"labels": np.arange(COUNT, dtype=np.int32) * 2}, "has 70 images of 139 classes; give it more"),
        ({"labels": np.arange(COUNT, dtype=np.int32) % 3 * 2}, "no image of 2 of 5 classes, the first number 1; pack"),
        ({"clusters": np.zeros(COUNT, np.int32)}, "all images of train are one cluster"),
        ({"class_names": ["a", "b", "a"]}, "several classes of train are called a; give each its own name"),
    ],
)
def test_images_that_no_head_can_be_trained_on_are_refused(
    images: TrainingImages, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as error:
        TrainedHead(replace(images, **changes))
    assert message in str(error.value)


def test_methods_and_images_have_to_fit(images: TrainingImages) -> None:
    with pytest.raises(UnknownName, match="unknown method of a head 'rigde'; did you mean ridge"):
        TrainedHead(images, "rigde")
    head = TrainedHead(images)
    head.check_network("mine", SIZE, None)
    with pytest.raises(UsageError, match=r"is not what mine takes; pack it with --size 96$"):
        head.check_network("mine", 96, None)
    crop = Crop(SIZE, 80, interpolation="bicubic")
    with pytest.raises(UsageError, match="pack it with --size 64 --resize 80 --interpolation bicubic"):
        TrainedHead(replace(images, preprocessing=Crop(SIZE, 80).key)).check_network("mine", SIZE, crop)


EMBEDDINGS = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)


@pytest.mark.parametrize("scale", [None, 37.0])
def test_logits_are_the_scaled_cosines_of_torch(scale: float | None, tmp_path: Path) -> None:
    file = tmp_path / ("prompts.npy" if scale is None else "prompts.safetensors")
    if scale is None:
        np.save(file, EMBEDDINGS)
    else:
        save_file({"text": EMBEDDINGS, "logit_scale": np.array(scale, np.float32)}, file)
    head = read_prompts(file).make(b"", 16, "tower")
    features = torch.randn(7, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (
        (scale or 100) * functional.normalize(features) @ functional.normalize(torch.tensor(EMBEDDINGS)).double().T
    )
    np.testing.assert_allclose(head.linear.logits(features.numpy()), expected.numpy(), rtol=1e-5, atol=1e-5)
    assert (head.record.method, head.record.source, head.record.accuracy) == ("prompts", file.name, None)
    assert not len(head.keys)


@pytest.mark.parametrize(
    ("array", "names", "message"),
    [
        (EMBEDDINGS[0], None, r"holds \(16,\) float32; class embeddings are \(classes, d\)"),
        (np.where(np.arange(5)[:, None] == 3, np.nan, EMBEDDINGS), None, "embedding of class 3"),
        (EMBEDDINGS, ["a", "b"], "5 classes, and --classes names 2"),
        (EMBEDDINGS, ["crane", "bee", "crane", "ant", "elk"], "several classes of memory are called crane; give each"),
    ],
)
def test_arrays_that_are_no_embeddings_are_refused(array: Any, names: list[str] | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prompts_of_array(array, names)


def test_embeddings_of_another_width_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tower gives embeddings of 512 numbers, and those of memory have 16; embed"):
        prompts_of_array(EMBEDDINGS).make(b"", 512, "tower")


def test_files_of_something_else_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("text")
    (tmp_path / "text.safetensors").write_text("text")
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], object), allow_pickle=True)
    save_file({"a": EMBEDDINGS, "b": EMBEDDINGS}, tmp_path / "two.safetensors")
    save_file({"a": EMBEDDINGS, "logit_scale": np.array(-2, np.float32)}, tmp_path / "scale.safetensors")
    for name in ("text.npy", "text.safetensors", "missing.npy", "pickle.npy", "two.safetensors"):
        with pytest.raises(UsageError, match="holds no class embeddings") as error:
            read_prompts(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="logit_scale is -2; give the factor of the cosines, above 0"):
        read_prompts(tmp_path / "scale.safetensors")
