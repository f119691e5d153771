"""fp16 and int8 graphs, compared with fp32 by ONNX Runtime on the CPU."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from bandlens.app.cli.commands.look import MODEL
from bandlens.core.errors import ExportError, UsageError
from bandlens.export.model_files import NORMALIZATIONS, load_model, verify_model
from bandlens.export.onnx.fp16 import emulate_in_fp32, to_bf16, to_fp16
from bandlens.export.onnx.from_torch import Normalized, to_onnx
from bandlens.export.onnx.int8 import symmetric_activations, to_int8
from bandlens.export.onnx.parity import measure_parity, onnx_logits
from bandlens.export.reference_images import photograph_crops

Images = NDArray[np.float32]


def onnx_file_of(content: bytes) -> onnx.GraphProto:
    return onnx.load_from_string(content).graph


def constants(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def operators(graph: onnx.GraphProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.node)


def with_constant(content: bytes, ending: str, change: Any) -> bytes:
    """The same graph, with one initializer's values changed."""
    model = onnx.load_from_string(content)
    (target,) = (target for target in model.graph.initializer if target.name.endswith(ending))
    target.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(target)), target.name))
    return model.SerializeToString()


@pytest.fixture(scope="module")
def lite0_content(lite0: Path) -> bytes:
    """The fp32 graph of EfficientNet-Lite0 with its real weights."""
    return verify_model(load_model(lite0, MODEL))


@pytest.fixture(scope="module")
def lite0_int8(lite0_content: bytes) -> bytes:
    return to_int8(lite0_content, [photograph_crops(224)])


def test_fp16_is_half_between_normalization_and_logits(resnet18_content: bytes) -> None:
    graph = onnx_file_of(to_fp16(resnet18_content))
    kinds = {name: value.dtype.name for name, value in constants(graph).items() if value.dtype.kind == "f"}
    assert {name for name, kind in kinds.items() if kind == "float32"} == {"mean", "std"}
    assert set(kinds.values()) == {"float32", "float16"}
    first, second, third, *_, last = graph.node
    assert [first.op_type, second.op_type, third.op_type, last.op_type] == ["Sub", "Div", "Cast", "Cast"]
    assert operators(graph) == operators(onnx_file_of(resnet18_content)) + Counter(Cast=2)
    (images,), (logits,) = graph.input, graph.output
    assert (images.name, logits.name) == ("images", "logits")
    for value in (images, logits):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_fp16_computes_nearly_the_same(resnet18_content: bytes, photographs: Images) -> None:
    half = to_fp16(resnet18_content)
    assert half == to_fp16(resnet18_content)
    assert len(half) < 0.51 * len(resnet18_content)
    parity = measure_parity(onnx_logits(resnet18_content, photographs), onnx_logits(emulate_in_fp32(half), photographs))
    assert 0 < parity.relative_difference < 5e-3


def test_bf16_is_the_same_graph_with_weights_of_float32_s_range(resnet18_content: bytes, photographs: Images) -> None:
    large = onnx.load_from_string(resnet18_content)
    weights = next(tensor for tensor in large.graph.initializer if len(tensor.dims) == 4)
    values = numpy_helper.to_array(weights) * np.float32(1e7)
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))
    content = large.SerializeToString()
    with pytest.raises(ExportError, match="float16 ends at 65504"):
        to_fp16(content)
    graph, half = onnx_file_of(to_bf16(content)), onnx_file_of(to_fp16(resnet18_content))
    assert [node.op_type for node in graph.node] == [node.op_type for node in half.node]
    kinds = {name: value.dtype.name for name, value in constants(half).items()}
    assert {name: value.dtype.name.replace("bfloat16", "float16") for name, value in constants(graph).items()} == kinds
    rounded = constants(graph)[weights.name].astype(np.float32)
    np.testing.assert_allclose(rounded, values, rtol=2**-8)
    assert not np.array_equal(rounded, values)
    emulated = onnx_logits(emulate_in_fp32(to_bf16(resnet18_content)), photographs)
    assert 2**-12 < measure_parity(onnx_logits(resnet18_content, photographs), emulated).relative_difference < 2**-4
    assert np.array_equal(emulated.view(np.uint32) & 0xFFFF, np.zeros(emulated.shape, np.uint32)), "16 bits are zero"


def test_rounded_computes_what_float16_does(tiny: Path, photographs: Images) -> None:
    """ONNX's reference evaluator computes in float16 throughout; ONNX Runtime rounds weights alone."""
    network = importlib.import_module("tried_tiny").Tiny()
    network.load_state_dict(torch.load(tiny)["state_dict"])
    half = to_fp16(to_onnx(Normalized(network, *NORMALIZATIONS["imagenet"]).eval(), 64)[0])
    evaluator = ReferenceEvaluator(onnx.load_from_string(half))
    (expected,) = evaluator.run(None, {"images": photographs})
    emulated = onnx_logits(emulate_in_fp32(half), photographs)
    unrounded = onnx_logits(half, photographs)
    assert np.array_equal(emulated, emulated.astype(np.float16))
    assert not np.array_equal(unrounded, unrounded.astype(np.float16))
    assert measure_parity(expected, emulated).relative_difference < 3e-3


class Tricky(nn.Module):
    """Reads the images twice, asks for their shape, resizes, and casts."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Linear(9, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.cat([images, nn.functional.relu6(self.first(images))], dim=1)
        features = nn.functional.interpolate(features, scale_factor=0.5, mode="bilinear")
        features = features.clamp(min=-3).maximum(torch.zeros_like(features)) + (features > 0).float()
        pooled = features.flatten(2).mean(2)
        positions = torch.arange(images.shape[0]).float()[:, None] * 0
        logits: Tensor = self.second(pooled + positions)
        return logits


@pytest.mark.parametrize("normalization", ["imagenet", "none"])
def test_fp16_of_operators_that_stay_float32(normalization: str, photographs: Images) -> None:
    torch.manual_seed(0)
    content, _ = to_onnx(Normalized(Tricky(), *NORMALIZATIONS[normalization]).eval(), 64)
    half = to_fp16(content)
    for lower in (half, emulate_in_fp32(half)):
        parity = measure_parity(onnx_logits(content, photographs), onnx_logits(lower, photographs))
        assert parity.relative_difference < 5e-3


def test_fp16_refuses_what_it_cannot_hold(resnet18_content: bytes) -> None:
    def large(values: NDArray[Any]) -> NDArray[Any]:
        return values + np.float32(7e4) * (np.arange(values.size).reshape(values.shape) == 3)

    with pytest.raises(ExportError, match=r"fc.bias holds 7e\+04, and float16 ends at 65504"):
        to_fp16(with_constant(resnet18_content, "fc.bias", large))
    with pytest.raises(ExportError, match=r"fc.weight holds nothing above .*e-\d+, which vanishes in float16"):
        to_fp16(with_constant(resnet18_content, "fc.weight", lambda values: values * np.float32(1e-9)))
    to_fp16(with_constant(resnet18_content, "fc.weight", lambda values: np.where(values > 0, values, values * 1e-9)))
    to_fp16(with_constant(resnet18_content, "fc.bias", lambda values: values * 0))


def test_int8_is_written_into_the_graph(resnet18_content: bytes, resnet18_int8: bytes) -> None:
    graph = onnx_file_of(resnet18_int8)
    assert operators(graph)["Conv"] == operators(onnx_file_of(resnet18_content))["Conv"] == 20
    values, made_by = constants(graph), {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            activation, weight = (made_by[name] for name in node.input[:2])
            while activation.op_type in ("MaxPool", "Reshape"):  # they keep what is quantized
                activation = made_by[activation.input[0]]
            assert made_by[activation.input[0]].op_type == "QuantizeLinear"
            assert activation.op_type == weight.op_type == "DequantizeLinear"
            assert values[weight.input[0]].dtype == np.int8
            assert values[weight.input[1]].shape == (len(values[weight.input[0]]),)  # a scale per channel
    assert len(resnet18_int8) < 0.27 * len(resnet18_content)


def terms_of_sums(content: bytes) -> list[list[str]]:
    """Operators that make the two branches of each sum; a MaxPool keeps what is quantized, and so is passed over."""
    graph = onnx_file_of(content)
    makers = {name: node for node in graph.node for name in node.output}

    def maker(name: str) -> str:
        node = makers[name]
        return maker(node.input[0]) if node.op_type == "MaxPool" else node.op_type

    return [sorted(map(maker, node.input)) for node in graph.node if node.op_type == "Add"]


def test_sums_take_one_branch_as_its_convolution_gives_it(resnet18_int8: bytes, lite0_int8: bytes) -> None:
    """NVIDIA: only the residual input of a sum is to be quantized, so that the sum is fused into the convolution."""
    assert terms_of_sums(resnet18_int8) == [["Conv", "DequantizeLinear"]] * 8  # ResNet-18 has 8 residual blocks
    assert terms_of_sums(lite0_int8) == [["Conv", "DequantizeLinear"]] * 9
    graph = onnx_file_of(resnet18_int8)
    assert set(constants(graph)) <= {name for node in graph.node for name in node.input}


def test_int8_does_not_depend_on_batches(resnet18_content: bytes, resnet18_int8: bytes, photographs: Images) -> None:
    assert to_int8(resnet18_content, (photographs[k : k + 5] for k in range(0, 12, 5))) == resnet18_int8
    assert to_int8(resnet18_content, [photographs[:9]]) != resnet18_int8


def test_int8_needs_images_and_nncf(
    resnet18_content: bytes, photographs: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="images to calibrate on"):
        to_int8(resnet18_content, [photographs[:0]])
    with pytest.raises(ExportError, match=r"NNCF cannot quantize this ONNX file: .*; use fp16"):
        to_int8(resnet18_content, [photographs[:, :, :, :32]])
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ExportError, match=r"pip install 'bandlens\[openvino\]'"):
        to_int8(resnet18_content, [photographs])


QUIET = """
import sys
from pathlib import Path
from bandlens.export.reference_images import photograph_crops
from bandlens.export.onnx.int8 import to_int8
Path("int8.onnx").write_bytes(to_int8(Path("fp32.onnx").read_bytes(), [photograph_crops(64)]))
from nncf.telemetry import decorator
sys.exit(type(decorator.telemetry).__name__ != "MagicMock")
"""


def test_int8_is_quiet_and_tells_nobody(resnet18_content: bytes, resnet18_int8: bytes, tmp_path: Path) -> None:
    """The command runs in a process of its own: under pytest NNCF would be silent by itself."""
    (tmp_path / "fp32.onnx").write_bytes(resnet18_content)
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "ORT_DISABLE_TELEMETRY": "1"}
    ran = subprocess.run([sys.executable, "-c", QUIET], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fp32.onnx", "int8.onnx"]
    assert (tmp_path / "int8.onnx").read_bytes() == resnet18_int8


def test_symmetric_activations_keep_their_range(lite0_int8: bytes) -> None:
    """EfficientNet-Lite0 has all that occurs: uint8, int8, and a scale per channel before depthwise convolutions."""
    content = symmetric_activations(lite0_int8)
    assert content == symmetric_activations(lite0_int8) == symmetric_activations(content)
    old, new = onnx_file_of(lite0_int8), onnx_file_of(content)
    old_constants, new_constants = constants(old), constants(new)
    kinds = Counter[str]()
    for node, new_node in zip(old.node, new.node, strict=True):
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            assert node == new_node
            continue
        scale, zero_point = old_constants[node.input[1]], old_constants[node.input[2]]
        assert new_constants[new_node.input[2]].dtype == np.int8
        assert not new_constants[new_node.input[2]].any()
        if node.input[0] in old_constants:
            assert node == new_node
            continue
        assert new_constants[new_node.input[1]].shape == ()
        limit = np.iinfo(zero_point.dtype).max
        assert new_constants[new_node.input[1]] * 127 == pytest.approx(scale.max() * limit, rel=1e-6)
        kinds[f"{zero_point.dtype} {scale.ndim}"] += 1
    assert set(kinds) == {"uint8 0", "uint8 1", "int8 0"}
    assert {name for node in new.node for name in node.input} >= set(new_constants)


def test_what_tensorrt_would_misread_is_refused(resnet18_int8: bytes) -> None:
    graph = onnx_file_of(resnet18_int8)
    zero_points = {node.op_type: node for node in graph.node if node.op_type.endswith("QuantizeLinear")}

    def changed(name: str, value: NDArray[Any]) -> bytes:
        return with_constant(resnet18_int8, name, lambda _: value)

    activation = zero_points["QuantizeLinear"].input[2]
    for value in (np.uint8(3), np.int8(-4)):
        with pytest.raises(ExportError, match=f"quantizes to {value.dtype} with zero points up to {value}"):
            symmetric_activations(changed(activation, np.asarray(value)))
    with pytest.raises(ExportError, match="quantizes to int16"):
        symmetric_activations(changed(activation, np.asarray(0, np.int16)))
    model = onnx.load_from_string(resnet18_int8)
    next(node for node in model.graph.node if node.op_type == "QuantizeLinear").input.pop()
    with pytest.raises(ExportError, match="has no constant zero point"):
        symmetric_activations(model.SerializeToString())
