"""Image sets give exports the names of classes for a head, and the images that int8 is calibrated on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small import make_images, make_pictures, pack_folders

from bandlens.app.api.export import Backbone, _calibration
from bandlens.core.errors import UsageError


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
