"""Run an exported ONNX file as a torch module, with gradients with respect to the images.

The library for this, onnx2torch, has had no release since 2024 and cannot load any of the exports made here: it
supports ReduceMean and Pad only up to opset 17, and no Reshape with allowzero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from ...core.errors import EngineError
from .operators import OPERATORS, Operator

HOST = {
    "Clip",
    "ConstantOfShape",
    "Expand",
    "Pad",
    "Range",
    "Reshape",
    "Resize",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Unsqueeze",
}
"""Operators whose inputs other than the first determine the shape of the result.

These inputs are kept in host memory. The reductions are of this kind too.
"""
UNSAVED = {"Add", "BatchNormalization", "Conv", "Gemm", "Sub"}
"""Operators whose gradient does not need their result, so that an activation that follows may overwrite it in place."""


@dataclass(frozen=True, slots=True)
class Step:
    """A node of the graph."""

    run: Operator
    inputs: tuple[str, ...]
    """Names of the input tensors. Empty for an omitted optional input."""
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    last_used: tuple[str, ...]
    """Tensors that no later step needs."""
    on_one_device: bool
    """Whether all inputs must be on the same device."""


class OnnxNetwork(nn.Module):
    """The model in an ONNX file. Input: `images`, (n, 3, S, S) float32 in [0, 1]. Output: `logits`.

    The weights are buffers, not parameters, so gradients are computed for the images only. Convolution weights use
    channels-last memory format.
    """

    def __init__(self, content: bytes) -> None:
        """Load the file. Raises EngineError for an unsupported operator or attribute."""
        super().__init__()
        graph = onnx.load_from_string(content).graph
        self._names: dict[str, str] = {}
        self._constants: dict[str, Tensor] = {}
        """Integer tensors and scalars.

        They stay in host memory whatever the device of the module. Integer tensors determine shapes, and torch combines
        scalars with tensors on any device.
        """
        for number, initializer in enumerate(graph.initializer):
            self._keep(f"weight{number}", initializer.name, torch.tensor(numpy_helper.to_array(initializer)))
        for number, node in enumerate(graph.node):
            if node.op_type == "Constant" and [attribute.name for attribute in node.attribute] == ["value"]:
                value = torch.tensor(numpy_helper.to_array(node.attribute[0].t))
                self._keep(f"constant{number}", node.output[0], value)
        self.steps = _steps(graph, set(self._names) | set(self._constants))

    def _keep(self, buffer: str, name: str, value: Tensor) -> None:
        if value.ndim == 0 or not value.is_floating_point():
            self._constants[name] = value
            return
        if value.ndim == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        self.register_buffer(buffer, value)
        self._names[name] = buffer

    def forward(self, images: Tensor) -> Tensor:
        values: dict[str, Any] = {name: self.get_buffer(buffer) for name, buffer in self._names.items()}
        values |= self._constants
        values["images"], values[""] = images, None
        on_card = images.device.type != "cpu"
        for step in self.steps:
            inputs = [values[name] for name in step.inputs]
            if on_card and step.on_one_device:
                inputs = _together(inputs, images.device)
            result = step.run(*inputs, **step.attributes)
            values.update(zip(step.outputs, (result,) if isinstance(result, Tensor) else result, strict=False))
            # Delete the local names, which would otherwise keep the activations alive during the next steps.
            del inputs, result
            for name in step.last_used:
                del values[name]
        logits: Tensor = values["logits"]
        return logits


def _together(inputs: Sequence[Tensor | None], device: torch.device) -> list[Tensor | None]:
    """Move the inputs to the device if any of them is already there.

    Tensors computed from shapes are in host memory, and torch does not combine them with tensors on a GPU.
    """
    if all(tensor is None or tensor.device.type == "cpu" for tensor in inputs):
        return list(inputs)
    return [tensor if tensor is None or tensor.ndim == 0 else tensor.to(device) for tensor in inputs]


def _steps(graph: onnx.GraphProto, weights: set[str]) -> list[Step]:
    """Convert the nodes of the graph to steps. Raises EngineError if its inputs or outputs are not those of a model."""
    inputs, outputs = ([value.name for value in values] for values in (graph.input, graph.output))
    if [name for name in inputs if name not in weights] != ["images"] or outputs != ["logits"]:
        raise EngineError(
            f"the ONNX file takes {', '.join(inputs)} and gives {', '.join(outputs)}; export the model again"
        )
    uses = Counter(name for node in graph.node for name in node.input)
    makers = {name: node.op_type for node in graph.node for name in node.output}
    last = {name: number for number, node in enumerate(graph.node) for name in (*node.input, *node.output)}
    steps = []
    for number, node in enumerate(graph.node):
        if node.op_type == "Constant" and set(node.output) <= weights:
            continue
        run, attributes = _operator(node)
        if node.op_type == "Relu" and uses[node.input[0]] == 1 and makers.get(node.input[0]) in UNSAVED:
            attributes["inplace"] = True
        last_used = sorted({name for name in (*node.input, *node.output) if name and last[name] == number} - {"logits"})
        on_one_device = node.op_type not in HOST and not node.op_type.startswith("Reduce")
        steps.append(Step(run, tuple(node.input), tuple(node.output), attributes, tuple(last_used), on_one_device))
    return steps


def _operator(node: onnx.NodeProto) -> tuple[Operator, dict[str, Any]]:
    """Return the function of a node, and its attributes as keyword arguments."""
    name = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    if name not in OPERATORS:
        raise EngineError(f"its ONNX file uses the operator {name}, for which bandlens has no gradient")
    run = OPERATORS[name]
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if name == "Split":  # before opset 18 only the number of outputs tells the number of parts
        attributes.setdefault("num_outputs", len(node.output))
    unknown = sorted(attributes.keys() - _keywords(run))
    if unknown:
        raise EngineError(f"its ONNX file uses {name} with {unknown[0]}, for which bandlens has no gradient")
    tensors = {key: value for key, value in attributes.items() if isinstance(value, onnx.TensorProto)}
    return run, attributes | {key: torch.tensor(numpy_helper.to_array(value)) for key, value in tensors.items()}


def _keywords(run: Operator) -> set[str]:
    """Return the attributes that an operator supports.

    The built-in functions of torch cannot be inspected, and support none.
    """
    try:
        parameters = signature(run).parameters.values()
    except ValueError:
        return set()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
