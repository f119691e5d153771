"""ONNX operators with weights or windows, implemented in torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

NOT_SET = b"NOTSET"
CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
"""torch's convolution by number of spatial axes. It computes in the precision of `torch.autocast`."""


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: Sequence[int] = (),  # noqa: ARG001 - given by the shape of the weight
    strides: Sequence[int] = (),
    pads: Sequence[int] = (),
    dilations: Sequence[int] = (),
    group: int = 1,
    auto_pad: bytes = NOT_SET,
) -> Tensor:
    _check_auto_pad(auto_pad)
    ones = [1] * (x.ndim - 2)
    x, padding = _padded(x, pads, 0.0)
    convolve = CONVOLUTIONS[len(ones)]
    return convolve(x, weight, bias, list(strides) or ones, padding, list(dilations) or ones, group)


def max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] = (),
    pads: Sequence[int] = (),
    dilations: Sequence[int] = (),
    ceil_mode: int = 0,
    storage_order: int = 0,  # noqa: ARG001 - affects only the output of indices, which is not supported
    auto_pad: bytes = NOT_SET,
) -> Tensor:
    _check_auto_pad(auto_pad)
    ones = [1] * len(kernel_shape)
    x, padding = _padded(x, pads, float("-inf"))
    return functional.max_pool2d(
        x, list(kernel_shape), list(strides) or ones, padding, list(dilations) or ones, bool(ceil_mode)
    )


def average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] = (),
    pads: Sequence[int] = (),
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    auto_pad: bytes = NOT_SET,
) -> Tensor:
    _check_auto_pad(auto_pad)
    if not _symmetric(pads):
        raise NotImplementedError("pads that differ between the sides")
    half = list(pads[: len(pads) // 2]) or [0] * len(kernel_shape)
    stride = list(strides) or [1] * len(kernel_shape)
    return functional.avg_pool2d(x, list(kernel_shape), stride, half, bool(ceil_mode), bool(count_include_pad))


def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.ndim)), keepdim=True)


INTERPOLATIONS = {b"linear": "bilinear", b"cubic": "bicubic"}
"""Resize modes that torch's interpolate supports."""


def resize(
    x: Tensor,
    roi: Tensor | None = None,  # noqa: ARG001 - only used by tf_crop_and_resize
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
    *,
    mode: bytes = b"nearest",
    coordinate_transformation_mode: bytes = b"half_pixel",
    cubic_coeff_a: float = -0.75,
    nearest_mode: bytes = b"",  # noqa: ARG001 - only used by mode nearest
) -> Tensor:
    """Resize the last two of four axes. Scales must give integer sizes."""
    if mode not in INTERPOLATIONS or not coordinate_transformation_mode.endswith(b"half_pixel"):
        raise NotImplementedError(f"mode {mode.decode()} with {coordinate_transformation_mode.decode()}")
    if mode == b"cubic" and cubic_coeff_a != -0.75:
        raise NotImplementedError(f"cubic_coeff_a {cubic_coeff_a:g}")
    if sizes is None or not len(sizes):
        factors = [] if scales is None else scales.tolist()
        target = [size * factor for size, factor in zip(x.shape, factors, strict=True)]
    else:
        target = sizes.tolist()
    if x.ndim != 4 or list(x.shape[:2]) != target[:2] or any(size != int(size) for size in target):
        raise NotImplementedError(f"sizes {target} of {tuple(x.shape)}")
    height, width = map(int, target[2:])
    return functional.interpolate(x, (height, width), mode=INTERPOLATIONS[mode], align_corners=False)


def batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,  # noqa: ARG001 - only used in training
    training_mode: int = 0,
) -> Tensor:
    if training_mode:
        raise NotImplementedError("training_mode")
    return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)


def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,  # noqa: ARG001 - everything is float32 here
) -> Tensor:
    return functional.layer_norm(x, list(x.shape[axis:]), scale, bias, epsilon)


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    a, b = a.mT if transA else a, b if transB else b.mT
    if alpha == beta == 1 and (c is None or c.ndim == 1):
        return functional.linear(a, b, c)
    product = functional.linear(a, b).mul(alpha)
    return product if c is None else product.add(c, alpha=beta)


def einsum(*operands: Tensor, equation: bytes) -> Tensor:
    return torch.einsum(equation.decode(), *operands)


def _check_auto_pad(auto_pad: bytes) -> None:
    if auto_pad != NOT_SET:
        raise NotImplementedError(f"auto_pad {auto_pad.decode()}")


def _symmetric(pads: Sequence[int]) -> bool:
    half = len(pads) // 2
    return list(pads[:half]) == list(pads[half:])


def _padded(x: Tensor, pads: Sequence[int], value: float) -> tuple[Tensor, list[int]]:
    """Return the images and the padding to pass to torch's layer.

    torch's layers add the same padding to both sides of an axis. If the sides differ, the images are padded here
    instead.
    """
    half = len(pads) // 2
    if _symmetric(pads):
        return x, list(pads[:half]) or [0] * (x.ndim - 2)
    flat = [amount for axis in reversed(range(half)) for amount in (pads[axis], pads[half + axis])]
    return functional.pad(x, flat, value=value), [0] * half
