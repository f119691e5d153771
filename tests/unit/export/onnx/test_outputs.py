"""Outputs of networks are told apart by their numbers, and by the last nodes of the graph."""

from __future__ import annotations

import time
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.parser import parse_graph

from bandlens.core.errors import ExportError, UnknownName, UsageError
from bandlens.export.onnx.outputs import Features, Outputs, check_outputs, pool_features, refuse_features

RNG = np.random.default_rng(0)


def test_tokens_are_pooled_as_their_words_say() -> None:
    tokens: NDArray[np.float32] = RNG.normal(size=(2, 5, 3)).astype(np.float32)
    assert np.array_equal(pool_features(tokens, "token"), tokens[:, 0])
    np.testing.assert_allclose(pool_features(torch.from_numpy(tokens), "mean").numpy(), tokens.mean(1), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "pool", "message"),
    [
        ((2, 5, 3), None, r"gives \(5, 3\) features for each image; pool its tokens: `pool` is token or mean"),
        ((2, 5, 3, 3), "token", "pool it: `pool` is mean"),
        ((2, 5), "mean", "leave out `pool`"),
        ((2,), None, "name another tensor of it as `output`"),
    ],
)
def test_features_that_cannot_be_pooled_so_are_refused(shape: tuple[int, ...], pool: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pool_features(np.zeros(shape, np.float32), pool)


def test_an_unknown_pool_is_named() -> None:
    with pytest.raises(UnknownName, match="unknown pool 'first'; known: token, mean"):
        Features(pool="first")


ZERO = helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0])
SECOND_INPUTS = {"Add": ["x"], "Clip": ["zero"]}
"""A sum is that of two branches, as in a residual network, and a clip ends at 0, as that of ReLU6."""


def ending_in(name: str, *operators: str) -> bytes:
    names = ["x", *(f"t{number}" for number in range(len(operators) - 1)), name]
    nodes = [
        helper.make_node(operator, [names[number], *SECOND_INPUTS.get(operator, [])], [names[number + 1]])
        for number, operator in enumerate(operators)
    ]
    values = [helper.make_tensor_value_info(value, TensorProto.FLOAT, None) for value in ("x", name)]
    return bytes(helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], [ZERO])).SerializeToString())


@pytest.mark.parametrize("name", ["last_hidden_state", "/pooler_output"])
def test_outputs_that_are_called_features_are_refused(name: str) -> None:
    with pytest.raises(ExportError, match=f"mine gives features \\(output {name}\\), not logits; give it a head of"):
        refuse_features(ending_in(name, "Gemm"), "mine", 10)


@pytest.mark.parametrize(
    ("operators", "width"),
    [
        (["LayerNormalization", "ReduceMean"], 10),
        (["Conv", "Add", "Relu", "GlobalAveragePool", "Flatten"], 10),
        (["Conv", "Clip", "GlobalAveragePool", "Flatten"], 1000),
        (["Concat", "Relu", "GlobalAveragePool", "LpNormalization"], 10),
        (["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm", "Tanh"], 10),
    ],
)
def test_outputs_of_a_last_normalization_pool_or_activation_are_refused(operators: list[str], width: int) -> None:
    with pytest.raises(ExportError, match="mine gives features \\(output output\\), not logits; give it a head of"):
        refuse_features(ending_in("output", *operators), "mine", width)


@pytest.mark.parametrize(
    ("operators", "width"),
    [
        (["Conv", "Relu", "GlobalAveragePool", "Flatten"], 1000),  # SqueezeNet
        (["GlobalAveragePool", "Conv", "Flatten"], 512),
        (["LayerNormalization", "MatMul", "ReduceMean"], 512),  # scores of tokens
        (["Gemm", "Unsqueeze", "Concat", "ReduceMean"], 512),  # scores of several networks
        (["Gemm", "Softmax", "ReduceMean"], 64),
        (["GlobalAveragePool", "Flatten"], 3),  # colours of the image itself
    ],
)
def test_scores_of_positions_are_pooled_logits(operators: list[str], width: int) -> None:
    refuse_features(ending_in("output", *operators), "mine", width)


def content_of(nodes: str) -> bytes:
    graph = parse_graph(f"sums (float[N, 3, 8, 8] x) => (float[N, 32] y) <float[1] w = {{1}}> {{ {nodes} }}")
    return bytes(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize(
    ("nodes", "refused"),
    [
        ("a = Conv(x, w)  b = Conv(x, w)  sum = Add(a, b)  y = GlobalAveragePool(sum)", False),
        ("f = Relu(x)  a = Gemm(f, w)  b = Gemm(f, w)  sum = Add(a, b)  all = Concat(sum)  y = ReduceMean(all)", False),
        ("a = Conv(x, w)  b = Relu(a)  sum = Add(a, b)  y = GlobalAveragePool(sum)", True),  # a residual block
        ("a = Conv(x, w)  b = Conv(a, w)  sum = Add(b, a)  y = GlobalAveragePool(sum)", True),
        ("a = Conv(x, w)  b = Conv(x, w)  c = Relu(b)  sum = Add(a, c)  y = GlobalAveragePool(sum)", True),
        ("a = Conv(x, w)  b = Conv(x, w)  sum = Add(a, b)  y = Relu(sum)", True),
        ("a = Gemm(x, w)  b = Relu(x)  y = Add(a, b)", False),
    ],
)
def test_a_sum_of_separate_scores_is_of_scores_and_that_of_a_residual_block_is_none(nodes: str, refused: bool) -> None:
    with pytest.raises(ExportError, match="gives features") if refused else nullcontext():
        refuse_features(content_of(nodes), "mine", 32)


def test_sums_of_equal_sums_take_no_longer_than_others() -> None:
    """Looked at once for each way that leads to it, the first node would be looked at 2 to the power of 40 times."""
    sums = " ".join(f"s{level + 1} = Add (s{level}, s{level})" for level in range(40))
    with pytest.raises(ExportError, match="gives features"):
        refuse_features(content_of(f"s0 = Gemm(x, w) {sums} y = Relu(s40)"), "mine", 32)


def test_a_sum_of_many_scores_takes_time_in_proportion_to_them() -> None:
    """Were the ancestors of each sum collected anew, 2,000 sums would take 16 s."""
    sums = " ".join(f"a{k} = Gemm (x, w) s{k + 1} = Add (s{k}, a{k})" for k in range(2000))
    content = content_of(f"s0 = Gemm(x, w) {sums} y = ReduceMean(s2000)")
    start = time.process_time()
    refuse_features(content, "mine", 32)
    assert time.process_time() - start < 3


def test_outputs_that_are_stated_to_be_logits_are_believed() -> None:
    shares = RNG.uniform(0.2, 0.9, size=(4, 5)).astype(np.float32)
    suspects = [
        (shares, ending_in("output", "Gemm")),
        (shares - 0.5, ending_in("output", "LRN", "ReduceMean")),
        (shares / shares.sum(axis=1, keepdims=True), ending_in("output", "Hardmax", "ReduceMean")),
        (shares / np.linalg.norm(shares, axis=1, keepdims=True), ending_in("output", "Gemm")),
    ]
    for outputs, content in suspects:
        with pytest.raises(ExportError, match=r"not logits.*; if these are logits, say so with --outputs logits"):
            check_outputs(outputs, content, "mine")
        check_outputs(outputs, content, "mine", Outputs(stated=True))
    with pytest.raises(ExportError, match="predictions are stored of 1 to"):
        check_outputs(np.zeros((2, 70000), np.float32), ending_in("output", "Gemm"), "mine", Outputs(stated=True))


def test_labels_with_a_last_sigmoid_pass_and_without_it_or_too_many_they_are_refused() -> None:
    shares = 1 / (1 + np.exp(-RNG.normal(size=(4, 5)).astype(np.float32)))
    check_outputs(shares, ending_in("output", "Gemm", "Sigmoid"), "mine", Outputs(multilabel=True))
    with pytest.raises(ExportError, match=r"as a sigmoid does, .* export the network without its last sigmoid; if"):
        check_outputs(shares, ending_in("output", "Gemm"), "mine", Outputs(multilabel=True))
    with pytest.raises(ExportError, match="mine gives 16 labels, and sets of more than 15 are too many"):
        check_outputs(np.zeros((4, 16), np.float32), ending_in("output", "Gemm"), "mine", Outputs(multilabel=True))
