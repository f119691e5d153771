"""Convert images to grayscale and randomize the phases of their Fourier transform.

`phase_scramble` is the stimulus of the published experiments with human observers, computed as in their code:

    y = clip(real part of the inverse of (F exp(i d)), 0, 1)
    d_k = w u_k for k < n,   d_n = 0,   d_k = -w u_(k - n - 1) for k > n,   w = width pi / 180,   u uniform in (-1, 1)

F is the Fourier transform of the grayscale image (see probes/grayscale.py). k counts its 2 n + 1 frequencies below size
/ 2 row by row, starting with the most negative one, so k = n is the mean. The conjugate of frequency k is 2 n - k. For
opposite phase shifts at conjugate frequencies the second half of u would have to be reversed, but the published code
does not reverse it. Two conjugate frequencies therefore have unrelated shifts a = w u_k and b = w u_(n - 1 - k), and
the real part is

    F (exp(i a) + exp(i b)) / 2 = F cos((a - b) / 2) exp(i (a + b) / 2)

Amplitudes are thus reduced by the factor |cos((a - b) / 2)|, and phases change less than with opposite shifts.

`phase_shift` uses the textbook formula. Conjugate frequencies have opposite shifts, so amplitudes do not change:

    y = clip(inverse of (F exp(i w u)), 0, 1),   u uniform in (-1, 1) for each frequency,   u(-f) = -u(f)

Both probes leave the mean unchanged, and also the frequencies of size / 2, because the spectrum contains only one sign
of them. One field u per image is used for all widths. docs/decisions/0025-people-saw-smaller-amplitudes.md explains why
both probes exist.

Source: Geirhos et al. 2018 ("Generalisation in humans and deep neural networks"), scramble_phases in its code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType

import numpy as np

from ..core.records import Condition
from .arrays import Array, chunks
from .family import Batch, Buffer, Family, Parameter, Perturbed, even_size, number_in
from .grayscale import grey
from .noise import PHASES, UNPAIRED_PHASES, random_words, uniform

WIDTHS = (0.0, 30.0, 60.0, 90.0, 120.0, 150.0, 180.0)
"""Published widths in degrees."""


def unpaired_shifts(xp: ModuleType, seed: int, keys: Array, size: int) -> Array:
    """Draw the numbers u of phase_scramble, (n, ((size - 1)^2 - 1) / 2) float32 in (-1, 1), in the order of its
    formula.
    """
    return uniform(xp, random_words(xp, seed, keys, UNPAIRED_PHASES, (size - 1) ** 2 // 2))


def scramble_factors(xp: ModuleType, shifts: Array, width: float, size: int) -> Array:
    """Return the factors by which phase_scramble multiplies spectra, (n, size, size / 2 + 1) complex64 in the layout of
    `rfft2`.

    Args:
        xp: Array module.
        shifts: Random numbers from `unpaired_shifts`.
        width: Width in radians.
        size: Side length of the images in pixels.
    """
    half, pairs = size // 2, shifts.shape[1]
    turns = xp.exp(xp.complex64(1j * width) * shifts)
    means = (turns + turns[:, ::-1]) / 2
    centred = xp.ones((len(shifts), 2 * pairs + 1), dtype=xp.complex64)
    # `means` is symmetric: k and n - 1 - k have the same factor. So the second half, in which conjugate frequencies are
    # in reverse order, does not have to be reversed.
    centred[:, :pairs], centred[:, pairs + 1 :] = means, means.conj()
    upwards = centred.reshape(-1, size - 1, size - 1)[..., half - 1 :]
    factors = xp.ones((len(shifts), size, half + 1), dtype=xp.complex64)
    factors[:, :half, :half], factors[:, half + 1 :, :half] = upwards[:, half - 1 :], upwards[:, : half - 1]
    return factors


def opposite_shifts(xp: ModuleType, seed: int, keys: Array, size: int) -> Array:
    """Draw the numbers u of phase_shift, (n, size, size / 2 + 1) float32 in (-1, 1), in the layout of `rfft2`.

    They are 0 for frequencies that are not shifted.
    """
    half = size // 2
    draws = uniform(xp, random_words(xp, seed, keys, PHASES, size * half)).reshape(-1, size, half)
    shifts = xp.zeros((len(keys), size, half + 1), dtype=xp.float32)
    shifts[..., :half] = draws
    # The mean and the frequencies of size / 2 are not shifted. Column 0 contains conjugate pairs, which get opposite
    # signs.
    shifts[:, half] = 0
    shifts[:, 0, 0] = 0
    shifts[:, half + 1 :, 0] = -shifts[:, half - 1 : 0 : -1, 0]
    return shifts


def shift_factors(xp: ModuleType, shifts: Array, width: float, _: int) -> Array:
    """Return the factors by which phase_shift multiplies spectra, given the shifts of `opposite_shifts`."""
    return xp.exp(xp.complex64(1j * width) * shifts)


def multiply_spectra(
    xp: ModuleType,
    batch: Batch,
    conditions: Sequence[Condition],
    buffer: Buffer,
    draw: Callable[[ModuleType, int, Array, int], Array],
    factors: Callable[[ModuleType, Array, float, int], Array],
) -> Perturbed:
    """Yield grayscale images whose spectra are multiplied by random factors.

    Args:
        xp: Array module.
        batch: Images to perturb.
        conditions: Conditions, which have the parameter `width` in degrees.
        buffer: Function that allocates the results.
        draw: Function that draws the random numbers of each image. They are drawn once for all conditions.
        factors: Function from these numbers, a width in radians and the side length to the factors.
    """
    count, size = len(batch.pixels), batch.pixels.shape[-1]
    shifts = draw(xp, batch.seed, batch.keys, size)
    spectra = xp.fft.rfft2(grey(xp, batch.pixels))
    for condition in conditions:
        out, width = buffer(), np.pi / 180 * float(condition["width"])
        for part in chunks(xp, count):
            product = spectra[part] * factors(xp, shifts[part], width, size)
            out[part] = xp.clip(xp.fft.irfft2(product, s=(size, size)), 0, 1)[:, None]
        yield condition, out


PHASE_SCRAMBLE = Family(
    "phase_scramble",
    "grey, with the phases of its Fourier transform scrambled by up to width degrees, as people saw it",
    2,
    (Parameter("width", number_in(0, 180), WIDTHS),),
    partial(multiply_spectra, draw=unpaired_shifts, factors=scramble_factors),
    random=True,
    check_size=even_size,
)

PHASE_SHIFT = Family(
    "phase_shift",
    "grey, with the phases of its Fourier transform shifted by up to width degrees, and its amplitudes kept",
    1,
    (Parameter("width", number_in(0, 180), WIDTHS),),
    partial(multiply_spectra, draw=opposite_shifts, factors=shift_factors),
    random=True,
    check_size=even_size,
)
