"""Graphs of features: cut at a tensor, pooled to a vector for each image, and given a head as a last layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ...errors import ExportError, UnknownName, UsageError
from ..models import BATCH
from .graph import extend_graph, rename_tensor, to_bytes
from .parity import GIVE_HEAD

POOLS = {"token": "the first token of each image", "mean": "the mean of an image's tokens, or of its positions"}
"""How features of tokens, (n, tokens, d), or of positions, (n, d, height, width), become a vector."""
SMALLEST_NORM = 1e-6
"""The number that features are divided by where their L2 norm is smaller; float16 can hold it."""


Features = TypeVar("Features", bound=Any)
"""An array of NumPy or a tensor of torch."""


def pool_features(features: Features, pool: str | None) -> Features:
    """(n, d) vectors of (n, d), (n, tokens, d) or (n, d, height, width) features; UsageError for others."""
    rank = features.ndim
    if pool is None and rank == 2:
        return features
    if (pool, rank) == ("token", 3):
        return cast(Features, features[:, 0])
    if pool == "mean" and rank in (3, 4):
        return cast(Features, features.mean(_pooled_axes(rank)))
    each = f"{tuple(features.shape[1:])} features for each image"
    advice = {2: "leave out --pool", 3: "pool its tokens with --pool token or mean", 4: "pool it with --pool mean"}
    raise UsageError(f"the network gives {each}; {advice.get(rank, 'name another output of it with --output')}")


def _pooled_axes(rank: int) -> tuple[int, ...]:
    return (1,) if rank == 3 else (2, 3)


FEATURES = re.compile(r"(.*[._/])?(last_hidden_state|pooler_output|embed(ding)?s?|features?)", re.IGNORECASE)
"""Names of outputs that are features, as exporters of backbones call them."""
NORMALIZATIONS_OF_FEATURES = {"LayerNormalization", "LpNormalization"}
"""Operators that no classifier ends with, and many a backbone does."""
ARRANGES = {
    *("BatchNormalization", "Cast", "Concat", "Dropout", "Flatten", "Gather", "Identity", "Reshape", "Slice"),
    *("Squeeze", "Transpose", "Unsqueeze", "QuantizeLinear", "DequantizeLinear"),
}
"""Operators that choose, arrange or scale features; of several that are joined the first is looked at."""
POOLINGS = {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMean"}
ACTIVATIONS = {"Clip", "Elu", "Gelu", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Selu"}
ARITHMETIC = {"Add", "Div", "Mul", "Sub"}
"""Operators that may add a bias, or scale."""
GIVES_SCORES = {"Conv", "Gemm", "MatMul", "Log", "LogSoftmax", "Sigmoid", "Softmax"}
"""Operators whose pooled values are scores of classes: those of positions, or of crops."""
STEP_OF_WIDTHS = 32
"""The number of pooled features of the usual backbones is a multiple of this."""


def refuse_features(content: bytes, network: str, width: int) -> None:
    """ExportError, which names `network`, where its one output, (n, width), is known to be features.

    That is so by its name, where its last layer is a normalization, or where it is pooled from other values than
    scores of a last linear layer. A ReLU between the two, as torchvision's SqueezeNet has it, leaves scores where
    their number is unusual for features. Features without such a sign pass for logits.
    """
    graph = onnx.load_from_string(content).graph
    makers = {name: node for node in graph.node for name in node.output if name}
    (output,) = (value.name for value in graph.output)
    constants = {weight.name for weight in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    node, passed = makers.get(output), set[str]()
    while node is not None:
        inputs = [name for name in node.input if name not in constants]
        walks_on = ARRANGES | POOLINGS | ACTIVATIONS | (ARITHMETIC if len(inputs) == 1 else set())
        if node.op_type not in walks_on or not inputs:
            break
        passed.add(node.op_type)
        node = makers.get(inputs[0])
    kind, active = node.op_type if node else None, passed & ACTIVATIONS
    scores = kind in GIVES_SCORES and (not active or (active == {"Relu"} and width % STEP_OF_WIDTHS != 0))
    pooled = kind is not None and bool(passed & POOLINGS) and not scores
    if FEATURES.fullmatch(output) or kind in NORMALIZATIONS_OF_FEATURES or pooled:
        unless = "; if these are logits, export it without the activation before the pool" if pooled and active else ""
        raise ExportError(f"{network} gives features ({output}), not logits; {GIVE_HEAD}{unless}")


def check_pool(pool: str | None) -> None:
    """UnknownName for a pool that there is not."""
    if pool is not None and pool not in POOLS:
        raise UnknownName("pool", pool, POOLS)


def cut_graph(model: onnx.ModelProto, tensor: str, file: str) -> None:
    """Make `tensor` the only output, and remove what it does not need; UnknownName where no node gives it."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output if name}
    if tensor not in makers:
        raise UnknownName(f"tensor of {file}", tensor, makers, "give one that a node of the graph computes")
    needed, waiting = set[str](), [tensor]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += _inputs_of(makers[name]) if name in makers else []
    needed.discard("")  # an input that is left out is not an output that is left out elsewhere
    nodes = [node for node in graph.node if needed.intersection(node.output)]
    weights = [weight for weight in graph.initializer if weight.name in needed]
    del graph.node[:], graph.initializer[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)
    graph.output.append(helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))


def _inputs_of(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node takes, those that the graphs inside it take from outside included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _inputs_of(inner)


def append_pool(model: onnx.ModelProto, pool: str, rank: int) -> None:
    """Pool the one output of a graph as `pool_features` does one of this rank."""
    graph = model.graph
    features = graph.output[0].name
    if pool == "token":
        graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "pool/token"))
        nodes = [helper.make_node("Gather", [features, "pool/token"], ["pool/features"], axis=1)]
    else:
        nodes = [_reduce(model, "ReduceMean", features, "pool/features", _pooled_axes(rank), keepdims=0)]
    extend_graph(graph, nodes, "pool/features")


def append_head(content: bytes, weight: NDArray[np.float64], bias: NDArray[np.float64], unit: bool = False) -> bytes:
    """The ONNX file whose `logits` are those that a linear head gives of its one output, (batch, d) features.

    Args:
        content: an ONNX file with one output, `logits`.
        weight: (classes, d).
        bias: (classes,).
        unit: divide the features by their L2 norm first.
    """
    model = onnx.load_from_string(content)
    graph = model.graph
    rename_tensor(graph, "logits", "head/features")
    features = "head/features"
    nodes = []
    if unit:
        graph.initializer.append(numpy_helper.from_array(np.array([[SMALLEST_NORM]], np.float32), "head/smallest_norm"))
        nodes = [
            _reduce(model, "ReduceL2", features, "head/norm", (1,), keepdims=1),
            helper.make_node("Max", ["head/norm", "head/smallest_norm"], ["head/divisor"]),
            helper.make_node("Div", [features, "head/divisor"], ["head/unit_features"]),
        ]
        features = "head/unit_features"
    graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), "head/weight"))
    graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), "head/bias"))
    nodes.append(helper.make_node("Gemm", [features, "head/weight", "head/bias"], ["logits"], transB=1))
    extend_graph(graph, nodes, "logits", [BATCH, len(weight)])
    return to_bytes(model)


def _reduce(
    model: onnx.ModelProto, operator: str, source: str, result: str, axes: Iterable[int], keepdims: int
) -> onnx.NodeProto:
    """A reduction: its axes are an input from opset 18 on, and an attribute before."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < 18:
        return helper.make_node(operator, [source], [result], axes=list(axes), keepdims=keepdims)
    model.graph.initializer.append(numpy_helper.from_array(np.array(list(axes), np.int64), f"{result}_axes"))
    return helper.make_node(operator, [source, f"{result}_axes"], [result], keepdims=keepdims)
