"""Graphs of features: cut at a tensor, pooled to a vector for each image, and given a head as a last layer."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ...core.errors import ExportError, UnknownName, UsageError
from ..model_files import BATCH
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
    advice = {2: "leave out `pool`", 3: "pool its tokens: `pool` is token or mean", 4: "pool it: `pool` is mean"}
    raise UsageError(f"the network gives {each}; {advice.get(rank, 'name another tensor of it as `output`')}")


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
ACTIVATIONS = {
    *("Celu", "Clip", "Elu", "Gelu", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu", "Selu", "Swish", "Tanh")
}
ARITHMETIC = {"Add", "Div", "Mul", "Sub"}
"""Operators that may add a bias, or scale."""
ELEMENTWISE = ARITHMETIC | {"Clip", "Erf", "HardSigmoid", "Pow", "Sigmoid", "Softplus", "Tanh"}
"""Operators that exporters write GELU, SiLU and their like with; the last of these is a product."""
LINEAR = {"Conv", "Gemm", "MatMul"}
GIVES_SCORES = LINEAR | {"Log", "LogSoftmax", "Sigmoid", "Softmax"}
"""Operators whose pooled values are scores of classes: those of positions, or of crops."""
STEP_OF_WIDTHS = 32
"""The number of pooled features of the usual backbones is a multiple of this."""


def refuse_features(content: bytes, network: str, width: int) -> None:
    """ExportError, which names `network`, where its one output, (n, width), is known to be features.

    That is so by its name, where its last layer is a normalization, where an activation follows its last linear layer,
    or where it is pooled from other values than scores of such a layer. A 1 x 1 convolution, a ReLU and a pool end both
    SqueezeNet and many a backbone; they give scores where their number is unusual for features. What a last linear
    layer gives passes for logits.
    """
    graph = onnx.load_from_string(content).graph
    makers = {name: node for node in graph.node for name in node.output if name}
    (output,) = (value.name for value in graph.output)
    constants = {weight.name: weight for weight in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants.update((node.output[0], attribute.t) for attribute in node.attribute)
        elif node.op_type == "Identity" and node.input[0] in constants:  # equal weights are kept once
            constants[node.output[0]] = constants[node.input[0]]
    last, kinds = makers.get(output), set[str]()
    while last is not None:
        kind, inputs = last.op_type, [name for name in last.input if name not in constants]
        if kind == "Mul" and len(inputs) > 1 and (source := _gated_tensor(inputs, makers, constants)):
            kind, inputs = "Swish", [source]
        transparent_kinds = ARRANGES | POOLINGS | ACTIVATIONS | (ARITHMETIC if len(inputs) == 1 else set())
        if kind not in transparent_kinds or not inputs:
            break
        if not _limits_logits(last, constants, kinds):
            kinds.add(kind)
        last = makers.get(inputs[0])
    kind, activations = last.op_type if last else "", kinds & ACTIVATIONS
    squeezed = (
        activations == {"Relu"} and bool(kinds & POOLINGS) and _is_pointwise(last) and width % STEP_OF_WIDTHS != 0
    )
    scores = kind in GIVES_SCORES and (kind not in LINEAR or not activations or squeezed)
    hidden = last is not None and not scores and bool(kinds & (ACTIVATIONS | POOLINGS))
    if FEATURES.fullmatch(output) or kind in NORMALIZATIONS_OF_FEATURES or hidden:
        advice = "; if these are logits, export it without its last activation" if activations else ""
        raise ExportError(f"{network} gives features ({output}), not logits; {GIVE_HEAD}{advice}")


def _gated_tensor(
    factors: Iterable[str], makers: Mapping[str, onnx.NodeProto], constants: Collection[str]
) -> str | None:
    """The tensor x where factors are functions of its numbers alone, as in the x f(x) of SiLU and GELU; else None."""
    queue, visited, sources = list(factors), set[str](), set[str]()
    while queue:
        name = queue.pop()
        if name in visited or name in constants:
            continue
        visited.add(name)
        maker = makers.get(name)
        if maker is not None and maker.op_type in ELEMENTWISE:
            queue += maker.input
        else:
            sources.add(name)
    return sources.pop() if len(sources) == 1 else None


def _limits_logits(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], kinds: Collection[str]) -> bool:
    """Whether a node keeps logits of both signs within limits, as a clip may, and tanh if its values are scaled."""
    if node.op_type == "Tanh":
        return bool(ARITHMETIC.intersection(kinds))
    lower = constants.get(node.input[1]) if node.op_type == "Clip" and len(node.input) > 1 else None
    return lower is not None and lower.data_type != 0 and bool(numpy_helper.to_array(lower) < 0)


def _is_pointwise(node: onnx.NodeProto | None) -> bool:
    """Whether the node is a convolution of single positions."""
    if node is None or node.op_type != "Conv":
        return False
    return all(side == 1 for attribute in node.attribute if attribute.name == "kernel_shape" for side in attribute.ints)


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
