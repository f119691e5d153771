"""Edit a graph, and write it as an ONNX file."""

from __future__ import annotations

import onnx
from onnx import helper

from ...core.errors import ExportError
from ...core.untrusted import first_line


def to_bytes(model: onnx.ModelProto) -> bytes:
    """The file of a graph that was rewritten: valid, typed, and the same bytes for the same graph; or ExportError.

    Shapes that can be inferred again are left out: they may be those of the graph before it was rewritten.
    """
    del model.graph.value_info[:]
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ExportError(f"the rewritten graph is not valid ONNX: {first_line(error)}; use fp32") from error
    return bytes(model.SerializeToString(deterministic=True))


def extend_graph(
    graph: onnx.GraphProto, nodes: list[onnx.NodeProto], output: str, shape: list[str | int] | None = None
) -> None:
    """Add nodes at the end, the last of which gives the one output from now on."""
    graph.node.extend(nodes)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, shape))


def rename_tensor(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Give a tensor another name wherever nodes give or take it."""
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
