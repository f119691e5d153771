"""Images that keep some of seven octaves of frequencies, or that keep or lose a band of any edges.

A wave of u cycles per image down and v across lies in the square ring r = max(|u|, |v|), from 0, each channel's mean,
to h = size // 2. Octave k of 0 … 6 holds the rings

    h // 2^(7 - k) < r <= h // 2^(6 - k),     octave 0 from 1 on        up to 1, 3, 7, 14, 28, 56, 112 at 224 pixels

    octaves:   y = clip(mean + sum of the octaves in keep, 0, 1)
    bandpass:  y = clip(mean + rings with low < r <= high, 0, 1)
    bandstop:  y = clip(x - rings with low < r <= high, 0, 1)

All seven octaves give the image itself, which is the condition `clean`: with it the published masks are all 2^7 = 128
sets of octaves, so that accuracy can be shared out among them (analysis/metrics/families/octaves.py). An octave without
a ring, which images below 128 pixels have, is empty. The sums of octaves 0 to 2 are made once, and each sum of octaves
3 to 6 once, so that a mask is one addition and a clip, on a card one kernel; float32 sums of at most eight terms stay
within 1e-6 of the formula.

Sources: bands as in the visual frequency analysis of arXiv 2409.05817. I-ASIDE (Luo, McDermott & O'Riordan, TMLR 2024,
arXiv 2408.01139) shows all unions of square rings of equal width and takes Shapley values of the logarithm of the
probability of the label. WCAM (Kasmi et al. 2023, arXiv 2305.14979) attributes a decision to scales of wavelets by
Sobol indices. New here are bands of an octave each, accuracy as what is shared out, interactions of pairs, intervals
over images, and the shares of each image.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, groupby
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ProbeError
from ..core.protocol import NO_OCTAVE, OCTAVES, octave_edges
from ..core.records import Condition
from .arrays import Array, chunks, launch, unit_range
from .family import Batch, Buffer, Family, Parameter, Perturbed, band_to, check_highest

MASKS = tuple(
    "".join(octaves) or NO_OCTAVE for count in range(len(OCTAVES)) for octaves in combinations(OCTAVES, count)
)
"""All masks but that of the image itself, from the fewest octaves to the most."""
COARSE = 3
"""Octaves whose sums are all held: eight images, of which an addition of the finer octaves makes each mask."""
SMALLEST_SIZE = 16
"""Pixels a side from which on an image has octaves worth the name."""
HIGHEST_FREQUENCY = 10_000


def rings(size: int) -> NDArray[np.int64]:
    """(size, size // 2 + 1): the ring of each coefficient, laid out as `rfft2` has these."""
    down, across = np.fft.fftfreq(size, 1 / size), np.fft.rfftfreq(size, 1 / size)
    ring: NDArray[np.int64] = np.rint(np.maximum(abs(down[:, None]), abs(across))).astype(np.int64)
    return ring


class Spectra:
    """The spectra of (n, 3, size, size) uint8 images, in single precision after a transform in double."""

    def __init__(self, xp: ModuleType, pixels: Array) -> None:
        self._xp, self._shape = xp, pixels.shape
        self.rings = rings(pixels.shape[-1])
        self._spectra = xp.empty((*pixels.shape[:2], *self.rings.shape), dtype=xp.complex64)
        for part in chunks(xp, len(pixels)):
            self._spectra[part] = xp.fft.rfft2(pixels[part].astype(xp.float64) / 255)

    def keep(self, mask: NDArray[np.bool_], out: Array | None = None) -> Array:
        """Float32 images of the coefficients of a mask laid out as `rings`, before the clip, into `out` if given."""
        out = self._xp.empty(self._shape, dtype=self._xp.float32) if out is None else out
        factors = self._xp.asarray(mask, dtype=self._xp.float32)
        for part in chunks(self._xp, len(out)):
            out[part] = self._xp.fft.irfft2(self._spectra[part] * factors, s=self._shape[-2:])
        return out


def perturb(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yield the masks by their finer octaves, whose sum is made once for all masks that have it."""
    spectra, edges = Spectra(xp, batch.pixels), octave_edges(batch.pixels.shape[-1])
    fields: dict[str, Array] = {
        octave: spectra.keep((low < spectra.rings) & (spectra.rings <= high))
        for octave, low, high in zip(OCTAVES, edges[:-1], edges[1:], strict=True)
        if any(octave in str(condition["keep"]) for condition in conditions)
    }
    mean = (batch.pixels.mean(axis=(2, 3), keepdims=True, dtype=xp.float64) / 255).astype(xp.float32)
    entries = [
        (_members(condition, OCTAVES[COARSE:]), _members(condition, OCTAVES[:COARSE]), condition)
        for condition in conditions
    ]
    coarse = {
        octaves: _sum(xp, [mean, *map(fields.__getitem__, octaves)])
        for octaves in {octaves for _, octaves, _ in entries}
    }
    for octave in OCTAVES[:COARSE]:
        fields.pop(octave, None)
    for fine_octaves, members in groupby(sorted(entries, key=lambda entry: entry[:2]), key=lambda entry: entry[0]):
        fine = _sum(xp, [fields[octave] for octave in fine_octaves]) if fine_octaves else None
        for _, coarse_octaves, condition in members:
            out = buffer()
            clip_sum = clip_sum_in_arrays if xp is np else clip_sum_in_kernel
            clip_sum(xp, coarse[coarse_octaves], fine, out)
            yield condition, out


def clip_sum_in_arrays(xp: ModuleType, coarse: Array, fine: Array | None, out: Array) -> None:
    """Fill `out`, float32 images, with clip(coarse + fine, 0, 1); coarse is images or one number a channel."""
    for part in chunks(xp, len(out)):
        total = coarse[part] if fine is None else xp.add(coarse[part], fine[part], out=out[part])
        xp.clip(total, 0, 1, out=out[part])


def clip_sum_in_kernel(_: ModuleType, coarse: Array, fine: Array | None, out: Array) -> None:
    """`clip_sum_in_arrays` on a GPU."""
    count, channels, height, width = out.shape
    area, coarse_area = height * width, coarse.shape[2] * coarse.shape[3]
    launch("clip_sum", (area, count * channels), out, coarse, fine, coarse_area, area)


def _members(condition: Condition, octaves: str) -> str:
    return "".join(octave for octave in octaves if octave in str(condition["keep"]))


def _sum(xp: ModuleType, images: Sequence[Array]) -> Array:
    """The sum of float32 arrays of images, the first of which may be one number a channel; of one, that array."""
    total = images[0]
    for place, field in enumerate(images[1:]):
        total = xp.add(total, field, out=total if place else None)
    return total


def perturb_band(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yield what a band's rings are, with the mean, or what they leave of the image."""
    spectra = Spectra(xp, batch.pixels)
    images = unit_range(xp, batch.pixels)
    for condition in conditions:
        low, high = band_of(condition)
        inside = (low < spectra.rings) & (spectra.rings <= high)
        out = buffer()
        if condition.probe == "bandpass":
            spectra.keep(inside | (spectra.rings == 0), out)
        else:
            xp.subtract(images, spectra.keep(inside, out), out=out)
        xp.clip(out, 0, 1, out=out)
        yield condition, out


def _mask(value: Any) -> str:
    """The digits of a mask in ascending order, or `none`."""
    digits = "" if value == NO_OCTAVE else value
    if not isinstance(digits, str) or value == "" or len({*digits}) < len(digits) or not {*digits} <= {*OCTAVES}:
        raise ValueError(
            f'must be the digits of the octaves that are kept, 0 to 6, each once, such as "0123", or "{NO_OCTAVE}", '
            f"not {value!r}"
        )
    return "".join(sorted(digits)) or NO_OCTAVE


def _whole_number(edge: Any) -> int:
    if type(edge) not in (int, str):
        raise ValueError
    return int(edge)


def band_of(condition: Condition) -> tuple[int, int]:
    """The edges of a band, low and high in cycles per image; the band holds high and not low."""
    low, high = str(condition["edges"]).split(" to ")
    return int(low), int(high)


def check_size(condition: Condition, size: int) -> None:
    if size < SMALLEST_SIZE:
        raise ProbeError(f"{condition.probe} needs {SMALLEST_SIZE} pixels a side or more, not {size}")


def check_size_of_band(condition: Condition, size: int) -> None:
    check_size(condition, size)
    check_highest(condition, band_of(condition)[1], size)


OCTAVE_MASK = Family(
    "octaves",
    "keeps the mean and some of seven octaves of frequencies",
    1,
    (Parameter("keep", _mask, MASKS),),
    perturb,
    check_size=check_size,
)
_EDGES = (Parameter("edges", band_to(HIGHEST_FREQUENCY, " in whole cycles per image", _whole_number), (), pair=True),)
BANDPASS, BANDSTOP = (
    Family(name, summary, 1, _EDGES, perturb_band, check_size=check_size_of_band)
    for name, summary in (
        ("bandpass", "keeps the mean and frequencies above low and up to high cycles per image"),
        ("bandstop", "removes frequencies above low and up to high cycles per image"),
    )
)
