"""Operations of a network, against those that torchvision publishes with its weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torchvision
from onnx import TensorProto, helper, numpy_helper

from bandlens.core.errors import ExportError
from bandlens.export.onnx.from_torch import Normalized, to_onnx
from bandlens.export.onnx.operations import operations_of_nodes

MEAN = STD = (0.5, 0.5, 0.5)


@pytest.fixture
def content(request: pytest.FixtureRequest, name: str) -> bytes:
    """The fp32 graph for 224 x 224 pixels, which other tests too have of ResNet-50."""
    if name == "resnet50":
        return bytes(request.getfixturevalue("resnet50_content"))
    with torch.device("meta"):  # to draw weights takes as long as to export them
        network = torchvision.models.get_model(name)
    network = network.to_empty(device="cpu")
    for tensor in network.state_dict().values():
        tensor.fill_(0.5)
    return to_onnx(Normalized(network, MEAN, STD).eval(), 224)[0]


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v3_small", "vit_b_16"])
def test_as_many_as_torchvision_says(name: str, content: bytes) -> None:
    published = torchvision.models.get_model_weights(name).IMAGENET1K_V1.meta["_ops"]  # multiplications, in G
    assert sum(operations_of_nodes(content).values()) / 2e9 == pytest.approx(published, rel=0.01)


def test_sizes_that_the_graph_computes_are_folded() -> None:
    """Attention of torch's older exporter: the product's tokens are reshaped to sizes that were read off the images."""
    ends = [
        helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 8, 8]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, None),
    ]
    weights = {"w": np.zeros((8, 5), np.float32), "first": np.array(0), "height": np.array(2), "axis": np.array([0])}
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["batch"]),
        helper.make_node("Gather", ["shape", "height"], ["rows"]),
        helper.make_node("Add", ["rows", "rows"], ["twice"]),
        helper.make_node("Sub", ["twice", "rows"], ["width"]),
        *(helper.make_node("Unsqueeze", [name, "axis"], [f"{name}1"]) for name in ("batch", "width")),
        helper.make_node("Sub", ["axis", "one"], ["rest"]),
        helper.make_node("Concat", ["batch1", "rest", "width1"], ["sizes"], axis=0),
        helper.make_node("Reshape", ["images", "sizes"], ["tokens"]),
        helper.make_node("MatMul", ["tokens", "w"], ["logits"], name="product"),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights | {"one": np.array([1])}).items()]
    graph = helper.make_graph(nodes, "tokens", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)])
    assert operations_of_nodes(model.SerializeToString()) == {"product": 2 * 24 * 8 * 5}


def test_sizes_that_are_not_known_are_named() -> None:
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None]) for name in ("images", "w", "logits")
    ]
    node = helper.make_node("MatMul", ["images", "w"], ["logits"], name="product")
    model = helper.make_model(helper.make_graph([node], "one", ends[:2], ends[2:]))
    onnx.checker.check_model(model)
    with pytest.raises(ExportError, match="the sizes of MatMul 'product' are not known"):
        operations_of_nodes(model.SerializeToString())
