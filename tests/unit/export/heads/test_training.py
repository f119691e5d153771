"""Features of a training set, and what is refused before they are computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from small import make_model, make_pictures

from bandlens.core.errors import ExportError, UnknownName, UsageError
from bandlens.core.records import Crop
from bandlens.export.heads.training import TrainedHead, TrainingImages, compute_features
from bandlens.export.model_files import verify_model
from bandlens.export.pipeline import HeadRequest, headed_name

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


@pytest.mark.parametrize(("name", "ending"), [("train.set", "train"), ("photos.2024", "photos.2024")])
def test_a_model_with_a_head_is_called_by_the_whole_name_of_its_set(
    images: TrainingImages, name: str, ending: str
) -> None:
    head = TrainedHead(replace(images, name=name))
    assert headed_name("net", HeadRequest(head)) == f"net+{ending}"


def test_features_are_those_of_a_bare_session(images: TrainingImages, content: bytes) -> None:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    pixels = make_pictures(COUNT, SIZE).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    (expected,) = session.run(None, {"images": pixels})
    np.testing.assert_allclose(compute_features(content, images), expected, atol=1e-4)


def test_a_head_is_recorded_with_its_images(images: TrainingImages, content: bytes) -> None:
    made = TrainedHead(images).make(content, 9, "mine")
    assert (made.record.method, made.record.source, made.record.digest) == ("ridge", "train", "d" * 64)
    assert made.record.images == COUNT
    assert made.keys.tolist() == images.keys.tolist()


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
        ({"class_names": ["a", "b"]}, "train has 3 classes, and 2 names were given"),
        ({"class_names": ["a", "b", "a"]}, "several classes of train are called a; give each its own name"),
    ],
)
def test_images_that_no_head_can_be_trained_on_are_refused(
    images: TrainingImages, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        TrainedHead(replace(images, **changes))
    assert message in str(caught.value)


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
