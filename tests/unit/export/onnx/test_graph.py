"""Edited graphs against NumPy and torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from small import make_model, make_pictures
from torch.nn import functional

from bandlens.core.errors import UnknownName
from bandlens.export.heads.linear import LinearHead
from bandlens.export.model_files import verify_model
from bandlens.export.onnx.graph import append_head, append_label_sets, append_pool, cut_graph
from bandlens.export.onnx.outputs import pool_features
from bandlens.export.onnx.parity import onnx_logits
from bandlens.export.onnx.subprocess_run import try_logits
from bandlens.export.torch.network import OnnxNetwork

IMAGES = make_pictures(6, 64).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
RNG = np.random.default_rng(0)


@pytest.fixture
def model(tmp_path: Path) -> onnx.ModelProto:
    return onnx.load_from_string(verify_model(make_model(tmp_path, size=64, classes=9)))


def with_opset(content: bytes, opset: int) -> bytes:
    """The same network for another opset; of the operators in it, ReduceMean alone changed, and is left out here."""
    model = onnx.load_from_string(content)
    cut_graph(model, "g", "mine")
    model.graph.node[-1].output[0] = model.graph.output[0].name = "logits"
    model.opset_import[0].version = opset
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("unit", [False, True])
def test_a_head_in_the_file_is_the_head_on_its_features(model: onnx.ModelProto, opset: int, unit: bool) -> None:
    content = with_opset(model.SerializeToString(), opset)
    head = LinearHead(RNG.normal(size=(4, 9)), RNG.normal(size=4), unit)
    headed = append_head(content, head.weight, head.bias, head.unit)
    expected = head.logits(onnx_logits(content, IMAGES))
    np.testing.assert_allclose(onnx_logits(headed, IMAGES), expected, atol=1e-5 * np.abs(expected).max())
    with torch.no_grad():  # the network that is attacked
        logits = OnnxNetwork(headed)(torch.from_numpy(IMAGES)).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    shape = onnx.load_from_string(headed).graph.output[0].type.tensor_type.shape
    assert [dimension.dim_param or dimension.dim_value for dimension in shape.dim] == ["batch", 4]


@pytest.mark.parametrize(("tensor", "pool", "width"), [("r", "mean", 8), ("p", "mean", 8), ("f", None, 128)])
def test_a_graph_is_cut_at_a_tensor_and_pooled(
    model: onnx.ModelProto, tensor: str, pool: str | None, width: int
) -> None:
    cut_graph(model, tensor, "mine")
    assert {"matrix", "offset", "darkest"}.isdisjoint(weight.name for weight in model.graph.initializer)
    features = onnx_logits(model.SerializeToString(), IMAGES)
    expected = pool_features(features, pool)
    assert expected.shape == (6, width)
    if pool is not None:
        append_pool(model, pool, features.ndim)
    np.testing.assert_allclose(onnx_logits(model.SerializeToString(), IMAGES), expected, atol=1e-6)


def test_a_graph_that_was_cut_runs_in_a_process_of_its_own(model: onnx.ModelProto) -> None:
    cut_graph(model, "f", "mine")
    content = model.SerializeToString()
    np.testing.assert_array_equal(try_logits(content, IMAGES, 6, "mine"), onnx_logits(content, IMAGES))


def test_an_unknown_tensor_is_named(model: onnx.ModelProto) -> None:
    with pytest.raises(
        UnknownName, match=r"unknown tensor of mine 'matrix'; .*one that a node gives, the last of which are "
    ):
        cut_graph(model, "matrix", "mine")


LABELS = 5
LOGITS = (RNG.normal(size=(40, LABELS)) * 10.0 ** RNG.integers(-6, 3, (40, LABELS))).astype(np.float32)


def network(*operators: str, labels: int = LABELS) -> bytes:
    """A network whose images are the logits themselves, behind which operators stand."""
    operators = operators or ("Identity",)
    names = ["images", *(f"t{number}" for number in range(len(operators) - 1)), "logits"]
    nodes = [
        helper.make_node(operator, [names[number]], [names[number + 1]]) for number, operator in enumerate(operators)
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", labels])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", labels])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def bits(numbers: NDArray[np.int64], labels: int = LABELS) -> NDArray[np.bool_]:
    return (numbers[:, None] >> np.arange(labels) & 1).astype(bool)


@pytest.mark.parametrize("operators", [(), ("Flatten", "Sigmoid")])
def test_the_answer_has_each_label_above_0_and_the_softmax_is_the_product_of_sigmoids(
    operators: tuple[str, ...],
) -> None:
    logits = onnx_logits(append_label_sets(network(*operators), LABELS), LOGITS)
    assert logits.shape == (40, 2**LABELS)
    np.testing.assert_array_equal(bits(logits.argmax(1)), LOGITS > 0)
    assert np.all(logits.max(1) == 0)
    shares = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    set_bits = bits(np.arange(2**LABELS))
    expected = np.where(set_bits, shares[:, None], 1 - shares[:, None]).prod(axis=2)
    softmax = torch.from_numpy(logits).double().softmax(1).numpy()
    np.testing.assert_allclose(softmax, expected, atol=1e-6)


def test_in_half_precision_the_answer_is_the_same() -> None:
    half = LOGITS.astype(np.float16)
    assert np.all(half != 0)
    logits = OnnxNetwork(append_label_sets(network(), LABELS)).half()(torch.from_numpy(half))
    np.testing.assert_array_equal(bits(logits.argmax(1).numpy()), half > 0)


def test_the_loss_of_attacks_is_the_binary_cross_entropy_of_all_labels() -> None:
    truth = RNG.integers(0, 2**LABELS, 40)
    layer = OnnxNetwork(append_label_sets(network("Sigmoid"), LABELS))
    gradients = []
    for loss in (
        lambda x: functional.cross_entropy(layer(x), torch.from_numpy(truth), reduction="sum"),
        lambda x: functional.binary_cross_entropy_with_logits(
            x, torch.from_numpy(bits(truth)).float(), reduction="sum"
        ),
    ):
        inputs = torch.from_numpy(LOGITS).requires_grad_()
        value = loss(inputs)
        gradients.append((value.item(), torch.autograd.grad(value, inputs)[0]))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-6)
    torch.testing.assert_close(gradients[0][1], gradients[1][1], atol=1e-5, rtol=1e-4)
