"""The fp16 graph of an fp32 ONNX file, strongly typed: what is float16 is so in the file, not by a runtime's choice."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from ..errors import ExportError
from .onnx_bytes import to_bytes

LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).smallest_subnormal)

ARITHMETIC = {"Sub", "Div", "Mul", "Add"}
"""What a normalization is made of."""


def half_graph(content: bytes) -> bytes:
    """The graph with float16 weights and activations, between float32 images and float32 logits.

    (images - mean) / std stays float32, since float16 would round the images; behind it stands one cast to float16, and
    one back before the logits. Operators that runtimes lack in float16, such as Max and TopK, stay float32 between
    casts. The same content gives the same bytes.

    Raises ExportError, with its name, for an initializer that float16 cannot hold: one with a finite value beyond
    65504, or whose largest value is below 6e-08 and not zero.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = onnx.load_from_string(content)
    for initializer in model.graph.initializer:
        _check_range(initializer)
    # The converter casts what enters the graph, so it is shown the part behind the normalization.
    head = _take_normalization(model.graph)
    (images,) = model.graph.input
    normalized = images.name
    if head:
        normalized, images.name = images.name, head[-1].output[0]
        _rename_input(model.graph, normalized, images.name)
    model = convert_float_to_float16(model, keep_io_types=True)
    if head:
        model.graph.input[0].name = normalized
        model.graph.node.extend(head)
    OnnxModel.graph_topological_sort(model.graph)
    return to_bytes(model)


def _take_normalization(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Take off the graph the chain of arithmetic with constants that the images go through before anything else."""
    constants = {initializer.name for initializer in graph.initializer}
    head: list[onnx.NodeProto] = []
    value = graph.input[0].name
    while True:
        # Shape reads no values: its input may be of either type.
        users = [node for node in graph.node if value in node.input and node.op_type != "Shape"]
        if len(users) != 1 or users[0].op_type not in ARITHMETIC or not set(users[0].input) <= constants | {value}:
            break
        head.append(users[0])
        (value,) = users[0].output
    for node in head:
        graph.node.remove(node)
    return head


def _rename_input(graph: onnx.GraphProto, before: str, after: str) -> None:
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name == before:
                node.input[position] = after


def _check_range(initializer: onnx.TensorProto) -> None:
    if initializer.data_type != onnx.TensorProto.FLOAT:
        return
    values = np.abs(numpy_helper.to_array(initializer))
    largest = float(values[np.isfinite(values)].max(initial=0))
    if largest > LARGEST:
        raise ExportError(
            f"{initializer.name} holds {largest:.3g}, and float16 ends at {LARGEST:.0f}; use fp32 or int8"
        )
    if 0 < largest < SMALLEST:
        raise ExportError(
            f"{initializer.name} holds nothing above {largest:.2g}, which vanishes in float16; use fp32 or int8"
        )
