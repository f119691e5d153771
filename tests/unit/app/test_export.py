"""Image sets give exports the names of classes for a head, and the images that int8 is calibrated on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from small import make_images, make_model, make_pictures, pack_folders

from bandlens.app.export import Backbone, Lowering, _calibration, lower
from bandlens.core.errors import ExportError, UsageError
from bandlens.export.model_files import save_model


def test_a_list_without_names_is_not_taken_for_the_names_of_the_set(tmp_path: Path) -> None:
    images = pack_folders(tmp_path, ["ant", "bee"])
    with pytest.raises(UsageError, match=r"images.set has 2 classes, and 0 names were given; give each one"):
        Backbone("network.pth", images.folder, class_names=[]).request()
    assert Backbone("network.pth", images.folder).request().head.images.class_names == ["ant", "bee"]


def test_a_calibration_set_that_was_packed_anew_is_read_anew(tmp_path: Path) -> None:
    digests = []
    for seed in range(2):
        images = make_images(tmp_path / f"{seed}.set", make_pictures(2, seed=seed))
        images.folder.replace(tmp_path / "images.set")
        calibration = _calibration(tmp_path / "images.set", 128)
        assert calibration.digest == images.info.digest
        shutil.rmtree(tmp_path / "images.set")
        digests.append(calibration.digest)
    assert digests[0] != digests[1]


def test_a_finished_file_that_is_int8_needs_no_images(tmp_path: Path) -> None:
    model, int8 = make_model(tmp_path, "one"), Lowering(["int8"])
    with pytest.raises(ExportError, match=r"one has no int8 file in .*; run: .* --calibration IMAGE_SET"):
        lower(model, int8)
    save_model(replace(model, precision="int8"), model.path.read_bytes(), {})
    [row] = lower(replace(model, precision="int8"), int8)
    assert (row["precision"], row["file"]) == ("int8", str(model.path))
