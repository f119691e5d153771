"""Make the int8 file of an fp32 ONNX file: QuantizeLinear and DequantizeLinear are written into its graph.

NNCF calibrates it. Its weights are int8 with a scale per channel; its activations are uint8 with zero point 0 where
they cannot be negative, and int8 with zero point 0 elsewhere. TensorRT knows no uint8: `symmetric_activations` rewrites
it.
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
    """The file with int8 weights and activations, calibrated on `images`, batches of (n, 3, S, S) float32 in [0, 1].

    A sum of two branches takes one of them as its convolution gives it: see `unquantize_sums`. Every image counts
    alike, however they are batched. The same images give the same bytes on the same machine.

    Raises ExportError if NNCF is missing or fails, UsageError if there are no images.
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
        # NNCF runs ONNX Runtime, and passes on whatever goes wrong there.
        except Exception as error:
            raise ExportError(f"NNCF cannot quantize this ONNX file: {first_line(error)}; use fp16") from error
    unquantize_sums(quantized.graph)
    return to_bytes(quantized)


def unquantize_sums(graph: onnx.GraphProto) -> None:
    """Let every sum of two quantized branches take the one that a convolution ends as the convolution gives it.

    NNCF quantizes both. TensorRT then cannot add within the convolution, which it does where only the other branch is
    quantized: every residual block would write its sum's terms to memory and read them again. Where convolutions end
    both branches, it is the later one. Source: NVIDIA's guide to TensorRT, recommendations for placing Q/DQ.
    """
    makers = {name: (number, node) for number, node in enumerate(graph.node) for name in node.output}

    def input_of(name: str, *kinds: str) -> str | None:
        """The input of operators of these kinds, the last first, that give this value; None where others give it."""
        for kind in kinds:
            if name not in makers or makers[name][1].op_type != kind:
                return None
            name = makers[name][1].input[0]
        return name if name in makers else None

    for node in graph.node:
        if node.op_type != "Add":
            continue
        direct = [input_of(name, *reversed(QUANTIZERS)) for name in node.input]
        # A MaxPool behind the quantizers leaves values quantized.
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
    """The ONNX file as TensorRT reads it: int8 throughout, zero point 0, one scale per activation.

    uint8 with zero point 0 becomes int8 with the scale x 255/127: the same range, in half as many steps. Scales per
    channel of an activation become the largest of them. Raises ExportError for a file that TensorRT would misread:
    another zero point, another type, weights that are not int8.
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
        del node.attribute[:]  # they hold the axis of the scales
    inputs = {name for node in graph.node for name in node.input}
    initializers = [initializer for initializer in graph.initializer if initializer.name in inputs]
    initializers += [numpy_helper.from_array(np.asarray(value), name) for name, value in new_constants.items()]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
    return to_bytes(model)


def _constant(constants: dict[str, onnx.TensorProto], node: onnx.NodeProto, position: int) -> NDArray[Any]:
    if len(node.input) <= position or node.input[position] not in constants:
        kind = ("scale", "zero point")[position - 1]
        raise ExportError(f"{node.name} has no constant {kind}, so TensorRT cannot build it; use fp16")
    return numpy_helper.to_array(constants[node.input[position]])


def _nncf() -> Any:
    # NNCF asks torch for its CUDA extensions, and torch warns where there is a toolkit and no GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    with _silence(), naming_extras("int8", ExportError):
        import nncf
    nncf.set_log_level(logging.ERROR)
    return nncf


@contextmanager
def _silence() -> Iterator[None]:
    """Keep quiet the bars that NNCF draws on stdout, and its warnings about itself."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        yield
