"""Apply ideal low-pass and high-pass filters with a square pass band.

The published filters work on the shifted n x n spectrum. They keep (low-pass) or remove (high-pass) the block of
frequencies [-r, r) x [-r, r), take the real part of the inverse transform and clip it to [0, 1]. The radius is r =
int(c * n / 2) for a low-pass filter with cutoff c, and r = int((1 - c) * n / 2) for a high-pass filter.

This implementation computes the same result with real matrix products. Let Q be the real orthonormal Fourier basis: a
constant, then a sine and a cosine for each frequency. An image x has the spectrum X = Q' x Q, and its low-pass filtered
version is Q Z Q'. Z is X limited to the frequencies up to r, with a correction because the published block contains the
frequency -r but not +r. Taking the real part of the result halves the two edges of Z at frequency r, and turns its 2 x
2 corner [[a, b], [c, d]] into [[a - d, b + c], [b + c, d - a]] / 4.

A high-pass filtered image is the image minus its low-pass filtered version of the same radius, so both need only one
inverse transform. All cutoffs share the forward transform.

Source: Gavrikov and Keuper 2024, after Wang et al. 2020 ("High-frequency component helps explain …").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import groupby, product, zip_longest
from types import ModuleType

import numpy as np

from ..core.protocol import CUTOFFS
from ..core.records import FREQUENCY_TITLES, Condition
from .arrays import Array, chunks, constants, launch, unit_range
from .family import Axis, Batch, Buffer, Family, Parameter, Perturbed, even_size, number_in

PARITIES = tuple(product(range(2), repeat=2))
"""All pairs of 0 and 1: even or odd row frequency and even or odd column frequency. Also used for the rows and columns
of 2 x 2 blocks."""


def radius(condition: Condition, size: int) -> int:
    """Return half the side length of the filter's block, in cycles/image."""
    cutoff = float(condition["cutoff"])
    return int((cutoff if condition.probe == "lowpass" else 1 - cutoff) * (size // 2))


@cache
def fourier_bases(xp: ModuleType, size: int) -> tuple[Array, Array]:
    """Return the first size / 2 rows of Q as two float32 matrices: the columns of even and of odd frequencies.

    The columns of the first matrix are 1, sin, cos, sin, cos … of the frequencies 0, 2, 2, 4, 4 …. Those of the second
    are sin, cos … of the frequencies 1, 1, 3, 3 …. The remaining rows of Q need not be stored: half a period further
    on, waves of even frequency repeat and waves of odd frequency change sign.

    `size` must be even. The Nyquist frequency size / 2 is omitted, because only the unfiltered image contains it.
    """
    half = size // 2
    position = np.arange(half)[:, None]
    angle = 2 * np.pi * (position * np.arange(1, half) % size) / size
    waves = np.stack([np.sin(angle), np.cos(angle)], axis=-1) * np.sqrt(2 / size)
    even = np.hstack([np.full((half, 1), np.sqrt(1 / size)), waves[:, 1::2].reshape(half, -1)])
    even, odd = constants(xp, (even, waves[:, 0::2].reshape(half, -1)))
    return even, odd


def spectrum(xp: ModuleType, images: Array) -> Array:
    """Return the spectrum X = Q' x Q, (..., n - 1, n - 1), of (..., n, n) float32 images.

    Even frequencies come first.
    """
    even, odd = fourier_bases(xp, images.shape[-1])
    half = images.shape[-1] // 2
    # Adding and subtracting the two halves first (as an FFT does) halves the cost of each product.
    left_half, right_half = images[..., :half], images[..., half:]
    rows = xp.concatenate([(left_half + right_half) @ even, (left_half - right_half) @ odd], axis=-1)
    top_half, bottom_half = rows[..., :half, :], rows[..., half:, :]
    return xp.concatenate([even.T @ (top_half + bottom_half), odd.T @ (top_half - bottom_half)], axis=-2)


def lowpass(xp: ModuleType, images: Array, transformed: Array, r: int) -> Array:
    """Return low-pass filtered images, without clipping.

    Args:
        xp: Array module.
        images: (..., n, n) float32 images.
        transformed: Their spectrum, as returned by `spectrum`.
        r: Radius of the filter, 0 to n / 2. 0 returns zeros, and n / 2 returns `images` itself.
    """
    size = images.shape[-1]
    if r == 0:
        return xp.zeros_like(images)
    if r == size // 2:
        return images
    evens, odds = _count_rows(r)
    inner = xp.empty((*transformed.shape[:-2], evens + odds, evens + odds), dtype=xp.float32)
    _cut(transformed, r, inner)
    even, odd = (basis[:, :count] for basis, count in zip(fourier_bases(xp, size), (evens, odds), strict=True))
    half = size // 2
    rows = xp.empty((*inner.shape[:-1], size), dtype=xp.float32)
    repeats, flips = inner[..., :evens] @ even.T, inner[..., evens:] @ odd.T
    xp.add(repeats, flips, out=rows[..., :half])
    xp.subtract(repeats, flips, out=rows[..., half:])
    low = xp.empty_like(images)
    repeats, flips = even @ rows[..., :evens, :], odd @ rows[..., evens:, :]
    xp.add(repeats, flips, out=low[..., :half, :])
    xp.subtract(repeats, flips, out=low[..., half:, :])
    return low


def _count_rows(r: int) -> tuple[int, int]:
    """Return the number of spectrum rows up to frequency r, separately for even and odd frequencies."""
    return 1 + r // 2 * 2, (r + 1) // 2 * 2


def _cut(transformed: Array, r: int, inner: Array) -> None:
    """Fill `inner` with the spectrum up to frequency r, including the correction for the one-sided block."""
    evens, _ = _count_rows(r)
    parts, first = (slice(evens), slice(evens, None)), (0, _count_rows(transformed.shape[-1] // 2)[0])
    for row, column in PARITIES:
        block = inner[..., parts[row], parts[column]]
        height, width = block.shape[-2:]
        first_row, first_column = first[row], first[column]
        block[...] = transformed[..., first_row : first_row + height, first_column : first_column + width]
        if row == r % 2:
            block[..., -2:, :] *= 0.5
        if column == r % 2:
            block[..., -2:] *= 0.5
    # The corner has been halved twice by now, which is the factor 1/4 of the formula.
    corner = inner[..., parts[r % 2], parts[r % 2]][..., -2:, -2:]
    a, b, c, d = (corner[..., row, column].copy() for row, column in PARITIES)
    corner[..., 0, 0], corner[..., 0, 1] = a - d, b + c
    corner[..., 1, 0], corner[..., 1, 1] = b + c, d - a


Fill = Callable[[int, Sequence[tuple[Condition, Array]]], None]
"""Write the filtered images of one radius to the buffers of its conditions. Each probe may occur once."""


def filters_in_arrays(xp: ModuleType, pixels: Array) -> Fill:
    """Compute the spectrum of (n, 3, size, size) uint8 images and return a function that filters them."""
    count, size = len(pixels), pixels.shape[-1]
    images = unit_range(xp, pixels)
    transformed = xp.empty((count, 3, size - 1, size - 1), dtype=xp.float32)
    for part in chunks(xp, count):
        transformed[part] = spectrum(xp, images[part])

    def fill(r: int, outputs: Sequence[tuple[Condition, Array]]) -> None:
        for part in chunks(xp, count):
            low = lowpass(xp, images[part], transformed[part], r)
            for condition, out in outputs:
                target = out[part]
                filtered = low if condition.probe == "lowpass" else xp.subtract(images[part], low, out=target)
                xp.clip(filtered, 0, 1, out=target)

    return fill


@cache
def _waves(xp: ModuleType, size: int) -> tuple[Array, ...]:
    """Return the transposed bases as contiguous arrays.

    Only a slice of leading rows is needed for a radius, and slices of rows stay contiguous. CuPy copies operands that
    are not contiguous before a product.
    """
    return constants(xp, [np.ascontiguousarray(basis.T) for basis in fourier_bases(np, size)])


def filters_in_kernels(xp: ModuleType, pixels: Array) -> Fill:
    """Compute the same as `filters_in_arrays` on a GPU, with custom kernels before and after the matrix products.

    Quarters of images, and blocks of the spectrum with even or odd frequencies, are stored as (rows, channels of all
    images, columns). A product with a matrix from the left or from the right is then a single large matrix product.
    """
    half, channels = pixels.shape[-1] // 2, 3 * len(pixels)
    waves = _waves(xp, 2 * half)
    folded = [xp.empty((half, channels, half), dtype=xp.float32) for _ in PARITIES]
    launch("fold_quarters", (half * half, channels), *folded, pixels, half, channels)
    blocks = [
        _times(waves[row], quarter, waves[column].T) for (row, column), quarter in zip(PARITIES, folded, strict=True)
    ]

    def fill(r: int, outputs: Sequence[tuple[Condition, Array]]) -> None:
        if r in (0, half):
            for condition, out in outputs:
                if (condition.probe == "lowpass") == (r == half):
                    unit_range(xp, pixels, out)
                else:
                    out[...] = 0
            return
        counts, quarters = _count_rows(r), []
        for (row, column), block in zip(PARITIES, blocks, strict=True):
            height, width = counts[row], counts[column]
            # Index of the first row and column of frequency r, to which the correction for the one-sided block applies.
            edges = [count - 2 if parity == r % 2 else count for count, parity in ((height, row), (width, column))]
            cut = xp.empty((height, channels, width), dtype=xp.float32)
            launch("cut_block", (height * width, channels), cut, block[:height], *cut.shape, block.shape[-1], *edges)
            quarters.append(_times(waves[row][:height].T, cut, waves[column][:width]))
        outs = {condition.probe: out for condition, out in outputs}
        low, high = outs.get("lowpass"), outs.get("highpass")
        launch("join_quarters", (half * half, channels), low, high, pixels, *quarters, half, channels)

    return fill


def _times(row_matrix: Array, block: Array, column_matrix: Array) -> Array:
    """Multiply a (rows, channels, columns) array by one matrix from the left and another from the right."""
    rows, channels, columns = block.shape
    product = (row_matrix @ block.reshape(rows, -1)).reshape(-1, columns) @ column_matrix
    return product.reshape(len(row_matrix), channels, -1)


def perturb(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yield the conditions ordered by radius. A low-pass and a high-pass filter of the same radius are consecutive."""
    size = batch.pixels.shape[-1]
    fill = (filters_in_arrays if xp is np else filters_in_kernels)(xp, batch.pixels)
    for r, members in groupby(sorted(conditions, key=lambda c: radius(c, size)), key=lambda c: radius(c, size)):
        for pair in _pairs(list(members)):
            outputs = [(condition, buffer()) for condition in pair]
            fill(r, outputs)
            yield from outputs


def _pairs(members: Sequence[Condition]) -> Iterator[list[Condition]]:
    """Split the conditions of one radius into groups with at most one low-pass and one high-pass filter.

    Close cutoffs can have the same radius. Without this split, they would exceed the number of buffers that a family
    may hold (see `family.Buffer`).
    """
    probes = ([condition for condition in members if condition.probe == name] for name in ("lowpass", "highpass"))
    return ([condition for condition in pair if condition] for pair in zip_longest(*probes))


_CUTOFF = (Parameter("cutoff", number_in(0, 1), CUTOFFS),)

LOWPASS = Family(
    "lowpass",
    "keeps frequencies up to cutoff x size / 2 cycles per image",
    1,
    _CUTOFF,
    perturb,
    axes=(Axis("cutoff", FREQUENCY_TITLES["below"], lambda cutoff: cutoff / 2, cuts=True),),
    check_size=even_size,
)
HIGHPASS = Family(
    "highpass",
    "removes frequencies up to (1 - cutoff) x size / 2 cycles per image",
    1,
    _CUTOFF,
    perturb,
    axes=(Axis("cutoff", FREQUENCY_TITLES["above"], lambda cutoff: (1 - cutoff) / 2, cuts=True),),
    check_size=even_size,
)
