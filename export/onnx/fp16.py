"""Make the fp16 file of an fp32 ONNX file, strongly typed: the file says what is float16, and no runtime chooses.

The same graph in bfloat16, which has float32's range and 8 bits, is made for TensorRT alone and kept nowhere.
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
SMALLEST_FLOAT16 = float(np.finfo(np.float16).smallest_subnormal)

HALVES = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}


def to_fp16(content: bytes) -> bytes:
    """The ONNX file with float16 weights and activations, between float32 images and float32 logits.

    (images - mean) / std stays float32, since float16 would round the images; behind it stands one cast to float16, and
    one back before the logits. Operators that runtimes lack in float16, such as Max and TopK, stay float32 between
    casts. The same content gives the same bytes.

    Raises ExportError if ONNX Runtime is not installed, and, with its name, for an initializer that float16 cannot
    hold: one with a finite value beyond 65504, or whose largest value is below 6e-08 and not zero.
    """
    for initializer in onnx.load_from_string(content).graph.initializer:
        _check_range(initializer)
    return _convert(content)


def to_bf16(content: bytes) -> bytes:
    """The ONNX file with bfloat16 weights and activations where `to_fp16` has float16, and no limits of its range.

    Its operators take no bfloat16 by ONNX's own rules at their version, so that TensorRT reads it and others may not.
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
    """The graph of `to_fp16`, in which values beyond the range of float16 are cut off."""
    with naming_extras("fp16", ExportError):
        from onnxruntime.transformers.float16 import convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel
    model = onnx.load_from_string(content)
    # The converter casts the input of the graph, so it is shown the part behind the normalization.
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
    """Take off the graph the chain of arithmetic with constants that the images go through before anything else."""
    constants = {initializer.name for initializer in graph.initializer}
    head: list[onnx.NodeProto] = []
    value = graph.input[0].name
    while True:
        # Shape reads no values, so its input may be of either type.
        users = [node for node in graph.node if value in node.input and node.op_type != "Shape"]
        if len(users) != 1 or users[0].op_type not in ARITHMETIC or not set(users[0].input) <= constants | {value}:
            break
        head.append(users[0])
        (value,) = users[0].output
    for node in head:
        graph.node.remove(node)
    return head


def _check_range(initializer: TensorProto) -> None:
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
    """An fp16 or bf16 file for runtimes without such arithmetic: float32 that is rounded wherever the file is half.

    ONNX Runtime on the CPU would round the weights alone, and so hide what a GPU loses, or overflows, in between.
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
    """Give a tensor of halves another type, with the values of `source` or else its own."""
    if tensor.data_type in HALVES:
        values = numpy_helper.to_array(source or tensor).astype(helper.tensor_dtype_to_np_dtype(kind))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
