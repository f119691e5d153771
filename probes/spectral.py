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

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby, islice
from types import ModuleType

import numpy as np

from ..protocol import CUTOFFS
from ..records import Condition
from .arrays import Array, chunks, constants
from .clean import unit_range
from .family import Batch, Buffer, Family, Parameter, even_size, number_in


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
    left, right = images[..., :half], images[..., half:]
    rows = xp.concatenate([(left + right) @ even, (left - right) @ odd], axis=-1)
    top, bottom = rows[..., :half, :], rows[..., half:, :]
    return xp.concatenate([even.T @ (top + bottom), odd.T @ (top - bottom)], axis=-2)


def lowpass(xp: ModuleType, images: Array, transformed: Array, r: int) -> Array:
    """The low-pass of radius r in [0, n / 2] of (..., n, n) float32 images and their spectrum, before the clip."""
    size = images.shape[-1]
    if r == 0:
        return xp.zeros_like(images)
    if r == size // 2:
        return images
    even, odd = fourier_bases(xp, size)
    inner, evens = _cut(xp, transformed, r, even.shape[1])
    even, odd = even[:, :evens], odd[:, : inner.shape[-1] - evens]
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


def _cut(xp: ModuleType, transformed: Array, r: int, first_odd: int) -> tuple[Array, int]:
    """The spectrum up to frequency r with its edges weighed as the one-sided block does, and how much of it is even."""
    kept, evens = 2 * r + 1, 1 + r // 2 * 2
    inner = xp.empty((*transformed.shape[:-2], kept, kept), dtype=xp.float32)
    parts = (slice(evens), slice(evens)), (slice(evens, kept), slice(first_odd, first_odd + kept - evens))
    for to_row, from_row in parts:
        for to_column, from_column in parts:
            inner[..., to_row, to_column] = transformed[..., from_row, from_column]
    sine, cosine = (kept - 2, kept - 1) if r % 2 else (evens - 2, evens - 1)
    a, b, c, d = (inner[..., row, column].copy() for row in (sine, cosine) for column in (sine, cosine))
    inner[..., sine : cosine + 1, :] *= 0.5
    inner[..., :, sine : cosine + 1] *= 0.5
    inner[..., sine, sine], inner[..., sine, cosine] = (a - d) / 4, (b + c) / 4
    inner[..., cosine, sine], inner[..., cosine, cosine] = (b + c) / 4, (d - a) / 4
    return inner, evens


def perturb(
    xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer
) -> Iterator[tuple[Condition, Array]]:
    """Yields the conditions by radius, a low-pass and the high-pass of the same radius together."""
    count, size = len(batch.pixels), batch.pixels.shape[-1]
    images = unit_range(xp, batch.pixels, xp.empty(batch.pixels.shape, dtype=xp.float32))
    transformed = xp.empty((count, 3, size - 1, size - 1), dtype=xp.float32)
    for part in chunks(xp, count):
        transformed[part] = spectrum(xp, images[part])
    for r, members in groupby(sorted(conditions, key=lambda c: radius(c, size)), key=lambda c: radius(c, size)):
        for pair in _pairs(members):
            outputs = [(condition, buffer()) for condition in pair]
            for part in chunks(xp, count):
                low = lowpass(xp, images[part], transformed[part], r)
                for condition, out in outputs:
                    target = out[part]  # one view: CuPy copies an input that shares memory with another object
                    filtered = low if condition.probe == "lowpass" else xp.subtract(images[part], low, out=target)
                    xp.clip(filtered, 0, 1, out=target)
            yield from outputs


def _pairs(members: Iterator[Condition]) -> Iterator[list[Condition]]:
    """At most two at a time: cutoffs so close that they share a radius must not hold a buffer each."""
    while pair := list(islice(members, 2)):
        yield pair


_CUTOFF = (Parameter("cutoff", number_in(0, 1), CUTOFFS),)

LOWPASS = Family(
    "lowpass", "keeps frequencies up to cutoff x size / 2 cycles per image", 1, _CUTOFF, perturb, check_size=even_size
)
HIGHPASS = Family(
    "highpass",
    "removes frequencies up to (1 - cutoff) x size / 2 cycles per image",
    1,
    _CUTOFF,
    perturb,
    check_size=even_size,
)
