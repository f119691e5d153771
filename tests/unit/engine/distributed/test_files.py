"""The files of the driver, as the process beside it hands them out."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import make_images, make_model, make_pictures

from bandlens.engine.backends.base import variant_of
from bandlens.engine.distributed.files import DriverFiles, kept_files


def test_files_are_the_drivers_whatever_the_current_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    variant = variant_of(make_model(Path("models")), "onnxruntime", "fp32")
    images = make_images(Path("images.set"), make_pictures(2))
    files = DriverFiles(kept_files([images], [variant], []))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for digest, path in ((variant.sha256, "models/one.onnx"), (images.packed, "images.set/pixels.npy")):
        lengths = {length for _, length in files.listing(digest)}
        assert (tmp_path / path).stat().st_size in lengths
