"""Phase scrambling: a grey image keeps the amplitudes of its Fourier transform, and its phases are shifted at random.

    y = clip(inverse of (F exp(i width pi / 180 u)), 0, 1),  u uniform in (-1, 1) for each frequency, u(-f) = -u(f)

F is the transform of the grey image of probes/grey.py. The opposite signs keep the picture real. The mean and the
frequencies of size / 2, of which the spectrum has one sign alone, are not shifted, as in the published code. One u an
image serves all widths.

Source: Geirhos et al. 2018 ("Generalisation in humans and deep neural networks").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType

import numpy as np

from ..records import Condition
from .arrays import Array, chunks
from .family import Batch, Buffer, Family, Parameter, even_size, number_in
from .grey import grey
from .noise import PHASES, random_words, uniform


def unit_shifts(xp: ModuleType, seed: int, keys: Array, size: int) -> Array:
    """(n, size, size / 2 + 1) float32 in (-1, 1), laid out as the spectra of `rfft2` are; zero where nothing shifts."""
    half = size // 2
    drawn = uniform(xp, random_words(xp, seed, keys, PHASES, size * half)).reshape(-1, size, half)
    shifts = xp.zeros((len(keys), size, half + 1), dtype=xp.float32)
    shifts[..., :half] = drawn
    shifts[:, half] = 0
    shifts[:, 0, 0] = 0
    shifts[:, half + 1 :, 0] = -shifts[:, half - 1 : 0 : -1, 0]
    return shifts


def perturb(
    xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer
) -> Iterator[tuple[Condition, Array]]:
    count, size = len(batch.pixels), batch.pixels.shape[-1]
    shifts = unit_shifts(xp, batch.seed, batch.keys, size)
    spectra = xp.fft.rfft2(grey(xp, batch.pixels))
    for condition in conditions:
        out, width = buffer(), np.pi / 180 * float(condition["width"])
        for part in chunks(xp, count):
            shifted = spectra[part] * xp.exp(xp.complex64(1j * width) * shifts[part])
            out[part] = xp.clip(xp.fft.irfft2(shifted, s=(size, size)), 0, 1)[:, None]
        yield condition, out


PHASE_SCRAMBLE = Family(
    "phase_scramble",
    "grey, with the phases of its Fourier transform shifted by up to width degrees",
    1,
    (Parameter("width", number_in(0, 180), (0.0, 30.0, 60.0, 90.0, 120.0, 150.0, 180.0)),),
    perturb,
    random=True,
    check_size=even_size,
)
