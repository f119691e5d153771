"""Low-pass and high-pass filters with a square mask in the shifted spectrum, as separable matrix products.

The published filter keeps (low-pass) or removes (high-pass) the block [-r, r) x [-r, r) of an n x n spectrum, takes the
real part and clips to [0, 1]; r = int(c * n / 2) for a low-pass at cutoff c and int((1 - c) * n / 2) for a high-pass.
The block is one-sided: it holds frequency -r without +r. In the real orthonormal Fourier basis Q (constant, then a sine
and a cosine for each frequency) an image is X = Q' x Q, and its low-pass is Q Z Q' where Z is X cut to the frequencies
up to r, with the two edges at r weighted 1/2 and the 2 x 2 corner [[a, b], [c, d]] turned into
[[a - d, b + c], [b + c, d - a]] / 4: what the missing +r leaves of the complex projection's real part.

A high-pass is what the low-pass of the same radius leaves, so both cost one inverse; all cutoffs share the forward
transform. Source: Gavrikov and Keuper 2024, after Wang et al. 2020 ("High-frequency component helps explain …").
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
"""Rows of even and of odd frequencies (or the top and the bottom), by columns of these."""


def radius(condition: Condition, size: int) -> int:
    """Half the side of the block, in cycles per image."""
    cutoff = float(condition["cutoff"])
    return int((cutoff if condition.probe == "lowpass" else 1 - cutoff) * (size // 2))


@cache
def fourier_bases(xp: ModuleType, size: int) -> tuple[Array, Array]:
    """The first size / 2 rows of Q as two matrices in float32, the columns of even and those of odd frequencies.

    1, sin, cos, sin, cos … of frequency 0, 2, 2, 4, 4 …; and sin, cos … of 1, 1, 3, 3 …. In the other rows, half a
    period on, even frequencies repeat and odd ones change sign. `size` is even, and its last frequency,
    size / 2, is left out: only the whole image has it.
    """
    half = size // 2
    position = np.arange(half)[:, None]
    angle = 2 * np.pi * (position * np.arange(1, half) % size) / size
    waves = np.stack([np.sin(angle), np.cos(angle)], axis=-1) * np.sqrt(2 / size)
    even = np.hstack([np.full((half, 1), np.sqrt(1 / size)), waves[:, 1::2].reshape(half, -1)])
    even, odd = constants(xp, (even, waves[:, 0::2].reshape(half, -1)))
    return even, odd


def spectrum(xp: ModuleType, images: Array) -> Array:
    """X = Q' x Q, (..., n - 1, n - 1), of (..., n, n) float32 images; the even frequencies come first."""
    even, odd = fourier_bases(xp, images.shape[-1])
    half = images.shape[-1] // 2
    left_half, right_half = images[..., :half], images[..., half:]
    rows = xp.concatenate([(left_half + right_half) @ even, (left_half - right_half) @ odd], axis=-1)
    top_half, bottom_half = rows[..., :half, :], rows[..., half:, :]
    return xp.concatenate([even.T @ (top_half + bottom_half), odd.T @ (top_half - bottom_half)], axis=-2)


def lowpass(xp: ModuleType, images: Array, transformed: Array, r: int) -> Array:
    """The low-pass of radius r in [0, n / 2] of (..., n, n) float32 images and their spectrum, before the clip."""
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
    """How many rows of a spectrum up to frequency r are of even frequencies, and how many of odd ones."""
    return 1 + r // 2 * 2, (r + 1) // 2 * 2


def _cut(transformed: Array, r: int, inner: Array) -> None:
    """Fill `inner` with the spectrum up to frequency r, whose edges are weighed as the one-sided block does."""
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
    corner = inner[..., parts[r % 2], parts[r % 2]][..., -2:, -2:]
    a, b, c, d = (corner[..., row, column].copy() for row, column in PARITIES)
    corner[..., 0, 0], corner[..., 0, 1] = a - d, b + c
    corner[..., 1, 0], corner[..., 1, 1] = b + c, d - a


Fill = Callable[[int, Sequence[tuple[Condition, Array]]], None]
"""Fills the output of each condition, all of one radius and of different probes, with what it makes of the images."""


def filters_in_arrays(xp: ModuleType, pixels: Array) -> Fill:
    """The filters of (n, 3, size, size) uint8 images, whose transform is taken here."""
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
    """The bases' columns as rows: the first of them are contiguous, and CuPy copies what is not before a product."""
    return constants(xp, [np.ascontiguousarray(basis.T) for basis in fourier_bases(np, size)])


def filters_in_kernels(xp: ModuleType, pixels: Array) -> Fill:
    """`filters_in_arrays` on a GPU, with kernels in front of the products and behind them.

    Quarters of images, and blocks of spectra of even or odd frequencies, are (rows, channels of all images, columns):
    so a product from either side is one of two matrices.
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
            # Rows and columns from here on are those of frequency r itself.
            edges = [count - 2 if parity == r % 2 else count for count, parity in ((height, row), (width, column))]
            cut = xp.empty((height, channels, width), dtype=xp.float32)
            launch("cut_block", (height * width, channels), cut, block[:height], *cut.shape, block.shape[-1], *edges)
            quarters.append(_times(waves[row][:height].T, cut, waves[column][:width]))
        outs = {condition.probe: out for condition, out in outputs}
        low, high = outs.get("lowpass"), outs.get("highpass")
        launch("join_quarters", (half * half, channels), low, high, pixels, *quarters, half, channels)

    return fill


def _times(row_matrix: Array, block: Array, column_matrix: Array) -> Array:
    """(rows, channels, columns) multiplied by a matrix from either side."""
    rows, channels, columns = block.shape
    product = (row_matrix @ block.reshape(rows, -1)).reshape(-1, columns) @ column_matrix
    return product.reshape(len(row_matrix), channels, -1)


def perturb(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yields the conditions by radius, a low-pass and the high-pass of the same radius together."""
    size = batch.pixels.shape[-1]
    fill = (filters_in_arrays if xp is np else filters_in_kernels)(xp, batch.pixels)
    for r, members in groupby(sorted(conditions, key=lambda c: radius(c, size)), key=lambda c: radius(c, size)):
        for pair in _pairs(list(members)):
            outputs = [(condition, buffer()) for condition in pair]
            fill(r, outputs)
            yield from outputs


def _pairs(members: Sequence[Condition]) -> Iterator[list[Condition]]:
    """One of each probe at a time: cutoffs so close that they share a radius must not hold a buffer each."""
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
