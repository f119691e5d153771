"""The ONNX operators that exported image classifiers are made of, in torch and by name.

An operator is a function of its inputs, with ONNX's attributes as keywords and ONNX's defaults. Inputs that shape a
result (axes, sizes, bounds) are tensors in the host's memory. Reference: the operators of ONNX, opsets 13 to 18.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from math import isclose

import torch
from torch import Tensor
from torch.nn import functional

from . import layers, shapes

Operator = Callable[..., Tensor | Sequence[Tensor]]


def divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    if low is not None and high is not None and x.is_floating_point():
        return functional.hardtanh(x, low.item(), high.item())  # its gradient is 0 at both ends, as that of ReLU6
    return x.clamp(None if low is None else low.item(), None if high is None else high.item())


def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    if isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return functional.hardsigmoid(x)
    return x.mul(alpha).add(beta).clamp(0, 1)


def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return functional.leaky_relu(x, alpha)


def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return x.softmax(axis)


def reduction(function: Callable[..., Tensor]) -> Operator:
    """An operator of `function(x, axes, keepdim)`: the axes are an input (opset 18) or an attribute (before)."""

    def reduced(
        x: Tensor,
        axes_input: Tensor | None = None,
        *,
        axes: Sequence[int] | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        along = shapes.ints(axes_input) if axes_input is not None else shapes.ints(axes or ())
        if not along and noop_with_empty_axes:
            return x
        return function(x, along or list(range(x.ndim)), bool(keepdims))

    return reduced


def norm(x: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, 2, axes, keepdim)
    return length


def pairwise(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda *tensors: reduce(function, tensors)


OPERATORS: Mapping[str, Operator] = {
    # Numbers
    "Abs": torch.abs,
    "Add": torch.add,
    "Clip": clip,
    "Div": divide,
    "Erf": torch.erf,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": functional.hardswish,
    "LeakyRelu": leaky_relu,
    "Max": pairwise(torch.maximum),
    "Min": pairwise(torch.minimum),
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Pow": torch.pow,
    "ReduceL2": reduction(norm),
    "ReduceMax": reduction(torch.amax),
    "ReduceMean": reduction(torch.mean),
    "ReduceMin": reduction(torch.amin),
    "ReduceSum": reduction(torch.sum),
    "Relu": functional.relu,
    "Sigmoid": torch.sigmoid,
    "Softmax": softmax,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
    # Layers
    "AveragePool": layers.average_pool,
    "BatchNormalization": layers.batch_normalization,
    "Conv": layers.convolution,
    "Einsum": layers.einsum,
    "Gemm": layers.gemm,
    "GlobalAveragePool": layers.global_average_pool,
    "LayerNormalization": layers.layer_normalization,
    "MatMul": torch.matmul,
    "MaxPool": layers.max_pool,
    # Shapes
    "Concat": shapes.concat,
    "ConstantOfShape": shapes.filled,
    "Expand": shapes.expand,
    "Flatten": shapes.flatten,
    "Identity": lambda x: x,
    "Pad": shapes.pad,
    "Range": shapes.numbers,
    "Reshape": shapes.reshape,
    "Resize": layers.resize,
    "Shape": shapes.shape,
    "Slice": shapes.cut,
    "Split": shapes.split,
    "Squeeze": shapes.squeeze,
    "Tile": shapes.tile,
    "Transpose": shapes.transpose,
    "Unsqueeze": shapes.unsqueeze,
    # Choosing
    "And": torch.logical_and,
    "Cast": shapes.cast,
    "Equal": torch.eq,
    "Gather": shapes.gather,
    "GatherND": shapes.gather_nd,
    "Greater": torch.gt,
    "Less": torch.lt,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "ScatterND": shapes.scatter_nd,
    "Where": torch.where,
}
