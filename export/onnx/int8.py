"""Quantize an fp32 ONNX file to int8, by inserting QuantizeLinear and DequantizeLinear nodes.

NNCF calibrates the ranges. Weights are int8 with one scale per channel. Activations are uint8 with zero point 0 if they
cannot be negative, and int8 with zero point 0 otherwise. TensorRT does not support uint8, so `symmetric_activations`
converts a file for it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from ...core.errors import ExportError, UsageError
from ...core.extras import naming_extras
from ...core.untrusted import first_line
from .graph import LABEL_NODES, to_bytes

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def to_int8(content: bytes, images: Iterable[NDArray[np.float32]]) -> bytes:
    """Quantize the weights and activations of an ONNX file to int8.

    Every image has the same weight in the calibration, regardless of how images are batched. If two branches are added,
    one of them is left unquantized, see `unquantize_sums`. The same images give the same bytes on the same machine.

    Args:
        content: The fp32 ONNX file.
        images: Calibration images: batches of (n, 3, S, S) float32 in [0, 1].

    Returns:
        The int8 ONNX file.

    Raises:
        ExportError: If NNCF is missing or fails.
        UsageError: If there are no images.
    """
    nncf = _nncf()
    singles = [image[None] for batch in images for image in batch]
    if not singles:
        raise UsageError("int8 needs images to calibrate on; give an image set that is not empty")
    model = onnx.load_from_string(content)
    exact = [node.name for node in model.graph.node if node.name.startswith(LABEL_NODES)]
    with _silence():
        try:
            quantized = nncf.quantize(
                model,
                nncf.Dataset(singles, lambda image: {"images": image}),
                preset=nncf.QuantizationPreset.PERFORMANCE,
                subset_size=len(singles),
                ignored_scope=nncf.IgnoredScope(names=exact) if exact else None,
            )
        # NNCF runs ONNX Runtime, and passes on its errors of any class.
        except Exception as error:
            raise ExportError(f"NNCF cannot quantize this ONNX file: {first_line(error)}; use fp16") from error
    unquantize_sums(quantized.graph)
    return to_bytes(quantized)


def unquantize_sums(graph: onnx.GraphProto) -> None:
    """Remove the quantizers from one of two quantized branches that are added, one that ends with a convolution.

    NNCF quantizes both. TensorRT can fuse the addition into the convolution only if the other branch alone is
    quantized. Otherwise every residual block writes both terms of the sum to memory and reads them again. If both
    branches end with a convolution, the later one is chosen. Source: NVIDIA's TensorRT guide, recommendations for
    placing Q/DQ.
    """
    makers = {name: (number, node) for number, node in enumerate(graph.node) for name in node.output}

    def input_of(name: str, *kinds: str) -> str | None:
        """Return the input of the chain of operators that computes this tensor. None if the operators are others.

        `kinds` lists the operator types of the chain, the last operator first.
        """
        for kind in kinds:
            if name not in makers or makers[name][1].op_type != kind:
                return None
            name = makers[name][1].input[0]
        return name if name in makers else None

    for node in graph.node:
        if node.op_type != "Add":
            continue
        direct = [input_of(name, *reversed(QUANTIZERS)) for name in node.input]
        # A MaxPool after the quantizers does not change that the values are quantized.
        pooled = [input_of(name, "MaxPool", *reversed(QUANTIZERS)) for name in node.input]
        if not all(map(any, zip(direct, pooled, strict=True))):
            continue
        ends = [(*makers[name], position) for position, name in enumerate(direct) if name]
        convolved = [(number, position) for number, end, position in ends if end.op_type == "Conv"]
        if convolved:
            _, position = max(convolved)
            node.input[position] = str(direct[position])
    for kind in reversed(QUANTIZERS):
        inputs = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        for node in [node for node in graph.node if node.op_type == kind and node.output[0] not in inputs]:
            graph.node.remove(node)
    inputs = {name for node in graph.node for name in node.input}
    for initializer in [initializer for initializer in graph.initializer if initializer.name not in inputs]:
        graph.initializer.remove(initializer)


def symmetric_activations(content: bytes) -> bytes:
    """Convert an int8 ONNX file to the form that TensorRT supports: int8 only, zero point 0, one scale per activation.

    uint8 with zero point 0 becomes int8 with the scale multiplied by 255/127, which covers the same range with half as
    many steps. If an activation has one scale per channel, the largest of them is used.

    Raises:
        ExportError: If TensorRT would misinterpret the file, because of another zero point, another type, or weights
            that are not int8.
    """
    model = onnx.load_from_string(content)
    graph = model.graph
    constants = {initializer.name: initializer for initializer in graph.initializer}
    new_constants: dict[str, NDArray[Any]] = {}
    for node in graph.node:
        if node.op_type not in QUANTIZERS:
            continue
        scale, zero_point = (_constant(constants, node, position) for position in (1, 2))
        weights = node.input[0] in constants
        if zero_point.any() or zero_point.dtype not in (("int8",) if weights else ("int8", "uint8")):
            raise ExportError(
                f"{node.name} quantizes to {zero_point.dtype} with zero points up to {zero_point.max()}, "
                "which TensorRT reads as int8 with zero point 0; use fp16"
            )
        if weights or (zero_point.dtype == "int8" and scale.ndim == 0):
            continue
        widened = scale.max() * (255 / 127 if zero_point.dtype == "uint8" else 1)
        node.input[1], node.input[2] = f"{node.input[1]}_{zero_point.dtype}", "zero_point"
        new_constants |= {node.input[1]: np.float32(widened), node.input[2]: np.int8(0)}
        del node.attribute[:]  # they contain only the axis of the per-channel scales
    inputs = {name for node in graph.node for name in node.input}
    initializers = [initializer for initializer in graph.initializer if initializer.name in inputs]
    initializers += [numpy_helper.from_array(np.asarray(value), name) for name, value in new_constants.items()]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
    return to_bytes(model)


def _constant(constants: dict[str, onnx.TensorProto], node: onnx.NodeProto, position: int) -> NDArray[Any]:
    """Return a constant input of a quantizer. Raises ExportError if it is computed."""
    if len(node.input) <= position or node.input[position] not in constants:
        kind = ("scale", "zero point")[position - 1]
        raise ExportError(f"{node.name} has no constant {kind}, so TensorRT cannot build it; use fp16")
    return numpy_helper.to_array(constants[node.input[position]])


def _nncf() -> Any:
    """Import NNCF without its log messages."""
    # NNCF queries torch's CUDA extensions, and torch then warns on machines with a CUDA toolkit but without a GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    with _silence(), naming_extras("int8", ExportError):
        import nncf
    nncf.set_log_level(logging.ERROR)
    return nncf


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress NNCF's progress bars on standard output, and its warnings."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        yield
