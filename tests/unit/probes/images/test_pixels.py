"""Pixels of a set: decoded on demand or packed, what is read is what the set was made of, or one line says so."""

from __future__ import annotations

import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmark_sets import Miniature, make_benchmark
from PIL import Image
from small import make_images, make_model, make_pictures

from bandlens.core.errors import ImageSetError, UsageError
from bandlens.core.records import Cell, Finished
from bandlens.engine.backends.base import variant_of
from bandlens.engine.task_context import Workbench
from bandlens.engine.tasks import Task
from bandlens.probes.grid import make_grid
from bandlens.probes.images.image_set import ImageSet, check_image_set, open_image_set
from bandlens.probes.images.pack import pack
from bandlens.probes.images.pack_options import How
from bandlens.probes.images.pixels import Stream
from bandlens.probes.images.storage import read_index, write_index

SIDE = 32
STREAM = How(stream=True)


@pytest.fixture
def miniature(tmp_path: Path) -> Miniature:
    return make_benchmark("imagenet", tmp_path / "in", per_class=4, size=SIDE)


@pytest.fixture
def streamed(miniature: Miniature, tmp_path: Path) -> ImageSet:
    return miniature.pack(tmp_path / "streamed", how=STREAM)[0]


def test_a_streamed_set_is_the_packed_one(miniature: Miniature, streamed: ImageSet, tmp_path: Path) -> None:
    [packed] = miniature.pack(tmp_path / "packed")
    images = open_image_set(streamed.folder)
    assert images.info.digest == packed.info.digest
    assert images.shape == packed.shape == packed.pixels.shape
    assert images.nbytes == packed.nbytes == packed.pixels.nbytes
    assert (images.streamed, packed.streamed) == (True, False)
    assert sorted(file.name for file in images.folder.iterdir()) == ["index.parquet", "set.json"]
    assert json.loads((images.folder / "set.json").read_text())["format"] == 2
    for rows in (range(12), [5], [3, 1, 2], [0, 11, 11, 11, 0]):
        index = np.array(rows, np.int64)
        assert np.array_equal(images.take(index), packed.take(index))
        out = np.zeros((len(index), 3, SIDE, SIDE), np.uint8)
        assert images.take(index, out) is out
        assert np.array_equal(out, packed.take(index))
    with pytest.raises(ImageSetError, match=r"streamed: streams its images and has no pixels\.npy; pack it without"):
        _ = images.pixels
    check_image_set(images.folder)


def test_one_pass_reads_each_file_once_for_all_models(
    streamed: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of three batches is padded."""
    rows, read = list[int](), Stream.read
    monkeypatch.setattr(Stream, "read", lambda stream, row: (rows.append(row), read(stream, row))[1])
    models = [make_model(tmp_path / "models", name, size=SIDE, seed=seed) for seed, name in enumerate("abc")]
    grid = make_grid({}, tmp_path)
    cells = tuple(Cell(variant_of(model, "onnxruntime", "fp32"), streamed.info, grid.clean[0], 0) for model in models)
    with Workbench(grid, 5, 1, lambda _: streamed) as bench:
        outcomes = [outcome for part in bench.compute(Task(cells)) for outcome in part]
    assert [type(outcome) for outcome in outcomes] == [Finished] * 3
    assert sorted(rows) == list(range(12))


def test_a_file_that_changed_is_named(streamed: ImageSet, miniature: Miniature) -> None:
    file = miniature.source / streamed.paths[3]
    content = file.read_bytes()
    Image.new("RGB", (48, 48), "red").save(file)
    rows = np.arange(12)
    with pytest.raises(ImageSetError, match=rf"{file}: its pixels are not those that were indexed; restore the file"):
        streamed.take(rows)
    file.write_bytes(content[:-200])
    with pytest.raises(ImageSetError, match=rf"{file}: .*; restore the file that was indexed, or pack the images"):
        streamed.take(rows)
    file.unlink()
    with pytest.raises(ImageSetError, match=rf"{file}: neither a file nor a link to one"):
        streamed.take(rows)
    streamed.take(np.array([0, 1, 2]))
    file.write_bytes(content)
    streamed.take(rows)


def test_images_that_went_away(streamed: ImageSet, miniature: Miniature, tmp_path: Path) -> None:
    miniature.source.rename(tmp_path / "elsewhere")
    with pytest.raises(ImageSetError, match="in: no such folder, and its images were not packed; bring it back or"):
        open_image_set(streamed.folder)


def test_indexes_that_cannot_be(miniature: Miniature, streamed: ImageSet, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        archive.add(miniature.source, "in")
    with pytest.raises(UsageError, match=r"in\.tar: an archive cannot be streamed; extract it, and give the folder"):
        pack(tmp_path / "in.tar", tmp_path / "out", how=How(stream=True))
    (miniature.source / streamed.paths[0]).write_text("not an image")
    with pytest.raises(ImageSetError, match="is broken"):
        pack(miniature.source, tmp_path / "out", how=How(stream=True))
    assert not (tmp_path / "out").exists()
    about = streamed.folder / "set.json"
    about.write_text(about.read_text().replace('"crop"', '"cut"'))
    with pytest.raises(ImageSetError, match=r"set\.json: damaged \(KeyError\('crop'\)\)"):
        open_image_set(streamed.folder)


# Packed pixels

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


@pytest.mark.parametrize("path", ["../private.png", "/private.png", "n01440764/../../private.png"])
def test_a_streamed_set_names_pictures_below_its_source_alone(path: str, streamed: ImageSet) -> None:
    index = read_index(streamed.folder, 12)
    write_index(streamed.folder, replace(index, paths=[path, *index.paths[1:]]))
    with pytest.raises(ImageSetError, match=r"lies outside of .*; pack the images again"):
        open_image_set(streamed.folder)


def test_a_linked_index_is_refused(streamed: ImageSet, tmp_path: Path) -> None:
    """It may be any file of the user's, whose content would go into a database."""
    (streamed.folder / "index.parquet").rename(tmp_path / "index.parquet")
    (streamed.folder / "index.parquet").symlink_to(tmp_path / "index.parquet")
    with pytest.raises(ImageSetError, match=r"index\.parquet: .*it is a link"):
        open_image_set(streamed.folder)
