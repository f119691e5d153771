"""Compute the logits of an ONNX file in float64, to tell which of two float32 libraries is off."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...core.errors import ExportError
from ...core.untrusted import first_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

ZERO = helper.make_attribute("value", helper.make_tensor("value", TensorProto.DOUBLE, [1], [0.0]))
"""The attribute of ConstantOfShape, which fills with float32 zeros where the file has none."""


def reference_logits(content: bytes, images: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, classes) float64 logits of (n, 3, S, S) images, by the evaluator that defines ONNX's operators.

    All float32 numbers of the file become float64; where it rounds to float16, so does this. The evaluator is onnx's
    own, written in NumPy: it takes 5 seconds for an image of a ResNet-50. ExportError where it cannot run the file.
    """
    from onnx.reference import ReferenceEvaluator

    model = onnx.load_from_string(content)
    graph = model.graph
    del graph.value_info[:]
    for initializer in graph.initializer:
        _to_double(initializer)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(ZERO)
        for attribute in node.attribute:
            if attribute.name in ("value_float", "value_floats"):
                numbers = np.array(helper.get_attribute_value(attribute), np.float64)
                attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(numbers)))
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
            _to_double(attribute.t)
    logits: list[NDArray[np.float64]] = []
    try:
        evaluator = ReferenceEvaluator(model)
        for image in images:
            results = evaluator.run(None, {graph.input[0].name: image[None].astype(np.float64)})
            logits.extend(cast("list[NDArray[np.float64]]", results))
    # Each of its operators raises what NumPy does.
    except Exception as error:
        raise ExportError(f"onnx cannot evaluate it in float64: {first_line(error)}") from error
    return np.concatenate(logits).astype(np.float64)


def _to_double(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
