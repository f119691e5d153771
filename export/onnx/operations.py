"""Count the operations of a network for one image."""

from __future__ import annotations

import math

import onnx

from ...core.errors import ExportError

PRODUCTS = ("Conv", "Gemm", "MatMul")
"""Operators that do nearly all of a network's arithmetic."""


def operations_of_nodes(content: bytes) -> dict[str, float]:
    """Floating-point operations of each of an ONNX file's PRODUCTS for one image: two for each multiplication.

    They are by the name of the node, or of its value where the node has no name.

    Raises ExportError where the sizes of a product are not known before it runs.
    """
    model = onnx.load_from_string(content)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    try:
        return _count(model)
    except ExportError:
        # Older exporters of attention compute sizes in the graph; folding takes seconds, and is not always needed.
        return _count(_fold(model))


def _fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with constants in place of what does not depend on the images."""
    from onnxscript import ir, optimizer

    folded = ir.from_proto(model)
    optimizer.optimize_ir(folded)
    proto: onnx.ModelProto = ir.to_proto(folded)
    return proto


def _count(model: onnx.ModelProto) -> dict[str, float]:
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    return {
        node.name or node.output[0]: 2.0 * _multiplications(node, shapes)
        for node in graph.node
        if node.op_type in PRODUCTS
    }


def _multiplications(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    output, weights = shapes.get(node.output[0], []), shapes.get(node.input[1], [])
    if node.op_type == "Conv":
        each = math.prod(weights[1:])  # an output takes channels of its group x height x width
    elif node.op_type == "Gemm":
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        each = weights[1 if transposed else 0] if weights else 0
    else:
        each = weights[-2] if len(weights) > 1 else math.prod(weights)
    if not output or 0 in output or not each:
        raise ExportError(f"the sizes of {node.op_type} '{node.name}' are not known, so its operations are not")
    return math.prod(output) * each
