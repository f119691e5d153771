"""ONNX files whose graph was rewritten, as bytes. Free of torch."""

from __future__ import annotations

import onnx

from ..errors import ExportError
from ..untrusted import first_line


def to_bytes(model: onnx.ModelProto) -> bytes:
    """The file of a graph that was rewritten: valid, typed, and the same bytes for the same graph; or ExportError.

    Shapes that can be inferred again are left out, since they may be those from before it was rewritten.
    """
    del model.graph.value_info[:]
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ExportError(f"the rewritten graph is not valid ONNX: {first_line(error)}; use fp32") from error
    return bytes(model.SerializeToString(deterministic=True))
