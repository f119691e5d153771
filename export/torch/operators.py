"""The ONNX operators that occur in exported image classifiers, implemented in torch, by name.

An operator is a function of its inputs, with ONNX's attributes as keyword arguments with ONNX's defaults. Inputs that
determine the shape of a result (axes, sizes, bounds) are tensors in host memory. Reference: the ONNX operators, opsets
13 to 18.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from math import isclose, prod

import torch
from torch import Tensor
from torch.nn import functional

from . import layers

Operator = Callable[..., Tensor | Sequence[Tensor]]


def ints(values: Tensor | Sequence[int]) -> list[int]:
    """Convert an input or an attribute to a list of integers."""
    return [int(value) for value in (values.tolist() if isinstance(values, Tensor) else values)]


def divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    if low is not None and high is not None and x.is_floating_point():
        return functional.hardtanh(x, low.item(), high.item())  # its gradient is 0 at both bounds, as for ReLU6
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
    """Make a reduction operator from `function(x, axes, keepdim)`.

    Axes are an input from opset 18 on, an attribute before.
    """

    def reduced(
        x: Tensor,
        axes_input: Tensor | None = None,
        *,
        axes: Sequence[int] | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        along = ints(axes_input) if axes_input is not None else ints(axes or ())
        if not along and noop_with_empty_axes:
            return x
        return function(x, along or list(range(x.ndim)), bool(keepdims))

    return reduced


def norm(x: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x, 2, axes, keepdim)
    return length


def pairwise(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda *tensors: reduce(function, tensors)


# Shapes


def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(x.shape[start:end])


def reshape(x: Tensor, sizes: Tensor, *, allowzero: int = 0) -> Tensor:
    output_sizes = [x.shape[k] if size == 0 and not allowzero else size for k, size in enumerate(ints(sizes))]
    return x.reshape(output_sizes)


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    return x.reshape(prod(x.shape[:axis]), -1)


def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(ints(axes))


def unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    new_axes = ints(axes)
    rank = x.ndim + len(new_axes)
    for axis in sorted(axis % rank for axis in new_axes):
        x = x.unsqueeze(axis)
    return x


def transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(list(perm or reversed(range(x.ndim))))


def expand(x: Tensor, sizes: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, ints(sizes)))  # type: ignore[no-untyped-call]


def concat(*parts: Tensor, axis: int) -> Tensor:
    return torch.cat(parts, axis)


def split(x: Tensor, sizes: Tensor | None = None, *, axis: int = 0, num_outputs: int = 1) -> Sequence[Tensor]:
    part_size = -(-x.shape[axis] // num_outputs)
    return torch.split(x, part_size if sizes is None else ints(sizes), axis)


def cut(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    """Implement ONNX's Slice. Negative indices and steps mean the same as in Python."""
    along = ints(axes) if axes is not None else list(range(len(starts)))
    strides = ints(steps) if steps is not None else [1] * len(along)
    for axis, start, end, step in zip(along, ints(starts), ints(ends), strides, strict=True):
        indices = range(x.shape[axis])[start:end:step]  # range() clips the end, which ONNX files may give as 2^63 - 1
        if step == 1:
            x = x.narrow(axis, indices.start, len(indices))
        else:
            x = x.index_select(axis, torch.tensor(indices, dtype=torch.int64, device=x.device))
    return x


def pad(
    x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None, *, mode: bytes = b"constant"
) -> Tensor:
    if mode != b"constant":
        raise NotImplementedError(f"mode {mode.decode()}")
    amounts = ints(pads)
    half = len(amounts) // 2
    sides = [(0, 0)] * x.ndim
    for axis, *side in zip(
        ints(axes) if axes is not None else range(half), amounts[:half], amounts[half:], strict=True
    ):
        sides[axis] = side[0], side[1]
    flat = [amount for side in reversed(sides) for amount in side]  # torch expects the last axis first
    return functional.pad(x, flat, value=0.0 if value is None else value.item())


def tile(x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(ints(repeats))


# Indexing


def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    axis %= x.ndim
    if not indices.ndim:
        return x.select(axis, int(indices))
    rows = indices.reshape(-1).remainder(x.shape[axis])
    return x.index_select(axis, rows).reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    if batch_dims:
        raise NotImplementedError("batch_dims")
    return x[tuple(indices.unbind(-1))]


def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: bytes = b"none") -> Tensor:
    if reduction != b"none":
        raise NotImplementedError(f"reduction {reduction.decode()}")
    return x.index_put(tuple(indices.unbind(-1)), updates)


def filled(sizes: Tensor, *, value: Tensor | None = None) -> Tensor:
    fill = torch.zeros(1) if value is None else value
    return fill.reshape(()).expand(ints(sizes)).clone()


def numbers(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def cast(x: Tensor, *, to: int, saturate: int = 1) -> Tensor:  # noqa: ARG001 - only applies to float8
    from onnx.helper import tensor_dtype_to_np_dtype

    return x.to(getattr(torch, tensor_dtype_to_np_dtype(to).name))


OPERATORS: Mapping[str, Operator] = {
    # Arithmetic
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
    "Concat": concat,
    "ConstantOfShape": filled,
    "Expand": expand,
    "Flatten": flatten,
    "Identity": lambda x: x,
    "Pad": pad,
    "Range": numbers,
    "Reshape": reshape,
    "Resize": layers.resize,
    "Shape": shape,
    "Slice": cut,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
    # Logic, comparison and indexing
    "And": torch.logical_and,
    "Cast": cast,
    "Equal": torch.eq,
    "Gather": gather,
    "GatherND": gather_nd,
    "Greater": torch.gt,
    "Less": torch.lt,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "ScatterND": scatter_nd,
    "Where": torch.where,
}
