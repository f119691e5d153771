"""Edit ONNX graphs: truncate them at a tensor, append pooling, heads or label sets, and serialize them."""

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
"""Lower bound for the L2 norm by which features are divided. float16 can represent it."""
MOST_VALUES = 12
"""Maximum number of tensor names that an error message lists."""
LABEL_NODES = "label_sets/"
"""Prefix of the names of the nodes for label sets.

They are not quantized to int8, which would round small logits to 0.
"""


def to_bytes(model: onnx.ModelProto, name: str = "the rewritten graph", advice: str = "use fp32") -> bytes:
    """Serialize a graph after checking that it is valid. The same graph gives the same bytes.

    Inferred shapes are removed, because they may describe the graph before it was edited.

    Args:
        model: The graph.
        name: Name of the graph in the error message.
        advice: What to do about an error.

    Raises:
        ExportError: If the graph is not valid ONNX.
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
    """Append nodes. `output`, computed by the last of them, becomes the only output."""
    graph.node.extend(nodes)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, shape))


def rename_tensor(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a tensor, including its uses in subgraphs."""
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
    """Make the batch size dynamic in constants that an exporter computed for a fixed batch size.

    These are the target shapes of Reshape, and tensors that Concat joins to each image, such as the class token of a
    transformer.
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
                # -1 infers one dimension from the number of values, and 0 copies the dimension of the input. Only one
                # -1 is allowed, so 0 is used if the shape already contains one.
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
    """Make `tensor` the only output, and remove the nodes that it does not need.

    Raises UnknownName if no node computes it.
    """
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
    """Pool the only output of a graph in the same way as `pool_features` pools features with `rank` dimensions."""
    graph = model.graph
    features = graph.output[0].name
    if pool == "token":
        graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "pool/token"))
        nodes = [helper.make_node("Gather", [features, "pool/token"], ["pool/features"], axis=1)]
    else:
        nodes = [_reduce(model, "ReduceMean", features, "pool/features", pooled_axes(rank), keepdims=0)]
    extend_graph(graph, nodes, "pool/features")


def append_head(content: bytes, weight: NDArray[np.float64], bias: NDArray[np.float64], unit: bool = False) -> bytes:
    """Append a linear head to an ONNX file whose output is (batch, d) features.

    Args:
        content: ONNX file with one output, which is named `logits`.
        weight: (classes, d).
        bias: (classes,).
        unit: Whether to divide the features by their L2 norm first.

    Returns:
        The ONNX file, whose output `logits` is now that of the head.
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
    """Convert the logits of L labels to logits of the 2^L sets of labels. A final sigmoid is removed first.

    A multi-label model with a logit z_l for each of L labels predicts the labels whose logit is above 0. The appended
    layer computes a logit for each set S of labels, where bit l of the number of a set is 1 if label l belongs to it:

        logit(S) = - sum over l in S of max(0, -z_l) - sum over l not in S of max(0, z_l)

    The logit is 0 for the predicted set and negative for every other set, at any precision. The softmax over the sets
    is the product of the sigmoids of the labels, and its cross-entropy is the sum of their binary cross-entropies. With
    one label, the result is a classifier with two classes.

    Source: the label powerset of Tsoumakas & Katakis 2007 (Multi-label classification: an overview).
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
    """Make a reduction node. Its axes are an input from opset 18 on, and an attribute before."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < 18:
        return helper.make_node(operator, [source], [result], axes=list(axes), keepdims=keepdims)
    model.graph.initializer.append(numpy_helper.from_array(np.array(list(axes), np.int64), f"{result}_axes"))
    return helper.make_node(operator, [source, f"{result}_axes"], [result], keepdims=keepdims)
