"""The layers of a network as an engine runs them: their time beside the device's limits, and the values they give."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import EngineError
from ..device.streams import blas_threads, finish, point, seconds_between

RUNS = 10
"""Batches whose median a profile gives, after as many that warm up."""
COPY_BYTES = 1 << 27
"""Bytes that are copied: more than the caches of processors and cards keep."""
SIDE = {"numpy": 1536, "cupy": 8192}
"""Rows and columns of the matrices that are multiplied, by the array module: enough to keep the device busy."""
LOOPS = 5
"""Measurements of the device, of which the fastest counts."""
PRODUCTS = ("Gemm", "MatMul", "FullyConnected")
"""Parts of the names that ONNX and libraries give products of matrices."""
LARGEST_DIFFERENCE = {"fp32": 1e-3, "fp16": 5e-2, "bf16": 1e-1, "int8": 3e-1}
"""The difference of a layer's values, relative to the largest of them, that rounding at a precision explains."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that an engine runs, which may be several nodes of the ONNX file."""

    name: str
    operator: str
    seconds: float
    """Seconds for a batch."""
    bytes: float
    """Bytes of its inputs, weights and outputs for a batch, each counted once."""
    operations: float
    """Floating-point operations for a batch: two for each multiplication of convolutions and products of matrices."""


@dataclass(frozen=True, slots=True)
class LayerDifference:
    """How far the values of a node lie apart in two engines on the same images."""

    layer: str
    """The name of the value in the ONNX file."""
    operator: str
    largest: float
    """The largest absolute value in the first engine."""
    difference: float
    """The largest difference of a value."""
    relative: float
    """The difference divided by the largest value."""
    differs: bool
    """Whether it is more than rounding explains."""


def count_product(operator: str, inputs: Sequence[Sequence[int]], output: Sequence[int]) -> float:
    """Floating-point operations of a kernel by the shapes that it ran on: 0 of what is no product.

    `operator` is ONNX's name or one that a library derived from it, such as FusedConv or QLinearConv.
    """
    if "Conv" in operator:
        images_and_kernel = [shape for shape in inputs if len(shape) == 4]
        return 2.0 * math.prod(output) * math.prod(images_and_kernel[1][1:]) if len(images_and_kernel) > 1 else 0.0
    if any(name in operator for name in PRODUCTS):
        return 2.0 * math.prod(output) * inputs[0][-1] if inputs and inputs[0] else 0.0
    return 0.0


@dataclass(frozen=True, slots=True)
class Roofline:
    """The limits of a device: the bytes it moves and the operations it does in a second.

    A kernel takes at least max(bytes / bandwidth, operations / rate) (Williams, Waterman and Patterson 2009); one whose
    data stay in a cache may be faster than the first term.
    """

    bandwidth: float
    """Bytes a second, read and written."""
    rate: float
    """Floating-point operations a second in products of matrices."""

    def seconds(self, moved: float, operations: float) -> float:
        """The least time of a kernel that moves so many bytes and does so many operations."""
        return max(moved / self.bandwidth, operations / self.rate)

    def bound(self, moved: float, operations: float) -> str:
        """The limit of such a kernel: `memory` or `compute`."""
        return "memory" if moved / self.bandwidth >= operations / self.rate else "compute"


def measure_roofline(xp: ModuleType, precision: str, threads: int) -> Roofline:
    """Measure the device of the array module by a short loop.

    Args:
        xp: NumPy or CuPy.
        precision: on a card other precisions than fp32 are measured by products of halves. On a CPU all are measured in
            float32, since NumPy has fast products of nothing else.
        threads: threads of the products on a CPU. The copy has one, which most of a processor's bandwidth takes.
    """
    dtype = xp.float32 if xp is np or precision == "fp32" else xp.float16
    source, copy = xp.ones(COPY_BYTES, xp.uint8), xp.empty(COPY_BYTES, xp.uint8)
    side = SIDE[xp.__name__]
    matrix_a, matrix_b, product = (xp.ones((side, side), dtype) for _ in range(3))

    def fastest(work: Callable[[], object]) -> float:
        times = []
        for _ in range(LOOPS + 1):  # the first time warms up
            start = point(xp)
            work()
            end = point(xp)
            finish(xp)
            times.append(seconds_between(xp, start, end))
        return min(times[1:])

    with blas_threads(xp, threads):
        return Roofline(
            bandwidth=2 * COPY_BYTES / fastest(lambda: xp.copyto(copy, source)),
            rate=2 * side**3 / fastest(lambda: xp.matmul(matrix_a, matrix_b, out=product)),
        )


def nodes_of(content: bytes) -> Iterator[tuple[str, str]]:
    """The name of each value that a node of the ONNX file gives, in order, and the node's operator."""
    import onnx

    for node in onnx.load_from_string(content).graph.node:
        for name in filter(None, node.output):
            yield name, node.op_type


def with_all_outputs(content: bytes) -> bytes:
    """The ONNX file with the value of every node among its outputs, so that no library fuses it away."""
    import onnx

    model = onnx.load_from_string(content)
    outputs = {value.name for value in model.graph.output}
    names = [name for name, operator in nodes_of(content) if operator != "Constant" and name not in outputs]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return bytes(model.SerializeToString())


def compare_layers(
    content: bytes, values_a: Mapping[str, NDArray[Any]], values_b: Mapping[str, NDArray[Any]], close: float
) -> list[LayerDifference]:
    """The differences of the floating-point values that two engines both gave, in the order of the ONNX file.

    Raises EngineError where they share no value but the logits, as files that were rewritten do.
    """
    differences = []
    for name, operator in nodes_of(content):
        a, b = values_a.get(name), values_b.get(name)
        if a is None or b is None or a.shape != b.shape or not np.issubdtype(a.dtype, np.floating) or not a.size:
            continue
        exact = a.astype(np.float64)
        with np.errstate(invalid="ignore"):  # infinite minus infinite is NaN, which differs
            difference, largest = float(np.abs(exact - b).max()), float(np.abs(exact).max())
        relative = difference / (largest or 1.0)
        differences.append(LayerDifference(name, operator, largest, difference, relative, not relative <= close))
    if len(differences) < 2:
        raise EngineError("the two have no layer in common but the last; compare engines that run the same ONNX file")
    return differences
