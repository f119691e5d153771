"""Graphs of features against NumPy and torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from small import make_model, make_pictures

from bandlens.core.errors import ExportError, UnknownName, UsageError
from bandlens.export.heads.linear import LinearHead
from bandlens.export.model_files import verify_model
from bandlens.export.onnx.features import (
    append_head,
    append_pool,
    check_pool,
    cut_graph,
    pool_features,
    refuse_features,
)
from bandlens.export.onnx.parity import onnx_logits
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


@pytest.mark.parametrize("opset", [13, 17, 18])
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


def test_a_node_whose_first_output_is_left_out_is_no_source_of_an_input_that_is_left_out() -> None:
    """Both have no name: a clip without a lower end takes nothing from an LSTM behind the cut that gives a state."""
    graph = helper.make_graph(
        [
            helper.make_node("Clip", ["images", "", "most"], ["clipped"]),
            helper.make_node("LSTM", ["clipped", "w", "r"], ["", "logits"], hidden_size=2),
        ],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 2, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2, 2])],
        [
            numpy_helper.from_array(np.array(0.5, np.float32), "most"),
            numpy_helper.from_array(np.ones((1, 8, 3), np.float32), "w"),
            numpy_helper.from_array(np.ones((1, 8, 2), np.float32), "r"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    cut_graph(model, "clipped", "mine")
    assert [node.op_type for node in model.graph.node] == ["Clip"]


def test_tokens_are_pooled_as_their_words_say() -> None:
    tokens: NDArray[np.float32] = RNG.normal(size=(2, 5, 3)).astype(np.float32)
    assert np.array_equal(pool_features(tokens, "token"), tokens[:, 0])
    np.testing.assert_allclose(pool_features(torch.from_numpy(tokens), "mean").numpy(), tokens.mean(1), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "pool", "message"),
    [
        ((2, 5, 3), None, r"gives \(5, 3\) features for each image; pool its tokens: `pool` is token or mean"),
        ((2, 5, 3, 3), None, "pool it: `pool` is mean"),
        ((2, 5, 3, 3), "token", "pool it: `pool` is mean"),
        ((2, 5), "mean", "leave out `pool`"),
        ((2,), None, "name another tensor of it as `output`"),
    ],
)
def test_features_that_cannot_be_pooled_so_are_refused(shape: tuple[int, ...], pool: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pool_features(np.zeros(shape, np.float32), pool)


def test_unknown_pools_and_tensors_are_named(model: onnx.ModelProto) -> None:
    with pytest.raises(UnknownName, match="unknown pool 'first'; known: token, mean"):
        check_pool("first")
    with pytest.raises(UnknownName, match="unknown tensor of mine 'matrix'"):
        cut_graph(model, "matrix", "mine")


def ending_in(name: str, *operators: str) -> bytes:
    names = ["x", *(f"t{number}" for number in range(len(operators) - 1)), name]
    nodes = [
        # A sum is that of two branches, as in a residual network.
        helper.make_node(operator, [names[number], *(["x"] if operator == "Add" else [])], [names[number + 1]])
        for number, operator in enumerate(operators)
    ]
    values = [helper.make_tensor_value_info(value, TensorProto.FLOAT, None) for value in ("x", name)]
    return bytes(helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:])).SerializeToString())


@pytest.mark.parametrize(
    "name", ["last_hidden_state", "image_embeds", "features", "/pooler_output", "sentence_embedding"]
)
def test_outputs_that_are_called_features_are_refused(name: str) -> None:
    with pytest.raises(
        ExportError, match=f"mine gives features \\({name}\\), not logits; give it a head of classes: --head"
    ):
        refuse_features(ending_in(name, "Gemm"), "mine", 10)


@pytest.mark.parametrize(
    ("operators", "width"),
    [
        (["LayerNormalization", "Gather"], 10),
        (["LayerNormalization", "ReduceMean"], 10),
        (["Conv", "Add", "Relu", "GlobalAveragePool", "Flatten"], 10),
        (["Conv", "Relu", "ReduceMean"], 512),
        (["Conv", "Clip", "GlobalAveragePool", "Flatten"], 1000),
        (["Conv", "Relu", "MaxPool", "Flatten", "Identity"], 25_088),
        (["Concat", "Relu", "GlobalAveragePool", "LpNormalization"], 10),
        (["Gemm", "Relu"], 10),
        (["GlobalAveragePool", "Conv", "HardSwish", "Flatten"], 1000),
        (["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm", "Tanh"], 10),
        (["Conv", "Add", "Relu", "Flatten"], 10),
    ],
)
def test_outputs_of_a_last_normalization_pool_or_activation_are_refused(operators: list[str], width: int) -> None:
    with pytest.raises(ExportError, match="mine gives features \\(output\\), not logits; give it a head of classes"):
        refuse_features(ending_in("output", *operators), "mine", width)


@pytest.mark.parametrize(
    ("operators", "width"),
    [
        (["Conv", "Relu", "GlobalAveragePool", "Flatten"], 1000),  # SqueezeNet
        (["Conv", "GlobalAveragePool", "Flatten"], 512),
        (["GlobalAveragePool", "Conv", "Flatten"], 512),
        (["LayerNormalization", "MatMul", "ReduceMean"], 512),  # scores of tokens
        (["Gemm", "Unsqueeze", "Concat", "ReduceMean"], 512),  # scores of several networks
        (["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"], 512),
        (["LayerNormalization", "Gemm"], 10),
        (["Gemm", "Softmax", "ReduceMean"], 64),
        (["GlobalAveragePool", "Flatten"], 3),  # colours of the image itself
    ],
)
def test_scores_of_positions_are_pooled_logits(operators: list[str], width: int) -> None:
    refuse_features(ending_in("output", *operators), "mine", width)
