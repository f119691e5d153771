"""ONNX Runtime sessions: what they compute, what they refuse, and that they do not disturb each other."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from small import CLASSES, make_model, make_pictures

from bandlens.engine.session import open_session, variant_of
from bandlens.errors import BandlensError, EngineError, ExportError, UnknownName
from bandlens.records import Model

Images = NDArray[np.float32]

NETWORK = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 5, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 12),
        )
"""


def batch(count: int, size: int = 128, seed: int = 5) -> Images:
    pictures = make_pictures(count, size, seed).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pictures, np.float32) / np.float32(255)


def logits(model: Model, images: Images, threads: int = 1) -> Images:
    with open_session(variant_of(model, "onnxruntime", "fp32"), len(images), threads) as session:
        return np.array(session.infer(images))


@pytest.fixture
def factory(tmp_path: Path) -> Iterator[str]:
    """An importable architecture."""
    (tmp_path / "small_network.py").write_text(NETWORK)
    sys.path.insert(0, str(tmp_path))
    yield "small_network:Net"
    sys.path.remove(str(tmp_path))
    del sys.modules["small_network"]


def test_an_exported_network_computes_what_torch_does(factory: str, tmp_path: Path) -> None:
    import torch
    from torch import nn

    from bandlens.export.pipeline import export_user_checkpoint

    torch.manual_seed(0)
    network = importlib.import_module("small_network").Net()
    for norm in (module for module in network if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.data.uniform_(0.5, 2)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    model, _ = export_user_checkpoint(tmp_path / "net.pth", "net", factory, mean, std, tmp_path, image_size=64)
    images = batch(6, 64)
    normalized = (torch.from_numpy(images) - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        wanted = network.eval()(normalized).numpy()
    np.testing.assert_allclose(logits(model, images), wanted, rtol=1e-4, atol=1e-4)


def test_equals_the_reference_implementation_of_onnx(tmp_path: Path) -> None:
    model, images = make_model(tmp_path, size=32), batch(4, 32)
    [wanted] = ReferenceEvaluator(onnx.load(model.path)).run(None, {"images": images})
    np.testing.assert_allclose(logits(model, images), wanted, rtol=1e-4, atol=1e-4)


def test_position_and_batch_size_make_no_difference(tmp_path: Path) -> None:
    model, images = make_model(tmp_path), batch(8)
    together = logits(model, images)
    order = np.random.default_rng(0).permutation(8)
    np.testing.assert_array_equal(logits(model, images[order]), together[order])
    for k in range(8):
        np.testing.assert_allclose(logits(model, images[k : k + 1])[0], together[k], rtol=1e-5, atol=1e-5)


def test_sessions_that_share_memory_do_not_disturb_each_other(tmp_path: Path) -> None:
    models = [make_model(tmp_path, f"m{k}", seed=k) for k in range(4)]
    images = batch(8)
    alone = [logits(model, images) for model in models]
    sessions = [open_session(variant_of(model, "onnxruntime", "fp32"), 8, 2) for model in models]
    for turn in ([0, 1, 2, 3], [3, 1, 0, 2]):
        for k in turn:
            np.testing.assert_array_equal(sessions[k].infer(images), alone[k])
    kept = [sessions[k].infer(images) for k in range(4)]
    for k in range(4):
        np.testing.assert_array_equal(kept[k], alone[k], "another session wrote into this one's logits")


def test_says_how_it_runs(tmp_path: Path) -> None:
    with open_session(variant_of(make_model(tmp_path), "onnxruntime", "fp32"), 8, 2) as session:
        info = session.info
    assert (info.batch, info.threads) == (8, 2)
    assert info.device
    assert "onnxruntime" in info.versions


@pytest.mark.parametrize(
    ("images", "received"),
    [
        (batch(3), "(3, 3, 128, 128)"),
        (batch(4).astype(np.float64), "float64"),
        (batch(4, 64), "(4, 3, 64, 64)"),
        (batch(4).transpose(0, 1, 3, 2), "contiguous"),
    ],
    ids=["batch", "type", "size", "order"],
)
def test_another_input_than_its_own_is_refused(images: Images, received: str, tmp_path: Path) -> None:
    with open_session(variant_of(make_model(tmp_path), "onnxruntime", "fp32"), 4, 1) as session:
        with pytest.raises(EngineError) as caught:
            session.infer(images)
        assert received in str(caught.value)
        assert "(4, 3, 128, 128)" in str(caught.value)
        assert session.infer(batch(4)).shape == (4, CLASSES), "the session still works"


def one_line(error: BandlensError) -> str:
    assert "\n" not in str(error)
    return str(error)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    content = bytearray(model.path.read_bytes())
    content[len(content) // 2] ^= 1
    model.path.write_bytes(content)
    with pytest.raises(ExportError, match=r"one\.onnx has sha256 .* export one again") as caught:
        open_session(variant_of(model, "onnxruntime", "fp32"), 4, 1)
    one_line(caught.value)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    import hashlib
    from dataclasses import replace

    model = make_model(tmp_path)
    model.path.write_bytes(b"not a model")
    model = replace(model, sha256=hashlib.sha256(b"not a model").hexdigest())
    with pytest.raises(EngineError, match="cannot open it") as caught:
        open_session(variant_of(model, "onnxruntime", "fp32"), 4, 1)
    one_line(caught.value)


def test_unknown_engines_and_precisions_are_named(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    with pytest.raises(UnknownName, match="unknown engine 'onnxruntim'; did you mean onnxruntime"):
        open_session(variant_of(model, "onnxruntim", "fp32"), 4, 1)
    with pytest.raises(EngineError, match=r"onnxruntime runs fp32, not int8; set precision"):
        open_session(variant_of(model, "onnxruntime", "int8"), 4, 1)
