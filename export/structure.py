"""What two ONNX files have in common whose weights can take each other's place in one TensorRT plan."""

from __future__ import annotations

import hashlib

import onnx

WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization"}
"""Operators whose weights TensorRT can replace in a plan."""


def structure_of(content: bytes) -> str:
    """sha256 (64 hex digits) of an ONNX file without the values of its weights.

    Names, shapes, types and nodes stay, and so do all other constants: the normalization's, and those that shape it.
    """
    model = onnx.load_from_string(content)
    weights = {name for node in model.graph.node if node.op_type in WEIGHTED for name in node.input}
    for initializer in model.graph.initializer:
        if initializer.name in weights:
            initializer.CopyFrom(
                onnx.TensorProto(name=initializer.name, data_type=initializer.data_type, dims=initializer.dims)
            )
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
