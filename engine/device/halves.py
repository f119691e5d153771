"""Halves that are normalized once for all networks of equal normalization, in the format that TensorRT takes."""

from __future__ import annotations

from types import ModuleType

from ...export.normalization import HalfNormalization
from ...probes.arrays import Array
from ...probes.kernels import launch

CHANNELS = 8
"""Channels of a pixel in TensorRT's format HWC8: red, green, blue, and zeros."""


def shape_of_halves(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(n, S, S, 8) for images of (n, 3, S, S)."""
    count, _, height, width = shape
    return count, height, width, CHANNELS


def empty_halves(xp: ModuleType, shape: tuple[int, ...]) -> Array:
    """An array of CuPy for the halves of images of that shape."""
    # NumPy knows no bfloat16, so halves of both kinds go by their bits.
    return xp.empty(shape_of_halves(shape), dtype=xp.uint16)


def normalize(xp: ModuleType, images: Array, normalization: HalfNormalization, out: Array | None = None) -> Array:
    """The halves that a network of that normalization computes at its head: float32, and one rounding at the end.

    Args:
        xp: CuPy.
        images: (n, 3, S, S) float32 RGB in [0, 1].
        normalization: the head of the network.
        out: the array that the halves are written into; a new one by default.

    Gives (n, S, S, 8) uint16, the bits of the halves; the channels behind blue are zero.
    """
    count, _, height, width = images.shape
    area, bfloat = height * width, normalization.precision == "bf16"
    halves = empty_halves(xp, images.shape) if out is None else out
    launch("normalize", (area, count), halves, images, *normalization.mean, *normalization.std, bfloat, area)
    return halves
