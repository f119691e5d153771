"""Images that a head was trained on are recognized in the image sets of a study."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small import make_images, make_model, make_pictures, make_study

from bandlens.app.study.file import Study
from bandlens.app.study.resolve import Work, resolve
from bandlens.errors import ExportError, UnknownName, UsageError
from bandlens.records import Head

COUNT = 24
PICTURES = make_pictures(COUNT)
LABELS = [number % 4 for number in range(COUNT)]


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


def test_words_and_keys_that_are_none_are_refused(tmp_path: Path) -> None:
    train(tmp_path, "train", PICTURES[:2])
    make_images(tmp_path / "images.set", PICTURES, labels=LABELS)
    with pytest.raises(UnknownName, match=r"unknown overlap in .*study.toml 'leave'; did you mean leave out"):
        resolved(tmp_path, overlap="leave")
    description = tmp_path / "models" / "train.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {"training_keys": "12ab"}))
    with pytest.raises(ExportError, match="training_keys are none; export train again"):
        resolved(tmp_path)
