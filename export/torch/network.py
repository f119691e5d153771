"""An exported model as a torch module: it runs the ONNX file itself, with gradients that flow to its images.

onnx2torch, the library for this, has had no release since 2024 and reads none of the exports made here: it knows
ReduceMean and Pad up to opset 17, and no Reshape with allowzero.
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
"""Operators whose inputs, all but the first, shape the result; the reductions are of this kind too."""
UNSAVED = {"Add", "BatchNormalization", "Conv", "Gemm", "Sub"}
"""Operators whose result no gradient of theirs needs, so that an activation behind them can work in place."""


@dataclass(frozen=True, slots=True)
class Step:
    """A node of the graph."""

    run: Operator
    inputs: tuple[str, ...]
    """Names of values; empty for an optional input that is absent."""
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    last_used: tuple[str, ...]
    """Values that no later step takes."""
    on_one_device: bool
    """Whether its inputs must lie on one device."""


class OnnxNetwork(nn.Module):
    """The network of an ONNX file that takes `images`, (n, 3, S, S) float32 in [0, 1], and gives `logits`.

    Its weights are buffers: gradients are those of the images alone. Weights of convolutions are channels_last.
    """

    def __init__(self, content: bytes) -> None:
        """EngineError names an operator, or an attribute of one, that is not known."""
        super().__init__()
        graph = onnx.load_from_string(content).graph
        self._names: dict[str, str] = {}
        self._constants: dict[str, Tensor] = {}
        """Whole numbers and single numbers, which stay in the host's memory whatever the device: they go with any."""
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
            # Names that still refer to an activation would keep its memory through the next steps.
            del inputs, result
            for name in step.last_used:
                del values[name]
        logits: Tensor = values["logits"]
        return logits


def _together(inputs: Sequence[Tensor | None], device: torch.device) -> list[Tensor | None]:
    """The inputs on the device, if any of them is there: values computed from shapes are in the host's memory."""
    if all(tensor is None or tensor.device.type == "cpu" for tensor in inputs):
        return list(inputs)
    return [tensor if tensor is None or tensor.ndim == 0 else tensor.to(device) for tensor in inputs]


def _steps(graph: onnx.GraphProto, weights: set[str]) -> list[Step]:
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
    """The function of a node, and its attributes as keywords."""
    name = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    if name not in OPERATORS:
        raise EngineError(f"its ONNX file uses the operator {name}, for which bandlens has no gradient")
    run = OPERATORS[name]
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if name == "Split":  # before opset 18 its outputs alone say into how many parts
        attributes.setdefault("num_outputs", len(node.output))
    unknown = sorted(attributes.keys() - _keywords(run))
    if unknown:
        raise EngineError(f"its ONNX file uses {name} with {unknown[0]}, for which bandlens has no gradient")
    tensors = {key: value for key, value in attributes.items() if isinstance(value, onnx.TensorProto)}
    return run, attributes | {key: torch.tensor(numpy_helper.to_array(value)) for key, value in tensors.items()}


def _keywords(run: Operator) -> set[str]:
    """The attributes that an operator has; torch's own functions, which cannot be inspected, have none."""
    try:
        parameters = signature(run).parameters.values()
    except ValueError:
        return set()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
