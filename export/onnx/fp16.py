"""Convert an fp32 ONNX file to fp16.

The result is strongly typed: the file, not the runtime, determines what is float16.

The same graph can also be made in bfloat16, which has the exponent range of float32 and 8 significant bits. It is made
only as input for TensorRT and is not stored.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...core.errors import ExportError
from ...core.extras import naming_extras
from .graph import rename_tensor, to_bytes
from .outputs import ARITHMETIC

LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
"""Largest finite float16 value."""
SMALLEST_FLOAT16 = float(np.finfo(np.float16).smallest_subnormal)
"""Smallest positive float16 value."""

HALVES = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
"""Name of the precision of each 16-bit data type."""


def to_fp16(content: bytes) -> bytes:
    """Convert an ONNX file to float16 weights and activations. The images and the logits stay float32.

    The normalization (images - mean) / std stays float32 because float16 would round the images. One cast to float16
    follows it, and one cast back precedes the logits. Operators that runtimes do not support in float16, such as Max
    and TopK, stay float32 between casts. The same input gives the same bytes.

    Args:
        content: The fp32 ONNX file.

    Returns:
        The fp16 ONNX file.

    Raises:
        ExportError: If ONNX Runtime is not installed, or if float16 cannot represent a weight tensor: it has a finite
            value above 65504, or its largest value is below 6e-08 and not zero. The message names the tensor.
    """
    for initializer in onnx.load_from_string(content).graph.initializer:
        _check_range(initializer)
    return _convert(content)


def to_bf16(content: bytes) -> bytes:
    """Convert an ONNX file to bfloat16 wherever `to_fp16` uses float16. There are no limits on the weights.

    The operator versions of the file do not permit bfloat16 by the ONNX specification. TensorRT accepts it
    nevertheless, but other runtimes may not.
    """
    originals = {initializer.name: initializer for initializer in onnx.load_from_string(content).graph.initializer}
    model = onnx.load_from_string(_convert(content))
    for initializer in model.graph.initializer:
        _retype(initializer, TensorProto.BFLOAT16, originals.get(initializer.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            _retype(attribute.t, TensorProto.BFLOAT16)
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.BFLOAT16
    del model.graph.value_info[:]
    return bytes(model.SerializeToString(deterministic=True))


def _convert(content: bytes) -> bytes:
    """Convert the graph as described in `to_fp16`. Values outside the range of float16 are clipped."""
    with naming_extras("fp16", ExportError):
        from onnxruntime.transformers.float16 import convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel
    model = onnx.load_from_string(content)
    # The converter inserts its cast directly after the input of the graph. It therefore receives only the part after
    # the normalization, so that the cast follows the normalization.
    head = _take_normalization(model.graph)
    (images,) = model.graph.input
    normalized = images.name
    if head:
        normalized, images.name = images.name, head[-1].output[0]
        rename_tensor(model.graph, normalized, images.name)
    model = convert_float_to_float16(model, keep_io_types=True)
    if head:
        model.graph.input[0].name = normalized
        model.graph.node.extend(head)
    OnnxModel.graph_topological_sort(model.graph)
    return to_bytes(model)


def _take_normalization(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Remove the normalization from the graph, and return its nodes.

    It is recognized as the chain of arithmetic with constants through which the images pass first.
    """
    constants = {initializer.name for initializer in graph.initializer}
    head: list[onnx.NodeProto] = []
    value = graph.input[0].name
    while True:
        # Shape does not read the values of its input, so its type may change.
        users = [node for node in graph.node if value in node.input and node.op_type != "Shape"]
        if len(users) != 1 or users[0].op_type not in ARITHMETIC or not set(users[0].input) <= constants | {value}:
            break
        head.append(users[0])
        (value,) = users[0].output
    for node in head:
        graph.node.remove(node)
    return head


def _check_range(initializer: TensorProto) -> None:
    """Raise ExportError if float16 cannot represent the weight tensor."""
    if initializer.data_type != TensorProto.FLOAT:
        return
    values = np.abs(numpy_helper.to_array(initializer))
    maximum = float(values[np.isfinite(values)].max(initial=0))
    if maximum > LARGEST_FLOAT16:
        raise ExportError(
            f"{initializer.name} holds {maximum:.3g}, and float16 ends at {LARGEST_FLOAT16:.0f}; use fp32 or int8"
        )
    if 0 < maximum < SMALLEST_FLOAT16:
        raise ExportError(
            f"{initializer.name} holds nothing above {maximum:.2g}, which vanishes in float16; use fp32 or int8"
        )


def emulate_in_fp32(content: bytes) -> bytes:
    """Emulate an fp16 or bf16 file in float32 by rounding each result to the file's precision.

    This is for runtimes without 16-bit arithmetic. ONNX Runtime on the CPU would round only the weights, which would
    hide the rounding errors and overflows of activations on a GPU.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
    graph = model.graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    for initializer in graph.initializer:
        _retype(initializer, TensorProto.FLOAT)
    nodes = []
    for node in graph.node:
        for attribute in node.attribute:
            _retype(attribute.t, TensorProto.FLOAT)
            if node.op_type == "Cast" and attribute.i in HALVES:
                attribute.i = TensorProto.FLOAT
        nodes.append(node)
        for position, name in enumerate(node.output):
            if (kind := kinds.get(name)) in HALVES:
                exact, half = f"{name}_exact", f"{name}_half"
                node.output[position] = exact
                nodes.append(helper.make_node("Cast", [exact], [half], to=kind))
                nodes.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
    return to_bytes(model)


def _retype(tensor: TensorProto, kind: int, source: TensorProto | None = None) -> None:
    """Convert a 16-bit tensor to another type. The values come from `source`, or by default from the tensor itself."""
    if tensor.data_type in HALVES:
        values = numpy_helper.to_array(source or tensor).astype(helper.tensor_dtype_to_np_dtype(kind))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
