"""Keys of cells and crops: what they cover, and that they stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bandlens.core.records import Cell, Condition, Crop, ImageSetInfo, Model, Variant

MODEL = Model("one", "own", "small", "w", "random", "none", Path("one.onnx"), "m", 224, 1000)
IMAGES = ImageSetInfo("set", "set", "s", 1000, 224, "none", labelled=True)
CELL = Cell(
    Variant(MODEL, "onnxruntime", "fp32", MODEL.path, "m"), IMAGES, Condition("lowpass", (("cutoff", 0.5),), "c"), 3
)


@pytest.mark.parametrize(
    ("space", "key"),
    [
        ("all", "a6f75df061de9e86612051eb3a058429792c8dee44e3f02ec2c4c7d568fd7cb8"),
        ("sixteen", "4b1d82482d13376d3c833b22f1f73b43505bc210b00d95b2691a721b71175686"),
    ],
)
def test_the_key_covers_how_the_images_are_decided_and_stays_what_databases_have(space: str, key: str) -> None:
    cell = replace(CELL, image_set=replace(IMAGES, decision_space=space))
    assert cell.key == key


@pytest.mark.parametrize(
    ("crop", "key"),
    [
        (Crop(), "RGB, shorter side to 256 (bilinear, antialiased), centre crop 224"),
        (Crop(32, 36, interpolation="bicubic"), "RGB, shorter side to 36 (bicubic, antialiased), centre crop 32"),
        (Crop(32, 36, squash=True), "RGB, both sides to 36 (bilinear, antialiased), centre crop 32"),
        (Crop(32, 32, fixed=True), "RGB, 32 x 32 pixels as they are"),
    ],
)
def test_the_key_of_a_crop_stays_what_digests_of_image_sets_have(crop: Crop, key: str) -> None:
    assert crop.key == key
    assert crop.gives(f"{key}; 9 of 50000 images")


def test_a_crop_is_not_made_of_a_bare_false() -> None:
    with pytest.raises(TypeError):
        Crop(224, 256, False)  # type: ignore[misc]
