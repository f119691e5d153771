"""The bilateral filter, which smooths within edges: texture goes, shape stays.

    y(p) = sum over q of w(p, q) x(q) / sum of w(p, q),  q within d // 2 pixels of p
    w(p, q) = exp(-|p - q|^2 / (2 sigma_space^2)) exp(-(|dR| + |dG| + |dB|)^2 / (2 sigma_color^2))

Differences of colour are in units of 8-bit values, distances in pixels, and what lies beyond an edge is mirrored at it
without repeating the edge: OpenCV's bilateralFilter, without its rounding to whole numbers.

Source: Tomasi & Manduchi 1998 ("Bilateral filtering for gray and color images"); as a suppressor of texture, Burgert et
al. 2025 ("ImageNet-trained CNNs are not biased towards texture").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from ..errors import ProbeError
from ..records import Condition
from .arrays import Array, chunks
from .family import Batch, Buffer, Family, Parameter, integer_in, number_in
from .kernels import launch


def radius(condition: Condition) -> int:
    """How far a neighbour may lie, in pixels."""
    return max(int(condition["d"]) // 2, 1)


def space_weights(condition: Condition) -> NDArray[np.float32]:
    """(2 r + 1, 2 r + 1) float32: the weight of a neighbour by where it lies; 0 outside of the circle of radius r."""
    r = radius(condition)
    squared = np.square(np.arange(-r, r + 1))[:, None] + np.square(np.arange(-r, r + 1))
    weights = np.exp(-squared / (2 * float(condition["sigma_space"]) ** 2))
    return np.where(squared <= r * r, weights, 0).astype(np.float32)


def colour_weights(condition: Condition) -> NDArray[np.float32]:
    """(766,) float32: the weight of a neighbour by the sum of its three channels' absolute differences."""
    return np.exp(-np.square(np.arange(766) / float(condition["sigma_color"])) / 2).astype(np.float32)


def smooth_in_arrays(
    xp: ModuleType, pixels: Array, space: NDArray[np.float32], colour: NDArray[np.float32], out: Array
) -> None:
    """(n, 3, size, size) uint8 to `out`, float32 in [0, 1]."""
    r, size = len(space) // 2, pixels.shape[-1]
    table = xp.asarray(colour)
    padded = xp.pad(pixels, ((0, 0), (0, 0), (r, r), (r, r)), mode="reflect").astype(xp.int16)
    centre = padded[..., r : r + size, r : r + size]
    total = xp.zeros(pixels.shape, dtype=xp.float32)
    weights = xp.zeros((len(pixels), 1, size, size), dtype=xp.float32)
    for row, column in np.argwhere(space > 0).tolist():
        neighbour = padded[..., row : row + size, column : column + size]
        apart = xp.abs(neighbour - centre)
        weight = xp.take(table, apart[:, :1] + apart[:, 1:2] + apart[:, 2:]) * space[row, column]
        total += weight * neighbour
        weights += weight
    xp.minimum(total / (weights * xp.float32(255)), 1, out=out)


def smooth_in_kernel(
    xp: ModuleType, pixels: Array, space: NDArray[np.float32], colour: NDArray[np.float32], out: Array
) -> None:
    """`smooth_in_arrays` on a GPU, in one pass."""
    count, size = len(pixels), pixels.shape[-1]
    there = xp.asarray(space), xp.asarray(colour)
    launch("bilateral", (size * size, count), out, pixels, *there, len(space) // 2, size)


def perturb(
    xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer
) -> Iterator[tuple[Condition, Array]]:
    smooth = smooth_in_arrays if xp is np else smooth_in_kernel
    for condition in conditions:
        space, colour, out = space_weights(condition), colour_weights(condition), buffer()
        for part in chunks(xp, len(batch.pixels)):
            smooth(xp, batch.pixels[part], space, colour, out[part])
        yield condition, out


def check_size(condition: Condition, size: int) -> None:
    if size <= radius(condition):
        raise ProbeError(f"{condition}: images of {size} pixels are smaller than the filter; take a smaller d")


BILATERAL = Family(
    "bilateral",
    "smoothed within edges by the bilateral filter of diameter d",
    1,
    (
        Parameter("d", integer_in(2, 64), ()),
        Parameter("sigma_color", number_in(1, 1000), ()),
        Parameter("sigma_space", number_in(1, 1000), (75.0,)),
    ),
    perturb,
    check_size=check_size,
)
