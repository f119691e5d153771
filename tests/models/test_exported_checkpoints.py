"""Export of real networks by the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from safetensors.torch import save_file
from small import failure, invoke, make_images, make_model, make_pictures
from torchvision.models import resnet50

from bandlens.app.cli.console import listen
from bandlens.export.model_files import load_model

FP16 = ("--image-size", 64, "--precision", "fp16", "--format", "json")


@pytest.fixture(scope="module")
def fp16(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Result]]:
    """The home of a checkpoint of the 48 exported to fp16, and what the command answered."""
    home = tmp_path_factory.mktemp("fp16")
    weights = home / "weights"
    weights.mkdir()
    save_file(resnet50().state_dict(), weights / "tv_resnet50.safetensors")
    listen()  # the fixture that does it for each test comes after this one
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BANDLENS_HOME", str(home))
        result = invoke("export", "tv_resnet50", *FP16)
        (weights / "tv_resnet50.safetensors").unlink()  # nothing is left to export from
        yield home, result
    for path in (home / "models").rglob("*.onnx"):
        path.unlink()


def test_precisions_of_a_model_that_is_exported(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    model = make_model(folder, "mine", size=64)
    images = make_images(tmp_path / "images.set", make_pictures(310, size=64))
    command = ("export", "mine", "--out", folder, "--format", "json")
    assert "--calibration IMAGE_SET" in str(failure(invoke(*command, "--precision", "int8")))
    assert "unknown precision 'int9'" in str(failure(invoke(*command, "--precision", "fp16,int9")))
    answer = invoke(*command, "--precision", "fp16,int8", "--precision", "fp32", "--calibration", images.folder)
    rows = {row["precision"]: row for row in json.loads(answer.stdout)}
    assert list(rows) == ["fp16", "int8", "fp32"]
    assert {row["name"] for row in rows.values()} == {"mine"}
    assert rows["fp32"]["sha256"] == model.sha256[:16]
    assert (rows["fp16"]["images"], rows["int8"]["images"]) == (300, 300)
    assert rows["int8"]["top1_disagreements"] >= rows["fp16"]["top1_disagreements"]
    assert Path(rows["int8"]["file"]) == folder / "int8" / "mine.onnx"
    about = json.loads((folder / "int8" / "mine.json").read_text())
    assert about["calibration"] == {"name": "images.set", "digest": images.info.digest, "images": 300}
    assert about["versions"].keys() == {"onnx", "onnxruntime", "nncf"}
    (row,) = json.loads(invoke(*command, "--precision", "int8").stdout)
    assert row == rows["int8"]
    large_images = make_images(tmp_path / "wrong.set", make_pictures(2, size=128))
    message = str(failure(invoke(*command, "--precision", "int8", "--calibration", large_images.folder)))
    assert "has images of 128 pixels, and the model takes 64; pack it with --size 64" in message


def test_one_of_the_48_is_exported_once(fp16: tuple[Path, Result]) -> None:
    home, result = fp16
    (row,) = json.loads(result.stdout)
    assert row["precision"] == "fp16"
    assert [path.name for path in (home / "models").glob("*.onnx")] == ["tv_resnet50.onnx"]
    model = load_model(None, "tv_resnet50")
    assert (model.category, model.architecture, model.source) == ("baseline", "resnet50", "timm:timm/resnet50.tv_in1k")
    assert json.loads(invoke("export", "tv_resnet50", *FP16).stdout) == [row]
