from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from torch import nn

from bandlens.core.errors import CheckpointError, ExportError
from bandlens.core.files import sha256_of
from bandlens.core.records import Model
from bandlens.export.model_files import NORMALIZATIONS, load_model, verify_model
from bandlens.export.onnx.parity import onnx_logits
from bandlens.export.pipeline import export_network, export_user_checkpoint

IMAGENET = NORMALIZATIONS["imagenet"]


TINY = "tried_tiny:Tiny"


@pytest.fixture(scope="module")
def exported(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("models")
    model, parity = export_user_checkpoint(tiny, "mine.v1", TINY, IMAGENET, folder, image_size=64)
    assert parity.holds
    return model


def test_a_model_is_described_by_its_json(exported: Model, tiny: Path) -> None:
    assert exported == Model(
        name="mine.v1",
        category="own",
        architecture=TINY,
        weights_sha256=sha256_of(tiny),
        source="file:tiny.pth",
        normalization="imagenet",
        path=exported.path.parent / "mine.v1.onnx",
        sha256=sha256_of(exported.path),
        image_size=64,
        classes=10,
    )
    description = json.loads((exported.path.parent / "mine.v1.json").read_text())
    assert description["path"] == "mine.v1.onnx"
    assert description["bytes"] == exported.path.stat().st_size
    assert description["parity"]["images"] == 12
    assert description["opset"] == 18
    assert description["torch"] == torch.__version__
    assert description["dropped"] == {}
    assert sorted(path.name for path in exported.path.parent.iterdir()) == ["mine.v1.json", "mine.v1.onnx"]


def test_another_process_writes_the_same_bytes(exported: Model, tiny: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from bandlens.export.pipeline import export_user_checkpoint as export;"
        f"export(Path(sys.argv[1]), 'other', {TINY!r}, {IMAGENET!r}, Path(sys.argv[2]), image_size=64)"
    )
    arguments = [sys.executable, "-W", "error", "-c", code, str(tiny), str(tmp_path)]
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(tiny.parent)}
    ran = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert load_model(tmp_path, "other").sha256 == exported.sha256


def test_nothing_is_written_for_a_network_that_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    with pytest.raises(ExportError, match="does not compute what torch does"):
        export_user_checkpoint(tiny, "noisy", f"{TINY}(noise=1.0)", IMAGENET, folder, image_size=64)
    with pytest.raises(CheckpointError, match="does not fit the architecture"):
        export_user_checkpoint(tiny, "larger", "resnet18", IMAGENET, folder, image_size=64)
    assert not folder.exists()


def test_a_named_network_gets_as_many_classes_as_the_weights_have(
    tmp_path: Path, photographs: NDArray[np.float32]
) -> None:
    torch.manual_seed(6)
    network = torchvision.models.squeezenet1_1(num_classes=37).eval()
    torch.save(network.state_dict(), tmp_path / "fine_tuned.pth")
    identity = NORMALIZATIONS["none"]
    for name, architecture in {"read": "squeezenet1_1", "said": "torchvision:squeezenet1_1(num_classes=37)"}.items():
        model, _ = export_user_checkpoint(
            tmp_path / "fine_tuned.pth", name, architecture, identity, tmp_path, image_size=64
        )
        assert model.classes == 37
        with torch.inference_mode():
            expected = network(torch.from_numpy(photographs)).numpy()
        np.testing.assert_allclose(onnx_logits(verify_model(model), photographs), expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(CheckpointError, match=r"misshapen \(classifier.1.bias \(37,\) instead of \(36,\)"):
        export_user_checkpoint(
            tmp_path / "fine_tuned.pth", "other", "squeezenet1_1(num_classes=36)", identity, tmp_path, image_size=64
        )


class Outputs(nn.Module):
    """A network of any number of outputs, of which three differ."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)).repeat(1, 21_846)[:, : self.count]


@pytest.mark.parametrize(("classes", "message"), [(65_537, "gives 65,537 outputs"), (0, "gives 0 outputs")])
def test_a_network_whose_classes_cannot_be_stored_is_refused(classes: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export_network(Outputs(classes), "many", IMAGENET, tmp_path / "models", image_size=32)
    assert not (tmp_path / "models").exists()
