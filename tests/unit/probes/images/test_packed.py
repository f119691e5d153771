"""Pixels of a packed set: what is read is what was packed, or one line names the image."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from small import make_images, make_pictures

from bandlens.core.errors import ImageSetError
from bandlens.probes.images.image_set import ImageSet, open_image_set

COUNT, SIZE = 6, 32
ROWS = np.arange(COUNT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_images(tmp_path / "a.set", make_pictures(COUNT, SIZE)).folder


def write_value(folder: Path, row: int, value: int) -> None:
    """Write one value into the middle of an image in pixels.npy."""
    with (folder / "pixels.npy").open("r+b") as file:
        file.seek(-(COUNT - row) * 3 * SIZE**2 + 17, os.SEEK_END)
        file.write(bytes([value]))


def first_value(images: ImageSet, row: int) -> int:
    return int(images.pixels[row].ravel()[17])


def test_changed_pixels_are_refused_when_they_are_first_read(folder: Path) -> None:
    images = open_image_set(folder)
    write_value(folder, 4, 255 - first_value(images, 4))
    images = open_image_set(folder)
    assert np.array_equal(images.take(ROWS[:4]), images.pixels[:4])
    damaged = rf"^{folder}: image 4 \('.+'\) is damaged; pack the images again$"
    for rows in (ROWS, np.array([5, 4])):
        with pytest.raises(ImageSetError, match=damaged):
            images.take(rows)
    assert np.array_equal(images.take(np.array([5, 0])), images.pixels[[5, 0]])


def test_images_are_read_again_when_the_file_has_changed(folder: Path) -> None:
    images = open_image_set(folder)
    pixels, value = images.take(ROWS), first_value(images, 2)
    write_value(folder, 2, 255 - value)
    assert np.array_equal(images.take(ROWS[:2]), pixels[:2])
    with pytest.raises(ImageSetError, match=r"image 2 \(.*\) is damaged; pack the images again"):
        images.take(ROWS)
    write_value(folder, 2, value)
    assert np.array_equal(images.take(ROWS), pixels)


def test_a_file_that_is_cut_off_while_it_is_open_is_one_line(folder: Path) -> None:
    images = open_image_set(folder)
    pixels = images.take(ROWS)
    os.truncate(folder / "pixels.npy", (folder / "pixels.npy").stat().st_size - 3 * SIZE**2 - 1)
    assert np.array_equal(images.take(ROWS[:4]), pixels[:4])
    for _ in range(2):
        with pytest.raises(ImageSetError, match=r"image 4 \(.*\) is cut off in pixels\.npy; pack the images again"):
            images.take(ROWS)
    with pytest.raises(ImageSetError, match=r"pixels\.npy: damaged or missing \(.*\); pack the images again"):
        open_image_set(folder)


def test_rows_may_come_twice_and_in_any_order(folder: Path) -> None:
    images = open_image_set(folder)
    rows = np.array([5, 1, 1, 0, 5])
    out = np.zeros((5, 3, SIZE, SIZE), np.uint8)
    for _ in range(2):
        assert images.take(rows, out) is out
        assert np.array_equal(out, images.pixels[rows])
        out[:] = 0
    os.utime(folder / "pixels.npy")
    assert np.array_equal(images.take(rows), images.pixels[rows])
