"""Suppress texture, global shape or color.

`bilateral` removes texture and preserves edges. `patch_shuffle` destroys global shape and preserves local texture.
`grey_blend` and `channel_shuffle` remove or change color.

`bilateral` is the bilateral filter:

    y(p) = sum over q of w(p, q) x(q) / sum of w(p, q),  q within d // 2 pixels of p
    w(p, q) = exp(-|p - q|^2 / (2 sigma_space^2)) exp(-(|dR| + |dG| + |dB|)^2 / (2 sigma_color^2))

Color differences are in units of 8-bit values, and distances are in pixels. Borders are mirrored without repeating the
edge pixel. This is `bilateralFilter` of OpenCV, but without rounding to integers (Tomasi & Manduchi 1998, "Bilateral
filtering for gray and color images").

`patch_shuffle` divides an image into grid x grid square patches and permutes them. The permutation is drawn for each
image and grid size, and all permutations have the same probability.

    grey_blend:       y = (1 - alpha) x + alpha (0.299 R + 0.587 G + 0.114 B)       (ITU-R BT.601)
    channel_shuffle:  y_c = x_p(c),  p one of the six permutations of R, G and B, with equal probability

Source: Burgert et al. 2025 ("ImageNet-trained CNNs are not biased towards texture").
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ProbeError
from ..core.records import Condition
from .arrays import Array, chunks, launch, unit_range
from .family import Axis, Batch, Buffer, Family, Parameter, Perturbed, integer_in, number_in
from .noise import CHANNELS, PATCHES, random_words

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G and B (ITU-R BT.601)."""
CHANNEL_ORDERS = tuple(permutations(range(3)))
"""All permutations of the three channels."""


def radius(condition: Condition) -> int:
    """Return the radius of the bilateral filter in pixels."""
    return max(int(condition["d"]) // 2, 1)


def space_weights(condition: Condition) -> NDArray[np.float32]:
    """Return the spatial weights of the filter, (2 r + 1, 2 r + 1) float32.

    They are 0 outside of the circle with radius r.
    """
    r = radius(condition)
    squared = np.square(np.arange(-r, r + 1))[:, None] + np.square(np.arange(-r, r + 1))
    weights = np.exp(-squared / (2 * float(condition["sigma_space"]) ** 2))
    return np.where(squared <= r * r, weights, 0).astype(np.float32)


def smooth_in_arrays(pixels: Array, space: NDArray[np.float32], sigma_color: float, out: Array) -> None:
    """Apply the bilateral filter to (n, 3, size, size) uint8 images and write float32 images in [0, 1] to `out`.

    The weight of two pixels is symmetric, so it is computed once per pair and added to both pixels. In the flattened
    padded image, all pairs with the same offset are two slices of pixels, one shifted against the other. A pair that
    wraps around the end of a row has at least one pixel in the padding, and results in the padding are discarded.
    """
    r, count, size = len(space) // 2, len(pixels), pixels.shape[-1]
    padded = np.pad(pixels, ((0, 0), (0, 0), (r, r), (r, r)), mode="reflect").astype(np.float32)
    values = padded.reshape(count, 3, -1)
    # `pull` accumulates weighted differences to the neighbors. Weights start at 1, the weight of the pixel itself.
    pull, weights = np.zeros_like(values), np.ones_like(values[:, :1])
    scratch = np.empty_like(values), np.empty_like(weights), np.empty_like(weights)
    exponent = np.float32(-0.5 / sigma_color**2)
    for dy, dx in np.argwhere(space > 0) - r:
        shift = dy * padded.shape[-1] + dx
        if shift <= 0:  # the same pairs as with the opposite offset, or the pixel itself
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
    np.clip(out, 0, 1, out=out)  # the weighted mean can leave [0, 1] only by rounding errors


def smooth_in_kernel(xp: ModuleType, pixels: Array, space: NDArray[np.float32], sigma_color: float, out: Array) -> None:
    """Compute the same as `smooth_in_arrays` on a GPU, in one pass."""
    count, size = len(pixels), pixels.shape[-1]
    exponent = -0.5 / sigma_color**2
    launch("bilateral", (size * size, count), out, pixels, xp.asarray(space), exponent, len(space) // 2, size)


def smooth(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yield the images after each condition's bilateral filter."""
    for condition in conditions:
        space, sigma_color, out = space_weights(condition), float(condition["sigma_color"]), buffer()
        if xp is np:
            for part in chunks(xp, len(out)):
                smooth_in_arrays(batch.pixels[part], space, sigma_color, out[part])
        else:
            smooth_in_kernel(xp, batch.pixels, space, sigma_color, out)
        yield condition, out


def check_radius(condition: Condition, size: int) -> None:
    """Raise ProbeError if the filter radius is not smaller than the image, because the border could not be mirrored."""
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
    smooth,
    axes=(Axis("d"),),
    check_size=check_radius,
)


def patch_orders(xp: ModuleType, seed: int, keys: Array, grid: int) -> Array:
    """Draw a permutation of the patches for each of n images, (n, grid * grid) int64.

    For each position, in row-major order, it contains the position that the patch is taken from.
    """
    # Random words can be equal. An unstable sort would order them differently on different processors.
    return xp.argsort(random_words(xp, seed, keys, PATCHES ^ grid << 8, grid * grid), axis=1, kind="stable")


def rearranged(xp: ModuleType, pixels: Array, order: Array) -> Array:
    """Permute the patches of (n, 3, size, size) images. `size` must be a multiple of the number of patches per side."""
    count, channels, size, _ = pixels.shape
    grid = round(order.shape[1] ** 0.5)
    cut = pixels.reshape(count, channels, grid, size // grid, grid, size // grid).transpose(0, 2, 4, 1, 3, 5)
    patches = cut.reshape(count, grid * grid, channels, size // grid, size // grid)
    shuffled = patches[xp.arange(count)[:, None], order].reshape(cut.shape)
    return shuffled.transpose(0, 3, 1, 4, 2, 5).reshape(pixels.shape)


def shuffle_patches(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yield the images with permuted patches."""
    for condition in conditions:
        order = patch_orders(xp, batch.seed, batch.keys, int(condition["grid"]))
        out = buffer()
        for part in chunks(xp, len(order)):
            target = out[part]
            unit_range(xp, rearranged(xp, batch.pixels[part], order[part]), target)
        yield condition, out


def check_grid(condition: Condition, size: int) -> None:
    """Raise ProbeError if the side length is not a multiple of the number of patches per side."""
    grid = int(condition["grid"])
    if size % grid:
        fitting = [n for n in range(2, 33) if size % n == 0]
        raise ProbeError(
            f"{condition}: {size} pixels are not {grid} patches of equal size; take a grid of "
            f"{', '.join(map(str, fitting)) or 1}"
        )


PATCH_SHUFFLE = Family(
    "patch_shuffle",
    "grid x grid patches in another order",
    2,
    (Parameter("grid", integer_in(1, 256), (2, 4, 8, 16)),),
    shuffle_patches,
    random=True,
    check_size=check_grid,
)


def blend(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yield the images blended with their grayscale version."""
    images = unit_range(xp, batch.pixels)
    red, green, blue = (images[:, channel] * xp.float32(weight) for channel, weight in enumerate(LUMA))
    grey = (red + green + blue)[:, None]
    for condition in conditions:
        out, alpha = buffer(), float(condition["alpha"])
        for part in chunks(xp, len(images)):
            target = out[part]
            xp.multiply(images[part], xp.float32(1 - alpha), out=target)
            target += xp.float32(alpha) * grey[part]
            xp.clip(target, 0, 1, out=target)
        yield condition, out


def channel_orders(xp: ModuleType, seed: int, keys: Array) -> Array:
    """Draw a permutation of the channels for each of n images, (n, 3) int64. It contains the source of each channel."""
    words = random_words(xp, seed, keys, CHANNELS, 1)[:, 0]
    return xp.asarray(CHANNEL_ORDERS)[words.astype(xp.uint64) * xp.uint64(len(CHANNEL_ORDERS)) >> xp.uint64(32)]


def shuffle_channels(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yield the images with permuted channels. All conditions are the same, because the family has no parameters."""
    order = channel_orders(xp, batch.seed, batch.keys)
    pixels = batch.pixels[xp.arange(len(order))[:, None], order]
    for condition in conditions:
        yield condition, unit_range(xp, pixels, buffer())


GREY_BLEND = Family(
    "grey_blend",
    "the image blended with its grey version, which weighs alpha",
    1,
    (Parameter("alpha", number_in(0, 1), (0.2, 0.4, 0.6, 0.8, 1.0)),),
    blend,
)
CHANNEL_SHUFFLE = Family("channel_shuffle", "the three channels in another order", 1, (), shuffle_channels, random=True)
