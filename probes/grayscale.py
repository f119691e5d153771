"""Convert images to grayscale and reduce their contrast, add uniform noise, or filter them with a Gaussian.

These are stimuli of the experiments with human observers by Geirhos et al. 2018:

    g = 0.2125 R + 0.7154 G + 0.0721 B      (ITU-R BT.709, as rgb2gray of scikit-image)
    contrast:           (1 - c) / 2 + c g
    uniform_noise:      clip(0.35 + 0.3 g + width u, 0, 1),  u uniform in (-1, 1) for each pixel
    gaussian_lowpass:   clip(gaussian(g, sigma), 0, 1),  sigma in pixels
    gaussian_highpass:  clip(g - gaussian(g, sigma), 0, 1), shifted before the clip so that its mean is 0.4423

One noise field u per image is used for all widths. The Gaussian kernel is truncated at four sigma, as in SciPy. Images
are padded with the constant 0.4423, the mean gray level of the published images.

After subtracting this constant the padding is zero, so the filter is A (g - 0.4423) A' + 0.4423 with a banded matrix A.
On NumPy the product is computed in blocks of rows. Each block is multiplied only with the columns that its band covers,
which for a narrow kernel is a quarter of the work.

Source: Geirhos et al. 2018 ("Generalisation in humans and deep neural networks").
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import inf
from types import ModuleType
from typing import Any

import numpy as np

from ..core.records import Condition
from .arrays import Array, chunks, constants
from .family import Axis, Batch, Buffer, Family, Parameter, Perturbed, number_in
from .noise import UNIFORM, random_words, uniform

LUMINANCE = (0.2125, 0.7154, 0.0721)
"""Weights of R, G and B (ITU-R BT.709)."""
CONTRAST_UNDER_NOISE = 0.3
"""Contrast of the images to which `uniform_noise` adds noise."""
BACKGROUND = 0.4423
"""Mean gray level of the published images, used for padding."""
TRUNCATE = 4
"""Radius of the Gaussian kernel, in units of sigma."""
ROWS = 32
"""Rows per block on NumPy. A GPU multiplies the whole matrix at once."""
LARGEST_SIGMA = 1000
"""Largest sigma of the filters, in pixels."""
UNFILTERED = "inf"
"""Value of sigma for a high-pass filter that only shifts the mean. It is text because JSON cannot represent infinity.
"""


def grey(xp: ModuleType, pixels: Array) -> Array:
    """Convert (n, 3, size, size) uint8 RGB images to grayscale, (n, size, size) float32 in [0, 1]."""
    luminance = xp.empty((len(pixels), *pixels.shape[2:]), dtype=xp.float32)
    red, green, blue = (xp.float32(weight / 255) for weight in LUMINANCE)
    for part in chunks(xp, len(pixels)):
        target = xp.multiply(pixels[part, 0], red, out=luminance[part])
        target += pixels[part, 1] * green
        target += pixels[part, 2] * blue
    return luminance


def at_contrast(xp: ModuleType, image: Array, contrast: float) -> Array:
    """Scale the contrast of grayscale images around 1/2 by a factor in [0, 1]."""
    return image * xp.float32(contrast) + xp.float32((1 - contrast) / 2)


def perturb(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yield the grayscale images at each condition's contrast."""
    image = grey(xp, batch.pixels)
    for condition in conditions:
        out = buffer()
        out[...] = xp.clip(at_contrast(xp, image, float(condition["contrast"])), 0, 1)[:, None]
        yield condition, out


def add_noise(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yield the grayscale images at contrast 0.3 with uniform noise added."""
    image = at_contrast(xp, grey(xp, batch.pixels), CONTRAST_UNDER_NOISE)
    area = image.shape[1] * image.shape[2]
    noise = uniform(xp, random_words(xp, batch.seed, batch.keys, UNIFORM, area)).reshape(image.shape)
    for condition in conditions:
        out, width = buffer(), xp.float32(condition["width"])
        for part in chunks(xp, len(out)):
            out[part] = xp.clip(image[part] + width * noise[part], 0, 1)[:, None]
        yield condition, out


CONTRAST = Family(
    "contrast",
    "grey at a contrast in [0, 1], around 1/2",
    1,
    (Parameter("contrast", number_in(0, 1), (0.01, 0.03, 0.05, 0.1, 0.15, 0.3, 0.5, 1.0)),),
    perturb,
)
UNIFORM_NOISE = Family(
    "uniform_noise",
    "grey at contrast 0.3 plus noise that is uniform in [-width, width]",
    1,
    (Parameter("width", number_in(0, 1), (0.0, 0.03, 0.05, 0.1, 0.2, 0.35, 0.6, 0.9)),),
    add_noise,
    random=True,
)


@cache
def _blocks(xp: ModuleType, size: int, sigma: float) -> tuple[tuple[slice, slice, Array, Array], ...]:
    """Return the filter matrix A in blocks: (rows, columns, block of A, its transpose). A is zero outside of the
    blocks.

    The transposes are stored too, because matrix products are fastest with contiguous operands.
    """
    reach = int(TRUNCATE * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    offset = np.arange(size) - np.arange(size)[:, None]
    matrix = np.where(abs(offset) <= reach, kernel[np.clip(offset + reach, 0, 2 * reach)], 0)
    rows = [slice(first, min(first + ROWS, size)) for first in range(0, size, ROWS)] if xp is np else [slice(0, size)]
    columns = [slice(max(row.start - reach, 0), min(row.stop + reach, size)) for row in rows]
    places = list(zip(rows, columns, strict=True))
    parts = constants(xp, [matrix[row, column] for row, column in places])
    transposes = constants(xp, [matrix[column, row] for row, column in places])  # A is symmetric
    return tuple(zip(rows, columns, parts, transposes, strict=True))


def blur(xp: ModuleType, images: Array, sigma: float) -> Array:
    """Filter (n, size, size) float32 images with a Gaussian of `sigma` pixels, with zero padding."""
    if sigma == 0:
        return images
    if sigma == inf:
        return xp.zeros_like(images)
    down, blurred = xp.empty_like(images), xp.empty_like(images)
    blocks = _blocks(xp, images.shape[-1], sigma)
    for rows, columns, part, _ in blocks:
        xp.matmul(part, images[:, columns], out=down[:, rows])
    for rows, columns, _, transpose in blocks:
        xp.matmul(down[..., columns], transpose, out=blurred[..., rows])
    return blurred


def filter_grey(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yield the grayscale images after each condition's Gaussian low-pass or high-pass filter."""
    images = grey(xp, batch.pixels)
    images -= xp.float32(BACKGROUND)
    share = xp.full(images.shape[-1], 1 / images.shape[-1], dtype=xp.float32)
    for condition in conditions:
        out, sigma = buffer(), float(condition["sigma"])
        for part in chunks(xp, len(images)):
            filtered, channels = blur(xp, images[part], sigma), out[part]
            if condition.probe == "gaussian_highpass":
                filtered = xp.subtract(images[part], filtered, out=channels[:, 0])
                # The mean of each image, as two matrix-vector products, which are faster than `mean`.
                level = xp.float32(BACKGROUND) - (filtered @ share @ share)[:, None, None]
            else:
                level = xp.float32(BACKGROUND)
            first = xp.add(filtered, level, out=channels[:, 0])
            xp.clip(first, 0, 1, out=first)
            channels[:, 1:] = first[:, None]
        yield condition, out


def _sigma_or_inf(value: Any) -> float | str:
    """Parse a sigma that may be infinite."""
    if value in (UNFILTERED, inf):
        return UNFILTERED
    try:
        return number_in(0, LARGEST_SIGMA)(value)
    except ValueError:
        raise ValueError(f'must be a number in [0, {LARGEST_SIGMA}] or "{UNFILTERED}", not {value!r}') from None


GAUSSIAN_LOWPASS = Family(
    "gaussian_lowpass",
    "grey, blurred with a Gaussian of sigma pixels",
    1,
    (Parameter("sigma", number_in(0, LARGEST_SIGMA), (0.0, 1.0, 3.0, 5.0, 7.0, 10.0, 15.0, 40.0)),),
    filter_grey,
)
GAUSSIAN_HIGHPASS = Family(
    "gaussian_highpass",
    "grey, less what a Gaussian of sigma pixels leaves, around a mean of 0.4423",
    1,
    (Parameter("sigma", _sigma_or_inf, (UNFILTERED, 3.0, 1.5, 1.0, 0.7, 0.55, 0.45, 0.4)),),
    filter_grey,
    axes=(Axis("sigma"),),
)
