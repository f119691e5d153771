from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bandlens.core.errors import ExportError
from bandlens.export.model_files import NORMALIZATIONS
from bandlens.export.onnx.from_torch import Normalized, to_onnx
from bandlens.export.onnx.parity import (
    Parity,
    check_finite,
    check_parity,
    measure_parity,
    onnx_logits,
    torch_outputs,
)

Images = NDArray[np.float32]


class Function(nn.Module):
    """A network with one weight that does what it is told."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> object:
        return self.function(images * self.scale)


@pytest.fixture
def content(resnet18_content: bytes) -> bytes:
    return resnet18_content


def imagenet(network: nn.Module) -> Normalized:
    return Normalized(network, *NORMALIZATIONS["imagenet"]).eval()


def operators(content: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(content).graph.node)


def test_a_resnet_exports_clean_and_equal(content: bytes, resnet18: nn.Module, photographs: Images) -> None:
    network, counts = imagenet(resnet18), operators(content)
    assert counts["Conv"] == 20
    assert counts.keys() == {"Conv", "Relu", "Add", "Sub", "Div", "MaxPool", "ReduceMean", "Reshape", "Gemm"}
    parity = check_parity(content, torch_outputs(network, photographs), photographs, "resnet18")
    assert (parity.images, parity.top1_disagreements) == (12, 0)
    assert parity.relative_difference < 1e-5
    with torch.no_grad():
        predicted = network(torch.from_numpy(photographs)).argmax(dim=1)
    assert len(set(predicted.tolist())) > 1


def test_normalization_is_in_the_graph(content: bytes, resnet18: nn.Module, photographs: Images) -> None:
    mean, std = (np.float32(numbers).reshape(1, 3, 1, 1) for numbers in NORMALIZATIONS["imagenet"])
    with torch.no_grad():
        expected = resnet18(torch.from_numpy((photographs - mean) / std)).numpy()
    assert np.allclose(onnx_logits(content, photographs), expected, atol=1e-4 * np.abs(expected).max())


def test_only_the_batch_is_open(content: bytes, photographs: Images) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape, images.type) == ("images", ["batch", 3, 64, 64], "tensor(float)")
    assert (logits.name, logits.shape, logits.type) == ("logits", ["batch", 1000], "tensor(float)")
    batch_logits = session.run(["logits"], {"images": photographs})[0]
    for size in (1, 5):
        options = onnxruntime.SessionOptions()
        options.add_free_dimension_override_by_name("batch", size)
        pinned = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        part = pinned.run(["logits"], {"images": photographs[:size]})[0]
        assert np.allclose(part, batch_logits[:size], atol=1e-4 * np.abs(batch_logits).max())


def test_exporting_again_is_silent_and_gives_the_same_bytes(
    content: bytes, resnet18: nn.Module, capfd: pytest.CaptureFixture[str]
) -> None:
    assert to_onnx(imagenet(resnet18), 64)[0] == content
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    model = onnx.load_from_string(content)
    del model.graph.initializer[:]  # among millions of weights, some spell anything
    for trace in (b"stack_trace", b".py", b'File "'):
        assert trace not in model.SerializeToString()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda images: (images.mean((2, 3)), images), "gives tuple"),
        (lambda images: images, r"gives \(2, 3, 32, 32\) torch.float32"),
        (lambda images: images.mean((2, 3)).double(), "torch.float64"),
        (lambda images: images.reshape(2, 1, 1), "fails on images of 32 x 32"),
        (lambda images: images.reshape(2, 3 * 32 * 32)[:, :10], "open batch size|fixes a size"),
        (lambda images: images.mean((2, 3)) if images.sum().item() > 0 else images.amax((2, 3)), "open batch size"),
    ],
)
def test_networks_that_cannot_be_used(function: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ExportError, match=message) as error:
        to_onnx(imagenet(Function(function)), 32)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("value", "kind"), [(torch.nan, "NaN"), (torch.inf, "infinite")])
@pytest.mark.filterwarnings("error")
def test_logits_that_are_not_finite_are_told_with_their_images(value: float, kind: str, photographs: Images) -> None:
    bright = np.flatnonzero(photographs.mean((1, 2, 3)) > np.median(photographs.mean((1, 2, 3))))
    limit = float(np.median(photographs.mean((1, 2, 3))))

    def logits(images: Tensor) -> Tensor:
        means = images.mean((1, 2, 3), keepdim=True).flatten(1)
        return torch.where(means > limit, torch.full_like(means, value), means)

    network = Normalized(Function(logits), *NORMALIZATIONS["none"]).eval()
    content, _ = to_onnx(network, 64)
    numbers = ", ".join(map(str, bright[:5]))
    expected = torch_outputs(network, photographs)
    for check, where in (
        (lambda: check_finite(expected, "broken in torch"), "broken in torch"),
        (lambda: check_parity(content, expected, photographs, "broken"), "the ONNX file of broken"),
    ):
        with pytest.raises(ExportError) as error:
            check()
        assert str(error.value).startswith(
            f"{where} gives logits that are {kind} for {len(bright)} of {len(photographs)} images "
            f"(numbers {numbers} and {len(bright) - 5} more, from 0); nothing was written; "
        )


def test_compare_counts_what_differs() -> None:
    logits = np.float32([[1, 0, 0], [0, 2, 0], [1, 1, 0]])
    assert measure_parity(logits, logits) == Parity(3, 0.0, 0.0, 1, 0)
    assert measure_parity(logits, logits).holds
    tie_broken = logits + np.float32([[0, 0, 0], [0, 0, 0], [0, 1e-6, 0]])
    assert measure_parity(logits, tie_broken).holds
    near = np.float32([[1, 0.9999, 0]])
    swapped = measure_parity(near, near[:, [1, 0, 2]])
    assert swapped.relative_difference < 1e-3
    assert swapped.top1_disagreements == 1
    assert not swapped.holds
    assert not measure_parity(logits, logits * np.float32(1.01)).holds
    assert not measure_parity(logits, np.full_like(logits, np.nan)).holds
    infinite = np.full_like(logits, np.inf)
    assert not measure_parity(infinite, infinite).holds
    assert measure_parity(np.zeros((2, 1), np.float32), np.zeros((2, 1), np.float32)).holds


def test_without_onnx_runtime_the_extra_is_named(
    resnet18: nn.Module, photographs: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"pip install 'bandlens\[cpu\]'"):
        onnx_logits(b"", photographs)
