"""Add noise of chosen spatial frequencies to color images: a single sinusoid, or noise with a power-law spectrum.

`fourier` and `fourier_bin` add a sinusoidal wave of fixed L2 norm:

    y = clip(x + r_c norm U, 0, 1)
    U(m, n) = sqrt(2) / size * cos(2 pi (row m + column n) / size + pi / 4)

The wave U has an L2 norm of 1. The sign r_c is +1 or -1, drawn for each channel of each image, and is the same for all
waves. The phase pi/4 gives every wave the same norm, including the constant and the waves at the Nyquist limit. By
cos(a + b) = cos a cos b - sin a sin b, U is the sum of two outer products, so no Fourier transform is needed. The
frequencies (row, column) and (-row, -column) describe the same wave and are one condition.

`fourier` adds the same wave to every image. `fourier_bin` draws a wave for each image from a bin: one octave and one 45
degree sector of orientations. Orientation 0 varies horizontally, 90 vertically, and 45 towards the lower right:

    2^octave <= sqrt(row^2 + column^2) < 2^(octave + 1)
    -22.5 <= atan2(row, column) - orientation < 22.5 degrees, modulo 180

All waves of a bin have the same probability. The expected error rate of a bin is therefore the mean error rate of the
`fourier` map over this bin. A bin contains 1 wave in octave 0, 4 or 5 in octave 1, and 301 or 302 in octave 4. No bin
contains the constant (0, 0) or, up to octave 4, the corners of the map beyond 32 cycles/image. One random draw per
image is used for all bins. The bins are not taken from a publication.

Source of `fourier`: Yin et al. 2019 ("A Fourier perspective on model robustness in computer vision"). Their map
contains the 63 x 63 lowest frequencies, 1,985 of which are distinct, at a norm of 15.7 for images of 224 pixels. This
is an RMS of 0.07 in each channel.

`power_law_noise` adds white, pink or brown noise, or noise with any other exponent:

    n = inverse transform of (f^(-exponent / 2) F(w)),   w ~ N(0, 1) for each pixel,   f = sqrt(row^2 + column^2)
    y = clip(x + noise_sd n / rms(n), 0, 1), with the same noise in all three channels

F is the Fourier transform and f the frequency in cycles/image. n has a mean of 0, and its power spectrum is
proportional to f^-exponent. Exponent 0 is white noise, 1 pink noise, 2 brown noise and -1 blue noise. Natural images
have an exponent of about 2. One field w per image is used for all exponents and noise levels. Source: the definition of
1/f noise, applied to two dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import groupby
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from ..core.records import Condition
from .arrays import Array, chunks, constants, unit_range
from .family import (
    Axis,
    Batch,
    Buffer,
    Family,
    Parameter,
    Perturbed,
    Value,
    check_highest,
    even_size,
    integer_in,
    number_in,
)
from .noise import FOURIER, POWER_LAW, random_words, unit_normal_fields

MAP = tuple(range(-31, 32))
"""Frequencies (rows and columns) of the map of Yin et al. 2019, in cycles/image."""
NORM = 15.7
"""L2 norm of the wave in one channel, from Yin et al. 2019."""
HIGHEST_FREQUENCY = 10_000
"""Largest row or column that the parameters accept, in cycles/image."""
OCTAVES = (0, 1, 2, 3, 4)
"""Octaves whose waves are all contained in the map."""
ORIENTATIONS = (0.0, 45.0, 90.0, 135.0)
"""Centers of the orientation sectors, in degrees."""
SECTOR = 45
"""Width of an orientation sector, in degrees."""
HIGHEST_OCTAVE = 9
"""Largest octave that `fourier_bin` accepts."""


def wave(xp: ModuleType, size: int, row: int | Array, column: int | Array) -> Array:
    """Return the wave U, whose L2 norm is 1.

    Args:
        xp: Array module.
        size: Side length of the images in pixels.
        row: Vertical frequency in cycles/image: a number, or an (n, 1) array.
        column: Horizontal frequency in cycles/image: a number, or an (n, 1) array.

    Returns:
        A (size, size) float32 array, or (n, size, size) if the frequencies are arrays.
    """
    # Integers are reduced modulo size before they are multiplied by 2 pi / size, so large frequencies lose no
    # precision.
    turn = 2 * np.pi / size
    down = turn * (row * xp.arange(size) % size) + np.pi / 4
    across = turn * (column * xp.arange(size) % size)
    row_factors = np.sqrt(2) / size * xp.stack([xp.cos(down), -xp.sin(down)], axis=-1)
    column_factors = xp.stack([xp.cos(across), xp.sin(across)], axis=-2)
    return row_factors.astype(xp.float32) @ column_factors.astype(xp.float32)


def signs(xp: ModuleType, seed: int, keys: Array) -> Array:
    """Draw the signs +1 or -1 of the channels of n images, as an (n, 3, 1, 1) float32 array."""
    words = random_words(xp, seed, keys, FOURIER, 3)[:, :, None, None]
    return (words >> xp.uint32(31)).astype(xp.float32) * 2 - 1


def perturb(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yield the images with each condition's wave added."""
    size = batch.pixels.shape[-1]
    images = unit_range(xp, batch.pixels).reshape(-1, size, size)
    positive = (signs(xp, batch.seed, batch.keys).ravel() > 0).astype(int)
    # On NumPy, process one channel at a time. It stays in the cache, and indexing with an integer does not copy the
    # wave.
    channels = range(len(images)) if xp is np else [slice(None)]
    for condition in conditions:
        noise = wave(xp, size, int(condition["row"]), int(condition["column"])) * xp.float32(condition["norm"])
        signed_noise = xp.stack([-noise, noise])
        out = buffer()
        for channel in channels:
            target = out.reshape(images.shape)[channel]
            xp.add(images[channel], signed_noise[positive[channel]], out=target)
            xp.clip(target, 0, 1, out=target)
        yield condition, out


@cache
def waves_of(octave: int, orientation: float) -> NDArray[np.int64]:
    """Return the (row, column) frequencies of the k waves in a bin, (k, 2).

    Of two opposite frequencies, which describe the same wave, only one is included.
    """
    end = 2 ** (octave + 1)
    row, column = np.mgrid[:end, 1 - end : end]
    direction = np.degrees(np.arctan2(row, column))
    square = row**2 + column**2
    inside = (end**2 // 4 <= square) & (square < end**2) & ((direction - orientation + SECTOR / 2) % 180 < SECTOR)
    inside &= (row > 0) | (column > 0)
    return np.stack([row[inside], column[inside]], axis=1)


def perturb_by_bin(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yield the images with a random wave of each condition's bin added.

    One random word per image is scaled to an index into the waves of every bin. It is the fourth word of the draw
    FOURIER. The first three words determine the signs.
    """
    size = batch.pixels.shape[-1]
    images = unit_range(xp, batch.pixels)
    sign = signs(xp, batch.seed, batch.keys)
    word = random_words(xp, batch.seed, batch.keys, FOURIER, 4)[:, 3].astype(xp.uint64)
    for condition in conditions:
        waves = xp.asarray(waves_of(int(condition["octave"]), float(condition["orientation"])))
        image_waves = waves[(word * xp.uint64(len(waves)) >> xp.uint64(32)).astype(xp.int64)]
        out = buffer()
        for part in chunks(xp, len(images)):
            noise = wave(xp, size, image_waves[part, :1], image_waves[part, 1:]) * xp.float32(condition["norm"])
            target = out[part]
            xp.multiply(noise[:, None], sign[part], out=target)
            xp.add(images[part], target, out=target)
            xp.clip(target, 0, 1, out=target)
        yield condition, out


def check_size(condition: Condition, size: int) -> None:
    """Raise ProbeError if the wave is above the Nyquist limit of the images."""
    check_highest(condition, max(abs(int(condition[name])) for name in ("row", "column")), size)


def _canonical(setting: dict[str, Value]) -> dict[str, Value]:
    """Choose one of two opposite frequencies: the one with positive row, or with positive column if the row is 0."""
    if (setting["row"], setting["column"]) >= (0, 0):
        return setting
    return setting | {name: -int(setting[name]) for name in ("row", "column")}


FREQUENCY = integer_in(-HIGHEST_FREQUENCY, HIGHEST_FREQUENCY)
FOURIER_BASIS = Family(
    "fourier",
    "a wave of (row, column) cycles per image and of an L2 norm added to each channel",
    1,
    (
        Parameter("row", FREQUENCY, MAP),
        Parameter("column", FREQUENCY, MAP),
        Parameter("norm", number_in(0, 1000), (NORM,)),
    ),
    perturb,
    axes=(Axis("column", "cycles across"), Axis("row", "cycles down")),
    mirrored=True,
    random=True,
    canonical=_canonical,
    check_size=check_size,
)
FOURIER_BIN = Family(
    "fourier_bin",
    "a wave of an octave and orientation, drawn for each image, of an L2 norm added to each channel",
    1,
    (
        Parameter("octave", integer_in(0, HIGHEST_OCTAVE), OCTAVES),
        Parameter("orientation", number_in(0, 180), ORIENTATIONS),
        Parameter("norm", number_in(0, 1000), (NORM,)),
    ),
    perturb_by_bin,
    axes=(Axis("octave", "octave, from 2^octave cycles per image on"), Axis("orientation", "orientation (degrees)")),
    random=True,
    canonical=lambda setting: setting | {"orientation": float(setting["orientation"]) % 180},
    check_size=lambda condition, size: check_highest(condition, 2 ** (int(condition["octave"]) + 1) - 1, size),
)


@cache
def _gains(xp: ModuleType, size: int, exponent: float) -> Array:
    """Return the gains f^(-exponent / 2), (size, size / 2 + 1) float32, in the layout of `rfft2`.

    The gain of the mean is 0.

    The gains are normalized to a maximum of 1, which is at 1 cycle/image for positive exponents and at the highest
    frequency for negative ones. Otherwise large exponents would exceed the range of float32.
    """
    f = np.hypot(np.fft.fftfreq(size, 1 / size)[:, None], np.fft.rfftfreq(size, 1 / size))
    f[0, 0] = np.inf if exponent > 0 else 1
    gain = (f / (1 if exponent > 0 else f.max())) ** (-exponent / 2)
    gain[0, 0] = 0
    (gains,) = constants(xp, [gain])
    return gains


def unit_noise(xp: ModuleType, white: Array, exponent: float) -> Array:
    """Filter (n, size, size) white noise to the given exponent.

    The result is float32 with mean 0 and RMS 1 in each image.
    """
    size = white.shape[-1]
    noise = xp.fft.irfft2(xp.fft.rfft2(white) * _gains(xp, size, exponent), s=(size, size))
    noise /= xp.sqrt(xp.square(noise).mean(axis=(1, 2), keepdims=True))
    return noise


def add_power_law_noise(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yield the images with power-law noise added.

    Conditions with the same exponent are consecutive and share their noise.
    """
    size = batch.pixels.shape[-1]
    images = unit_range(xp, batch.pixels)
    white = unit_normal_fields(xp, batch.seed, batch.keys, POWER_LAW, size)
    parts = list(chunks(xp, len(images)))
    for exponent, members in groupby(sorted(conditions, key=_exponent), key=_exponent):
        noise = xp.empty_like(white)
        for part in parts:
            noise[part] = unit_noise(xp, white[part], exponent)
        for condition in members:
            out = buffer()
            for part in parts:
                out[part] = xp.clip(images[part] + (xp.float32(condition["noise_sd"]) * noise[part])[:, None], 0, 1)
            yield condition, out


def _exponent(condition: Condition) -> float:
    return float(condition["exponent"])


POWER_LAW_NOISE = Family(
    "power_law_noise",
    "noise of RMS noise_sd whose power falls with frequency to the exponent",
    1,
    (Parameter("exponent", number_in(-4, 4), ()), Parameter("noise_sd", number_in(0, 1), ())),
    add_power_law_noise,
    axes=(Axis("exponent"),),
    random=True,
    check_size=even_size,
)
