"""Pictures in memory: each form gives the same pixels and labels, and what is none is one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from small import make_pictures

from bandlens.core.errors import UsageError
from bandlens.probes.images.in_memory import pictures_of

PIXELS = make_pictures(7, 16)
LABELS = [0, 1, 1, 0, 1, 1, 1]


class Dataset:
    """Pairs as a dataset of torch gives them: by index, without being iterable by declaration."""

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return PIXELS[row].transpose(2, 0, 1).astype(np.float32) / 255, LABELS[row]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (PIXELS, LABELS),
        (PIXELS.transpose(0, 3, 1, 2), LABELS),
        (PIXELS / 255, LABELS),
        ([*map(Image.fromarray, PIXELS)], LABELS),
        ([(picture, label) for picture, label in zip(PIXELS, LABELS, strict=True)], None),
        (Dataset(), None),
        (Dataset(), LABELS),
    ],
)
def test_every_form_gives_the_same(images: Any, labels: list[int] | None) -> None:
    pictures, classes, names = pictures_of(images, labels, 100)
    rows = dict(pictures)
    assert sorted(rows) == [f"{row}.png" for row in range(7)]
    assert all(np.array_equal(pixels, PIXELS[int(path[0])]) for path, pixels in rows.items())
    assert (classes, names) == ([LABELS[int(path[0])] for path in rows], None)


def test_grey_has_three_equal_colours() -> None:
    grey = [*PIXELS[..., :1], *PIXELS[:, None, ..., 0]]
    assert all((pixels == grey[int(path[:2]) % 7]).all() for path, pixels in pictures_of(grey, None, 99)[0])


def test_names_of_classes_are_those_of_a_dataset_that_number_its_labels() -> None:
    named, dataset = {"classes": ["ant", "bee"]}, Dataset()
    for attributes, names in (
        ({"classes": [("tench", "Tinca tinca")]}, None),
        ({"classes": [("tench", "Tinca tinca")], "wnids": ["n01440764"]}, ["n01440764"]),
        (named | {"wnids": None}, ["ant", "bee"]),
        (named | {"target_transform": str}, None),
    ):
        vars(dataset).update(attributes)
        part = Dataset()
        part.dataset = dataset  # type: ignore[attr-defined]
        assert [pictures_of(images, None, 9)[2] for images in (dataset, part)] == [names, names]
    assert pictures_of(dataset, "none", 9)[1:] == (None, None)


def test_a_limit_takes_the_first_of_a_larger_one() -> None:
    (few, *_), (every, *_) = pictures_of(PIXELS, None, 3), pictures_of(PIXELS, None, 7)
    assert [path for path, _ in few] == [path for path, _ in every][:3]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([], None, "there are no images; give at least two"),
        (object(), None, "images are of object; give a folder, an archive, a packed set, an array"),
        (
            PIXELS,
            ["cat"] * 7,
            "labels are numbers of classes, from 0 to 65535, not 'cat'; number them as the model does",
        ),
        ([(picture, -1) for picture in PIXELS], None, "labels are numbers of classes, from 0 to 65535, not -1"),
        (["a.png"], None, r"image 0 is of str; give pictures of PIL or arrays, or the path of a folder"),
        (PIXELS, [0], "there must be 7 labels, one for each image, not 1"),
        (PIXELS[:, :, :, 0], None, r"image \d has shape \(16, 16\); give RGB.*; of one image, give images\[None\]"),
        (
            PIXELS / 127 - 1,
            None,
            r"image \d has numbers from -.*; give images in \[0, 1\], before they are normalized",
        ),
        (PIXELS.astype(np.int32), None, r"image \d is of int32; give images of uint8, or in \[0, 1\]"),
    ],
)
def test_what_is_no_picture_is_one_line(images: Any, labels: list[int] | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        list(pictures_of(images, labels, 100)[0])
