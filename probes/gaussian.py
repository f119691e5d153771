"""Gaussian low-pass and high-pass filters of grey images, as matrix products.

    low = gaussian(g, sigma),  high = g - gaussian(g, sigma), shifted so that its mean is 0.4423; both clipped to [0, 1]

g is the grey image of probes/grey.py, and sigma is in pixels. The kernel ends at four sigma, as SciPy's does, and what
lies beyond the edges is 0.4423, the mean grey of the published images. Less that grey, zeros surround the image, and
the filter is A (g - 0.4423) A' + 0.4423 with a banded matrix A. It is multiplied in blocks of rows, of which each meets
only the columns that its band covers: for a narrow kernel that is a quarter of the work.

Source: Geirhos et al. 2018 ("Generalisation in humans and deep neural networks").
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import groupby
from math import inf
from types import ModuleType
from typing import Any

import numpy as np

from ..core.records import Condition
from .arrays import Array, chunks, constants
from .family import Axis, Batch, Buffer, Family, Parameter, Perturbed, number_in
from .grey import grey

BACKGROUND = 0.4423
TRUNCATE = 4
ROWS = 32
"""Rows of a block on NumPy. A GPU takes the whole matrix at once."""
LARGEST_SIGMA = 1000
UNFILTERED = "inf"
"""The sigma of a high-pass that removes the background alone. JSON has no infinity, so it is a word."""


@cache
def _blocks(xp: ModuleType, size: int, sigma: float) -> tuple[tuple[slice, slice, Array, Array], ...]:
    """(rows, columns, part of A, its transpose) for every block: A is zero elsewhere. Products want both contiguous."""
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
    """(n, size, size) float32 images after a Gaussian of `sigma` in pixels, surrounded by zeros."""
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


def perturb(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yields the conditions by sigma."""
    images = grey(xp, batch.pixels)
    images -= xp.float32(BACKGROUND)
    share = xp.full(images.shape[-1], 1 / images.shape[-1], dtype=xp.float32)
    for sigma, members in groupby(sorted(conditions, key=_sigma), key=_sigma):
        for condition in members:
            out = buffer()
            for part in chunks(xp, len(images)):
                filtered, channels = blur(xp, images[part], sigma), out[part]
                if condition.probe == "gaussian_highpass":
                    filtered = xp.subtract(images[part], filtered, out=channels[:, 0])
                    level = xp.float32(BACKGROUND) - (filtered @ share @ share)[:, None, None]  # products sum fastest
                else:
                    level = xp.float32(BACKGROUND)
                first = xp.add(filtered, level, out=channels[:, 0])
                xp.clip(first, 0, 1, out=first)
                channels[:, 1:] = first[:, None]
            yield condition, out


def _sigma(condition: Condition) -> float:
    return float(condition["sigma"])


def _sigma_or_inf(value: Any) -> float | str:
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
    perturb,
)
GAUSSIAN_HIGHPASS = Family(
    "gaussian_highpass",
    "grey, less what a Gaussian of sigma pixels leaves, around a mean of 0.4423",
    1,
    (Parameter("sigma", _sigma_or_inf, (UNFILTERED, 3.0, 1.5, 1.0, 0.7, 0.55, 0.45, 0.4)),),
    perturb,
    axes=(Axis("sigma"),),
)
