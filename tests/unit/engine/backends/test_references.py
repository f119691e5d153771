"""Kept logits are those of ONNX Runtime for that file and these images, and a damaged file is as good as none."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small import make_model, make_pictures

from bandlens.engine.backends import references
from bandlens.engine.backends.references import kept_logits
from bandlens.export.model_files import OnnxFile
from bandlens.export.onnx.parity import onnx_logits

IMAGES = make_pictures(4, 32).transpose(0, 3, 1, 2) / np.float32(255)
Kept = Callable[..., NDArray[np.float32]]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each call of ONNX Runtime."""
    calls = list[int]()

    def counted(content: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
        calls.append(len(images))
        return onnx_logits(content, images)

    monkeypatch.setattr(references, "onnx_logits", counted)
    return calls


def kept(folder: Path, images: NDArray[np.float32] = IMAGES, seed: int = 0) -> NDArray[np.float32]:
    model = make_model(folder, size=32, seed=seed)
    logits = kept_logits(OnnxFile("fp32", model.path, model.sha256, folder), model.path.read_bytes(), images)
    np.testing.assert_array_equal(logits, onnx_logits(model.path.read_bytes(), images))
    return logits


def test_they_are_computed_once_for_a_file_and_images(tmp_path: Path, computed: list[int]) -> None:
    for _ in range(3):
        kept(tmp_path)
    assert computed == [4]
    kept(tmp_path, IMAGES[:2])
    kept(tmp_path, np.ascontiguousarray(IMAGES[::-1]))
    kept(tmp_path, seed=1)
    assert computed == [4, 2, 4, 4]
    kept(tmp_path)
    assert computed == [4, 2, 4, 4], "the first are still there"


def test_another_version_or_processor_computes_its_own(
    tmp_path: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(tmp_path)
    monkeypatch.setattr(references, "processor_name", lambda: "another")
    kept(tmp_path)
    assert computed == [4, 4]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "folder"])
def test_a_file_that_is_damaged_is_computed_again(tmp_path: Path, computed: list[int], damage: str) -> None:
    kept(tmp_path)
    [file] = (tmp_path / "logits").iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    if damage == "folder":
        file.mkdir()
    else:
        file.write_bytes({"flip": bytes(content), "cut": bytes(content[:-8]), "empty": b""}[damage])
    kept(tmp_path)
    kept(tmp_path)
    assert computed == ([4, 4, 4] if damage == "folder" else [4, 4]), "a folder in its place cannot be overwritten"


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path, computed: list[int]) -> None:
    (tmp_path / "logits").touch()
    for _ in range(2):
        kept(tmp_path)
    assert computed == [4, 4]


def test_several_that_write_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    model = make_model(tmp_path, size=32)
    onnx_file, content = OnnxFile("fp32", model.path, model.sha256, tmp_path), model.path.read_bytes()
    with ThreadPoolExecutor(8) as pool:
        several = list(pool.map(lambda _: kept_logits(onnx_file, content, IMAGES), range(8)))
    for logits in several:
        np.testing.assert_array_equal(logits, onnx_logits(content, IMAGES))
    [file] = (tmp_path / "logits").iterdir()
    assert references._read(file) is not None
