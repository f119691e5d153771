"""Noise whose power falls with frequency by a power law: white, pink, brown, and what lies between and beyond.

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

from ..core.records import Condition
from .arrays import Array, chunks, constants, unit_range
from .family import Axis, Batch, Buffer, Family, Parameter, Perturbed, even_size, number_in
from .noise import POWER_LAW, unit_normal_fields


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


def perturb(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
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
    perturb,
    axes=(Axis("exponent"),),
    random=True,
    check_size=even_size,
)
