"""The layers of a network as an engine runs them: their time, and the values they give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import EngineError

RUNS = 10
"""Batches whose median a profile gives, after as many that warm up."""
LARGEST_DIFFERENCE = {"fp32": 1e-3, "fp16": 5e-2, "bf16": 1e-1, "int8": 3e-1}
"""The difference of a layer's values, relative to the largest of them, that rounding at a precision explains."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that an engine runs, which may be several nodes of the ONNX file."""

    name: str
    operator: str
    seconds: float
    """Seconds for a batch."""


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
