"""Edit a graph: cut it at a tensor, add pools, heads and label sets as last layers, and write it as an ONNX file."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ...core.errors import ExportError, UnknownName, some_of
from ...core.untrusted import first_line
from ..model_files import BATCH
from .outputs import find_ancestors, last_node, pooled_axes

SMALLEST_NORM = 1e-6
"""The number that features are divided by where their L2 norm is smaller; float16 can hold it."""
MOST_VALUES = 12
"""The most values of a graph that a message lists."""
LABEL_NODES = "label_sets/"
"""How the nodes of label sets begin, which int8 leaves as they are: it would round small logits to 0."""


def to_bytes(model: onnx.ModelProto, name: str = "the rewritten graph", advice: str = "use fp32") -> bytes:
    """The file of a graph: valid, typed, and the same bytes for the same graph; or ExportError, with its name.

    Shapes that can be inferred again are left out: they may be those of the graph before it was rewritten.
    """
    del model.graph.value_info[:]
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ExportError(f"{name} is not valid ONNX: {first_line(error)}; {advice}") from error
    return bytes(model.SerializeToString(deterministic=True))


def extend_graph(
    graph: onnx.GraphProto, nodes: list[onnx.NodeProto], output: str, shape: list[str | int] | None = None
) -> None:
    """Add nodes at the end, the last of which gives the one output from now on."""
    graph.node.extend(nodes)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, shape))


def rename_tensor(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Give a tensor another name, also in graphs inside of nodes."""
    for tensor in (*graph.input, *graph.output, *graph.initializer):
        if tensor.name == old:
            tensor.name = new
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
        for attribute in node.attribute:
            for inner in (*attribute.graphs, attribute.g):
                rename_tensor(inner, old, new)


def open_batch(graph: onnx.GraphProto, batch: int) -> None:
    """Have the constants that an exporter made of a fixed batch follow the number of images.

    These are shapes of a Reshape, and what a Concat joins to each image, such as a transformer's class token.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    nodes, of_images = list[onnx.NodeProto](), {graph.input[0].name}
    for node in graph.node:
        tensors = [name for name in node.input if name in of_images]
        of_images.update(node.output if tensors else ())
        name, attributes = f"open_batch/{node.output[0]}", {entry.name: entry for entry in node.attribute}
        if node.op_type == "Reshape" and tensors and node.input[1] in constants:
            shape = numpy_helper.to_array(constants[node.input[1]]).tolist()
            if batch in shape and 0 not in shape and (-1 not in shape or shape[0] == batch):
                # One size may be left to the number of values; 0 copies that of the input.
                shape[shape.index(batch)] = 0 if -1 in shape else -1
                graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
                node.input[1] = name
                if "allowzero" in attributes:
                    node.attribute.remove(attributes["allowzero"])
        elif node.op_type == "Concat" and tensors and attributes["axis"].i != 0:
            for place, token in enumerate(node.input):
                if token in constants and list(constants[token].dims[:1]) == [batch]:
                    part, first = f"{name}/{place}", numpy_helper.to_array(constants[token])[:1]
                    numbers = {
                        "first": first,
                        "0": np.array([0]),
                        "1": np.array([1]),
                        "ones": np.ones_like(first.shape[1:]),
                    }
                    for end, array in numbers.items():
                        graph.initializer.append(numpy_helper.from_array(array, f"{part}/{end}"))
                    nodes += [
                        helper.make_node("Shape", tensors[:1], [f"{part}/shape"]),
                        helper.make_node("Slice", [f"{part}/{end}" for end in ("shape", "0", "1")], [f"{part}/batch"]),
                        helper.make_node("Concat", [f"{part}/batch", f"{part}/ones"], [f"{part}/sizes"], axis=0),
                        helper.make_node("Expand", [f"{part}/first", f"{part}/sizes"], [part]),
                    ]
                    node.input[place] = part
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def cut_graph(model: onnx.ModelProto, tensor: str, file: str) -> None:
    """Make `tensor` the only output, and remove what it does not need; UnknownName where no node gives it."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output if name}
    if tensor not in makers:
        values = some_of(reversed(makers), MOST_VALUES)
        hint = f"give one that a node gives, the last of which are {values}"
        raise UnknownName(f"tensor of {file}", tensor, makers, hint)
    tensors = find_ancestors([tensor], makers)
    nodes = [node for node in graph.node if tensors.intersection(node.output)]
    weights = [weight for weight in graph.initializer if weight.name in tensors]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(weights)
    extend_graph(graph, nodes, tensor)


def append_pool(model: onnx.ModelProto, pool: str, rank: int) -> None:
    """Pool the one output of a graph as `pool_features` does one of this rank."""
    graph = model.graph
    features = graph.output[0].name
    if pool == "token":
        graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "pool/token"))
        nodes = [helper.make_node("Gather", [features, "pool/token"], ["pool/features"], axis=1)]
    else:
        nodes = [_reduce(model, "ReduceMean", features, "pool/features", pooled_axes(rank), keepdims=0)]
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


def append_label_sets(content: bytes, labels: int) -> bytes:
    """The ONNX file with logits of the sets of labels instead of `logits`, those of each label; less a last sigmoid.

    A network that gives a logit z_l for each of L labels answers with the labels whose logit is above 0. A last layer
    gives each of the 2^L sets of labels, where the number of a set has bit l if label l is in it, the logit

        logit(S) = - sum over l in S of max(0, -z_l) - sum over l not in S of max(0, z_l)

    which is 0 for the answer and negative for any other set, whatever the precision. Its softmax is the product of the
    labels' sigmoids, and its cross entropy the sum of their binary cross entropies. With one label it is a classifier
    of two. Source: the label powerset of Tsoumakas & Katakis 2007 (Multi-label classification: an overview).
    """
    model = onnx.load_from_string(content)
    graph = model.graph
    if (last := last_node(graph)).op_type == "Sigmoid":
        last.op_type = "Identity"
    rename_tensor(graph, "logits", f"{LABEL_NODES}labels")
    bits = np.arange(2**labels) >> np.arange(labels)[:, None] & 1
    weights = -np.concatenate([bits, 1 - bits]).astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(weights, f"{LABEL_NODES}weights"))
    costs = [f"{LABEL_NODES}cost_with", f"{LABEL_NODES}cost_without"]
    nodes = [
        helper.make_node("Neg", [f"{LABEL_NODES}labels"], [f"{LABEL_NODES}opposite"]),
        helper.make_node("Relu", [f"{LABEL_NODES}opposite"], costs[:1]),
        helper.make_node("Relu", [f"{LABEL_NODES}labels"], costs[1:]),
        helper.make_node("Concat", costs, [f"{LABEL_NODES}costs"], axis=1),
        helper.make_node("MatMul", [f"{LABEL_NODES}costs", f"{LABEL_NODES}weights"], ["logits"]),
    ]
    for node in nodes:
        node.name = f"{LABEL_NODES}{node.op_type}/{node.output[0].rpartition('/')[2]}"
    extend_graph(graph, nodes, "logits", [BATCH, 2**labels])
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
