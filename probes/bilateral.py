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

from ..core.errors import ProbeError
from ..core.records import Condition
from .arrays import Array, chunks
from .family import Axis, Batch, Buffer, Family, Parameter, integer_in, number_in
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


def smooth_in_arrays(pixels: Array, space: NDArray[np.float32], sigma_color: float, out: Array) -> None:
    """(n, 3, size, size) uint8 to `out`, float32 in [0, 1].

    A pair of pixels has one weight, and pulls both towards each other. With the padded rows one behind the other, the
    pairs that lie the same way apart are two runs of pixels, one shifted against the other. Where this pairs the end of
    a row with the beginning of the next, one of the two is padding, of which nobody reads what became.
    """
    r, count, size = len(space) // 2, len(pixels), pixels.shape[-1]
    padded = np.pad(pixels, ((0, 0), (0, 0), (r, r), (r, r)), mode="reflect").astype(np.float32)
    values = padded.reshape(count, 3, -1)
    pull, weights = np.zeros_like(values), np.ones_like(values[:, :1])  # a pixel is its own neighbour
    scratch = np.empty_like(values), np.empty_like(weights), np.empty_like(weights)
    exponent = np.float32(-0.5 / sigma_color**2)
    for dy, dx in np.argwhere(space > 0) - r:
        shift = dy * padded.shape[-1] + dx
        if shift <= 0:  # the pair was taken before, or is a pixel with itself
            continue
        first, second = np.s_[..., :-shift], np.s_[..., shift:]
        differences, weight, magnitude = (array[first] for array in scratch)
        np.subtract(values[second], values[first], out=differences)
        np.abs(differences[:, :1], out=weight)
        weight += np.abs(differences[:, 1:2], out=magnitude)
        weight += np.abs(differences[:, 2:], out=magnitude)
        weight *= weight
        weight *= exponent
        np.exp(weight, out=weight)
        weight *= space[dy + r, dx + r]
        weights[first] += weight
        weights[second] += weight
        differences *= weight
        pull[first] += differences
        pull[second] -= differences
    pull /= weights
    pull += values
    inner = slice(r, r + size)
    np.divide(pull.reshape(padded.shape)[..., inner, inner], 255, out=out)
    np.clip(out, 0, 1, out=out)  # a mean, but for its rounding


def smooth_in_kernel(xp: ModuleType, pixels: Array, space: NDArray[np.float32], sigma_color: float, out: Array) -> None:
    """`smooth_in_arrays` on a GPU, in one pass."""
    count, size = len(pixels), pixels.shape[-1]
    exponent = -0.5 / sigma_color**2
    launch("bilateral", (size * size, count), out, pixels, xp.asarray(space), exponent, len(space) // 2, size)


def perturb(
    xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer
) -> Iterator[tuple[Condition, Array]]:
    for condition in conditions:
        space, sigma_color, out = space_weights(condition), float(condition["sigma_color"]), buffer()
        if xp is np:
            for part in chunks(xp, len(out)):
                smooth_in_arrays(batch.pixels[part], space, sigma_color, out[part])
        else:
            smooth_in_kernel(xp, batch.pixels, space, sigma_color, out)
        yield condition, out


def check_size(condition: Condition, size: int) -> None:
    if size <= radius(condition):
        raise ProbeError(f"{condition}: images of {size} pixels are smaller than the filter; take a smaller d")


BILATERAL = Family(
    "bilateral",
    "smoothed within edges by the bilateral filter of diameter d",
    2,
    (
        Parameter("d", integer_in(2, 64), ()),
        Parameter("sigma_color", number_in(1, 1000), ()),
        Parameter("sigma_space", number_in(1, 1000), (75.0,)),
    ),
    perturb,
    axes=(Axis("d"),),
    check_size=check_size,
)
