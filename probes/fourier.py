"""Noise of chosen frequencies on colour images: one wave, or noise whose power falls with frequency by a power law.

fourier and fourier_bin add a wave of a fixed norm:

    y = clip(x + r_c norm U, 0, 1)
    U(m, n) = sqrt(2) / size * cos(2 pi (row m + column n) / size + pi / 4),  whose sum of squares is 1

r_c is +1 or -1 for each channel of each image, the same for all waves. The phase pi/4 gives every wave the same norm,
the highest frequencies and the constant one included. U is a sum of two outer products, cos(a + b) = cos a cos b -
sin a sin b, so a wave costs an image no transform. (row, column) and (-row, -column) are one frequency and condition.

`fourier` adds the same wave to every image. `fourier_bin` draws one for each image, from the waves of an octave whose
direction lies in a sector; orientation 0 varies across, 90 down, 45 towards bottom right:

    2^octave <= sqrt(row^2 + column^2) < 2^(octave + 1)
    -22.5 <= atan2(row, column) - orientation < 22.5 degrees, modulo 180

Each wave of a bin is as likely as any other, so that the error is, but for chance, the mean of the map's over the
bin: 1 wave of octave 0, 4 or 5 of octave 1, 301 or 302 of octave 4. The mean, wave (0, 0), and the map's corners
beyond 32 cycles are in no bin. One draw an image serves all bins, which are of no publication.

Source: Yin et al. 2019 ("A Fourier perspective on model robustness in computer vision"), whose map has the 63 x 63
lowest frequencies, 1,985 different ones, at a norm of 15.7 for 224 pixels: an RMS of 0.07 in each channel.

power_law_noise adds white, pink or brown noise, and what lies between and beyond:

    n = inverse of (f^(-exponent / 2) F(w)),  w ~ N(0, 1) for each pixel, f = sqrt(row^2 + column^2) cycles per image
    y = clip(x + noise_sd n / rms(n), 0, 1), the same noise in all three channels

The mean of n is 0. exponent 0 is white noise, 1 pink, 2 brown, and -1 blue; natural images have about 2. One w an image
serves all exponents and levels. Source: the definition of 1/f noise in two dimensions.
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
NORM = 15.7
HIGHEST_FREQUENCY = 10_000
OCTAVES = (0, 1, 2, 3, 4)
"""Octaves whose waves the map holds all of."""
ORIENTATIONS = (0.0, 45.0, 90.0, 135.0)
SECTOR = 45
"""Degrees that the directions of a bin span."""
HIGHEST_OCTAVE = 9


def wave(xp: ModuleType, size: int, row: int | Array, column: int | Array) -> Array:
    """U, (size, size) float32 of L2 norm 1, or (n, size, size) of (n, 1) rows and columns, in cycles per image."""
    turn = 2 * np.pi / size
    down = turn * (row * xp.arange(size) % size) + np.pi / 4
    across = turn * (column * xp.arange(size) % size)
    row_factors = np.sqrt(2) / size * xp.stack([xp.cos(down), -xp.sin(down)], axis=-1)
    column_factors = xp.stack([xp.cos(across), xp.sin(across)], axis=-2)
    return row_factors.astype(xp.float32) @ column_factors.astype(xp.float32)


def signs(xp: ModuleType, seed: int, keys: Array) -> Array:
    """(n, 3, 1, 1) float32 of +1 and -1 for n images by their keys."""
    words = random_words(xp, seed, keys, FOURIER, 3)[:, :, None, None]
    return (words >> xp.uint32(31)).astype(xp.float32) * 2 - 1


def perturb(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    size = batch.pixels.shape[-1]
    images = unit_range(xp, batch.pixels).reshape(-1, size, size)
    positive = (signs(xp, batch.seed, batch.keys).ravel() > 0).astype(int)
    # A channel at a time on NumPy: it stays in the cache, and one number picks a wave without a copy.
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
    """(k, 2) rows and columns of the waves of a bin, one of each pair of opposite frequencies."""
    end = 2 ** (octave + 1)
    row, column = np.mgrid[:end, 1 - end : end]
    direction = np.degrees(np.arctan2(row, column))
    square = row**2 + column**2
    inside = (end**2 // 4 <= square) & (square < end**2) & ((direction - orientation + SECTOR / 2) % 180 < SECTOR)
    inside &= (row > 0) | (column > 0)
    return np.stack([row[inside], column[inside]], axis=1)


def perturb_by_bin(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """One draw an image serves all bins: the same share of the way through each bin's waves.

    It is the fourth word of FOURIER; the signs are made of the other three.
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
    check_highest(condition, max(abs(int(condition[name])) for name in ("row", "column")), size)


def _canonical(setting: dict[str, Value]) -> dict[str, Value]:
    """A frequency and its opposite are one: the one whose row is positive, or whose column is where the row is 0."""
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
    """(size, size / 2 + 1) float32: f^(-exponent / 2), laid out as the spectra of `rfft2` are; 0 for the mean.

    Relative to the gain at 1 cycle or at size / 2, whichever is larger, so that none is out of float32's range.
    """
    f = np.hypot(np.fft.fftfreq(size, 1 / size)[:, None], np.fft.rfftfreq(size, 1 / size))
    f[0, 0] = np.inf if exponent > 0 else 1
    gain = (f / (1 if exponent > 0 else f.max())) ** (-exponent / 2)
    gain[0, 0] = 0
    (gains,) = constants(xp, [gain])
    return gains


def unit_noise(xp: ModuleType, white: Array, exponent: float) -> Array:
    """(n, size, size) float32 of mean 0 and RMS 1, of (n, size, size) white noise."""
    size = white.shape[-1]
    noise = xp.fft.irfft2(xp.fft.rfft2(white) * _gains(xp, size, exponent), s=(size, size))
    noise /= xp.sqrt(xp.square(noise).mean(axis=(1, 2), keepdims=True))
    return noise


def add_power_law_noise(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yields the conditions of each exponent together."""
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
