"""ONNX files in torch: the logits of ONNX Runtime, the gradients of the network that was exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.nn import functional

from bandlens.core.errors import EngineError
from bandlens.export.model_files import NORMALIZATIONS
from bandlens.export.onnx.from_torch import Normalized, to_onnx
from bandlens.export.onnx.parity import onnx_logits
from bandlens.export.torch.network import OnnxNetwork
from bandlens.export.torch.operators import OPERATORS

Randomize = Callable[[nn.Module], nn.Module]

# Whole networks


def vision_transformer() -> nn.Module:
    network = torchvision.models.VisionTransformer(64, 16, 2, 3, 48, 96)
    nn.init.normal_(network.heads.head.weight, std=0.1)
    return network


def swin_transformer() -> nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4])


def convnext() -> nn.Module:
    settings = [torchvision.models.convnext.CNBlockConfig(width, None, 1) for width in (16, 24)]
    settings[0].out_channels = 24
    return torchvision.models.ConvNeXt(settings, layer_scale=0.5)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mobilenet_v3": torchvision.models.mobilenet_v3_small,
    "shufflenet": torchvision.models.shufflenet_v2_x0_5,
    "vision_transformer": vision_transformer,
    "swin_transformer": swin_transformer,
    "convnext": convnext,
}


@dataclass(frozen=True)
class Exported:
    network: Normalized
    content: bytes


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request: pytest.FixtureRequest, randomize: Randomize) -> Exported:
    """A network with weights that matter, for 64 x 64 pixels."""
    torch.manual_seed(0)
    network = Normalized(randomize(NETWORKS[request.param]()), *NORMALIZATIONS["imagenet"]).eval().requires_grad_(False)
    return Exported(network, to_onnx(network, 64)[0])


def test_logits_are_those_of_onnx_runtime(exported: Exported, photographs: NDArray[np.float32]) -> None:
    expected = onnx_logits(exported.content, photographs)
    logits = OnnxNetwork(exported.content)(torch.from_numpy(photographs)).numpy()
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.ptp(expected, axis=0).max() > 1e-3 * np.abs(expected).max(), "images make a difference"


def gradient(network: nn.Module, images: Tensor) -> Tensor:
    images = images.clone(memory_format=torch.preserve_format).requires_grad_()
    loss = functional.cross_entropy(network(images), torch.arange(len(images)), reduction="sum")
    return torch.autograd.grad(loss, images)[0]


def test_gradients_are_those_of_the_network(exported: Exported, photographs: NDArray[np.float32]) -> None:
    """The direction is compared, since rounding moves across a kink here and there."""
    images = torch.from_numpy(photographs[:4]).contiguous(memory_format=torch.channels_last)
    expected, computed = (gradient(network, images) for network in (exported.network, OnnxNetwork(exported.content)))
    assert functional.cosine_similarity(computed.flatten(1), expected.flatten(1)).min() > 0.98
    lengths = computed.flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert (lengths - 1).abs().max() < 0.1


def test_on_another_device_nothing_of_the_host_is_mixed_in(exported: Exported) -> None:
    """`meta` computes no values, but it refuses most of what a GPU would refuse."""
    images = torch.empty((2, 3, 64, 64), device="meta")
    assert gradient_on_meta(OnnxNetwork(exported.content).to("meta"), images).shape == images.shape


def gradient_on_meta(network: nn.Module, images: Tensor) -> Tensor:
    images = images.requires_grad_()
    logits = network(images)
    assert logits.device.type == "meta"
    return torch.autograd.grad(logits.sum(), images)[0]


# Operators, one by one


@dataclass(frozen=True)
class Case:
    """A graph of a few nodes between `images`, (2, 3, 6, 6) in [0, 1], and `logits`."""

    nodes: Sequence[tuple[str, Sequence[str], dict[str, Any]]]
    """Each node's result is called by its number; the last is `logits`."""
    constants: dict[str, Any] = field(default_factory=dict)
    opset: int = 18

    def content(self) -> bytes:
        nodes = []
        for number, (operator, inputs, attributes) in enumerate(self.nodes):
            outputs = ["logits" if number == len(self.nodes) - 1 else str(number)]
            if operator == "Split":
                outputs.append("rest")
            nodes.append(helper.make_node(operator, inputs, outputs, **attributes))
        arrays = {name: np.array(value) for name, value in self.constants.items()}
        weights = [
            numpy_helper.from_array(array.astype(np.float32) if array.dtype == np.float64 else array, name)
            for name, array in arrays.items()
        ]
        images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [2, 3, 6, 6])
        logits = helper.make_empty_tensor_value_info("logits")
        graph = helper.make_graph(nodes, "case", [images], [logits], weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        return bytes(model.SerializeToString())


def single(operator: str, *inputs: str, constants: dict[str, Any] | None = None, **attributes: Any) -> Case:
    return Case([(operator, ["images", *inputs], attributes)], constants or {})


RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(size=(4, 3, 3, 3))
CHANNELS = {name: RANDOM.uniform(0.5, 1.5, 3) for name in ("scale", "bias", "mean", "variance")}
HALF = {"half": 0.5}
DARK, LIGHT = ("Less", ["images", "half"], {}), ("Greater", ["images", "third"], {})
HALF_AND_THIRD = HALF | {"third": 0.3}
ROWS = {"rows": np.array([[0, 2], [1, -1]])}

UNARY_OPERATORS = ["Erf", "GlobalAveragePool", "HardSigmoid", "HardSwish", "Identity", "Neg", "Sigmoid", "Sqrt", "Tanh"]
BINARY_OPERATORS = ["Add", "Div", "Greater", "Less", "Mul", "Pow", "Sub"]
CASES: dict[str, Case] = {
    **{name: single(name) for name in UNARY_OPERATORS},
    **{name: single(name, "half", constants=HALF) for name in BINARY_OPERATORS},
    "Abs": Case([("Sub", ["images", "half"], {}), ("Abs", ["0"], {})], HALF),
    "Add broadcast": single("Add", "bias", constants={"bias": RANDOM.normal(size=(3, 1, 1))}),
    "And": Case([DARK, LIGHT, ("And", ["0", "1"], {})], HALF_AND_THIRD),
    "AveragePool": single("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "AveragePool count": single("AveragePool", kernel_shape=[3, 2], pads=[1, 0, 1, 0], count_include_pad=1),
    "AveragePool ceil": single("AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "BatchNormalization": single("BatchNormalization", *CHANNELS, constants=CHANNELS, epsilon=1e-3),
    "Cast": Case([DARK, ("Cast", ["0"], {"to": TensorProto.FLOAT})], HALF),
    "Clip": single("Clip", "low", "high", constants={"low": 0.2, "high": 0.7}),
    "Clip below": single("Clip", "low", constants={"low": 0.2}),
    "Clip above": single("Clip", "", "high", constants={"high": 0.7}),
    "Concat": single("Concat", "images", axis=1),
    "ConstantOfShape": Case([("Shape", ["images"], {}), ("ConstantOfShape", ["0"], {})]),
    "Conv": single("Conv", "w", "b", constants={"w": WEIGHTS, "b": RANDOM.normal(size=4)}, pads=[1, 1, 1, 1]),
    "Conv strides": single("Conv", "w", constants={"w": WEIGHTS}, strides=[2, 1], dilations=[1, 2]),
    "Conv sides": single("Conv", "w", constants={"w": WEIGHTS}, pads=[0, 1, 2, 1], auto_pad="NOTSET"),
    "Conv groups": single("Conv", "w", constants={"w": WEIGHTS[:3, :1]}, group=3),
    "Div whole numbers": Case([("Shape", ["images"], {}), ("Div", ["0", "by"], {})], {"by": np.array([-4, 2, 4, 4])}),
    "Einsum": single("Einsum", "images", equation="bchw,bdhw->bcd"),
    "Equal": Case([("Shape", ["images"], {}), ("Equal", ["0", "six"], {})], {"six": np.array([6])}),
    "Expand": Case(
        [("ReduceMean", ["images", "axis"], {}), ("Expand", ["0", "sizes"], {})],
        {"axis": np.array([2]), "sizes": np.array([4, 1, 3, 5, 1])},
    ),
    "Flatten": single("Flatten", axis=2),
    "Gather": single("Gather", "rows", constants=ROWS, axis=2),
    "Gather one": single("Gather", "row", constants={"row": np.array(-1)}, axis=1),
    "GatherND": single("GatherND", "rows", constants=ROWS),
    "Gemm": Case(
        [("Flatten", ["images"], {}), ("Gemm", ["0", "w", "b"], {"transB": 1})],
        {"w": RANDOM.normal(size=(4, 108)), "b": RANDOM.normal(size=4)},
    ),
    "Gemm scaled": Case(
        [("Flatten", ["images"], {"axis": 3}), ("Gemm", ["0", "w", "b"], {"alpha": 0.5, "beta": 2.0, "transA": 1})],
        {"w": RANDOM.normal(size=(36, 4)), "b": RANDOM.normal(size=(6, 1))},
    ),
    "HardSigmoid sixth": single("HardSigmoid", alpha=1 / 6),
    "LayerNormalization": single(
        "LayerNormalization", "scale", "bias", constants={n: RANDOM.uniform(0.5, 1.5, 6) for n in ("scale", "bias")}
    ),
    "LeakyRelu": Case([("Sub", ["images", "half"], {}), ("LeakyRelu", ["0"], {"alpha": 0.2})], HALF),
    "MatMul": single("MatMul", "m", constants={"m": RANDOM.normal(size=(6, 2))}),
    "Max": single("Max", "half", "third", constants=HALF_AND_THIRD),
    "MaxPool": single("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "MaxPool ceil": single("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "MaxPool sides": single("MaxPool", kernel_shape=[2, 2], pads=[0, 0, 1, 1], dilations=[2, 1]),
    "Min": single("Min", "half", "third", constants=HALF_AND_THIRD),
    "Not": Case([DARK, ("Not", ["0"], {})], HALF),
    "Or": Case([DARK, LIGHT, ("Or", ["0", "1"], {})], HALF_AND_THIRD),
    "Pad": single("Pad", "pads", "half", constants=HALF | {"pads": np.array([0, 0, 1, 2, 0, 0, 0, 1])}),
    "Pad axes": single("Pad", "pads", "", "axes", constants={"pads": np.array([1, 2]), "axes": np.array([-2])}),
    "Range": Case([("Range", ["first", "end", "by"], {})], {"first": 2, "end": 11, "by": 3}),
    "ReduceL2": single("ReduceL2", "axes", constants={"axes": np.array([1, -1])}),
    "ReduceMax": single("ReduceMax", "axes", constants={"axes": np.array([1])}, keepdims=0),
    "ReduceMean": single("ReduceMean", "axes", constants={"axes": np.array([2, 3])}),
    "ReduceMean all": single("ReduceMean"),
    "ReduceMean none": single("ReduceMean", noop_with_empty_axes=1),
    "ReduceMin": single("ReduceMin", "axes", constants={"axes": np.array([1])}),
    "ReduceSum": single("ReduceSum", "axes", constants={"axes": np.array([0])}, keepdims=0),
    "Relu": Case([("Sub", ["images", "half"], {}), ("Relu", ["0"], {})], HALF),
    "Reshape": single("Reshape", "sizes", constants={"sizes": np.array([0, -1, 4])}),
    "Reshape allowzero": single("Reshape", "sizes", constants={"sizes": np.array([2, -1, 4])}, allowzero=1),
    "Resize": single(
        "Resize",
        "",
        "",
        "sizes",
        constants={"sizes": np.array([2, 3, 9, 5])},
        mode="cubic",
        coordinate_transformation_mode="half_pixel",
        cubic_coeff_a=-0.75,
        nearest_mode="floor",
    ),
    "Resize scales": single("Resize", "", "scales", constants={"scales": [1.0, 1, 1.5, 2]}, mode="linear"),
    "ScatterND": single(
        "ScatterND", "where", "new", constants={"where": np.array([[1]]), "new": np.ones((1, 3, 6, 6))}
    ),
    "Shape": single("Shape", start=1, end=-1),
    "Slice": single(
        "Slice", "a", "z", "axes", constants={"a": np.array([1, -3]), "z": np.array([2**63 - 1, -1]), "axes": [1, 3]}
    ),
    "Slice steps": single(
        "Slice", "a", "z", "axes", "by", constants={"a": [5, 0], "z": [-7, 6], "axes": [2, 3], "by": [-2, 3]}
    ),
    "Softmax": single("Softmax", axis=1),
    "Split": single("Split", "sizes", constants={"sizes": np.array([2, 1])}, axis=1),
    "Split by its outputs": Case([("Split", ["images"], {"axis": 3})], opset=13),
    "Split equally": single("Split", axis=3, num_outputs=2),
    "Squeeze": Case(
        [("ReduceMean", ["images", "axes"], {}), ("Squeeze", ["0", "axes"], {})], {"axes": np.array([1, -1])}
    ),
    "Tile": single("Tile", "times", constants={"times": np.array([1, 2, 1, 3])}),
    "Transpose": single("Transpose", perm=[0, 2, 3, 1]),
    "Transpose reversed": single("Transpose"),
    "Unsqueeze": single("Unsqueeze", "axes", constants={"axes": np.array([-1, 1])}),
    "Where": Case([DARK, ("Where", ["0", "images", "third"], {})], HALF_AND_THIRD),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_operator_computes_what_onnx_says(case: Case) -> None:
    images = np.random.default_rng(1).random((2, 3, 6, 6), np.float32)
    model = onnx.load_from_string(case.content())
    [expected] = ReferenceEvaluator(model).run(["logits"], {"images": images})
    logits = OnnxNetwork(case.content())(torch.from_numpy(images)).numpy()
    assert logits.shape == expected.shape
    assert logits.dtype == expected.dtype
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_every_operator_has_a_case() -> None:
    assert {name.split()[0] for name in CASES} == OPERATORS.keys()


def test_an_activation_in_place_leaves_what_others_use() -> None:
    """The convolution's result goes through a ReLU and around it."""
    graph = [("Conv", ["images", "w"], {}), ("Relu", ["0"], {}), ("Add", ["0", "1"], {})]
    case = Case(graph, {"w": WEIGHTS})
    images = np.random.default_rng(1).random((2, 3, 6, 6), np.float32)
    [expected] = ReferenceEvaluator(onnx.load_from_string(case.content())).run(["logits"], {"images": images})
    np.testing.assert_allclose(OnnxNetwork(case.content())(torch.from_numpy(images)), expected, rtol=1e-5, atol=1e-6)


def test_constants_may_be_nodes() -> None:
    """Older exporters write them so."""
    half = numpy_helper.from_array(np.array(0.5, np.float32))
    rows = numpy_helper.from_array(np.array([[0.25], [0.75]] * 3, np.float32))
    graph = [("Constant", [], {"value": half}), ("Mul", ["images", "0"], {}), ("Constant", [], {"value": rows}),
             ("Sub", ["1", "2"], {})]  # fmt: skip
    images = torch.rand(2, 3, 6, 6)
    expected = images * 0.5 - torch.tensor([[0.25], [0.75]] * 3)
    torch.testing.assert_close(OnnxNetwork(Case(graph).content())(images), expected)


def test_the_images_themselves_are_left_alone() -> None:
    images = torch.rand(2, 3, 6, 6) - 0.5
    copy = images.clone()
    OnnxNetwork(Case([("Relu", ["images"], {})]).content())(images)
    assert torch.equal(images, copy)


# Refusals


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (single("TopK", "one", constants={"one": np.array([1])}), "uses the operator TopK, for which"),
        (single("Trilu", domain="ai.mine"), "uses the operator ai.mine.Trilu, for which"),
        (single("AveragePool", kernel_shape=[2, 2], dilations=[2, 2]), "uses AveragePool with dilations, for which"),
    ],
    ids=["operator", "domain", "attribute"],
)
def test_what_is_not_known_is_named(case: Case, message: str) -> None:
    with pytest.raises(EngineError, match=message) as error:
        OnnxNetwork(case.content())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "case",
    [
        single("Conv", "w", constants={"w": WEIGHTS}, auto_pad="SAME_UPPER"),
        single("AveragePool", kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
        single("Pad", "pads", constants={"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, mode="reflect"),
        single("GatherND", "rows", constants={"rows": np.array([[0, 2], [1, -1]])}, batch_dims=1),
        single("Resize", "", "by", constants={"by": [1.0, 1, 2, 2]}),
        single("Resize", "", "by", constants={"by": [1.0, 1, 1.1, 2]}, mode="linear"),
        single("Resize", "", "by", constants={"by": [1.0, 1, 2, 2]}, mode="cubic", cubic_coeff_a=-0.5),
        single("ScatterND", "w", "n", constants={"w": np.array([[1]]), "n": np.ones((1, 3, 6, 6))}, reduction="add"),
    ],
    ids=["auto_pad", "sides", "mode", "batch_dims", "nearest", "fraction", "cubic", "reduction"],
)
def test_a_use_that_is_not_known_computes_nothing(case: Case) -> None:
    with pytest.raises(NotImplementedError):
        OnnxNetwork(case.content())(torch.rand(2, 3, 6, 6))


def test_another_file_than_an_export_is_refused() -> None:
    content = single("Relu").content().replace(b"images", b"inputs")
    with pytest.raises(EngineError, match="takes inputs and gives logits; export the model again"):
        OnnxNetwork(content)
