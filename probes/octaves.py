"""Keep a subset of seven frequency octaves, or keep (band-pass) or remove (band-stop) an arbitrary frequency band.

A Fourier coefficient with u cycles/image vertically and v cycles/image horizontally belongs to the square ring r =
max(|u|, |v|). Ring 0 is the mean of each channel, and the last ring is h = size // 2. Octave k = 0 … 6 contains the
rings

    h // 2^(7 - k) < r <= h // 2^(6 - k),     octave 0 from 1 on;   upper edges 1, 3, 7, 14, 28, 56, 112 at 224 pixels

The probes compute, for an image x,

    octaves:   y = clip(mean + sum of the octaves in keep, 0, 1)
    bandpass:  y = clip(mean + rings with low < r <= high, 0, 1)
    bandstop:  y = clip(x - rings with low < r <= high, 0, 1)

Keeping all seven octaves gives the original image, which is the condition `clean`. Together with `clean`, the default
masks are all 2^7 = 128 subsets of the octaves. Shapley values of accuracy can therefore be computed exactly
(`analysis/metrics/families/octaves.py`). In images of less than 128 pixels some octaves contain no ring. These octaves
are empty.

To save work, each sum of octaves 0 to 2 and each sum of octaves 3 to 6 is computed only once. Each mask then costs one
addition and one clip, which is a single kernel on a GPU. The result deviates from the formula by at most 1e-6, because
it is a float32 sum of at most eight terms.

Sources: the frequency bands follow the visual frequency analysis of arXiv 2409.05817. I-ASIDE (Luo, McDermott &
O'Riordan, TMLR 2024, arXiv 2408.01139) shows all unions of square rings of equal width and computes Shapley values of
the log-probability of the label. WCAM (Kasmi et al. 2023, arXiv 2305.14979) attributes a prediction to wavelet scales
with Sobol indices. This implementation differs from them: its bands are one octave wide, it distributes accuracy, and
it adds interactions of pairs, confidence intervals over images, and Shapley values of single images.
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
"""All masks except the one that keeps every octave, ordered by the number of octaves they keep."""
COARSE = 3
"""Number of coarse octaves. All of their 2^3 = 8 sums are kept in memory, so each mask needs only one addition of a sum
of finer octaves."""
SMALLEST_SIZE = 16
"""Minimum side length of images, in pixels, for a meaningful division into octaves."""
HIGHEST_FREQUENCY = 10_000
"""Largest frequency that `edges` accepts, in cycles/image."""


def rings(size: int) -> NDArray[np.int64]:
    """Return the ring index of each Fourier coefficient, (size, size // 2 + 1), in the layout of `rfft2`."""
    down, across = np.fft.fftfreq(size, 1 / size), np.fft.rfftfreq(size, 1 / size)
    ring: NDArray[np.int64] = np.rint(np.maximum(abs(down[:, None]), abs(across))).astype(np.int64)
    return ring


class Spectra:
    """Fourier spectra of (n, 3, size, size) uint8 images.

    The transform is computed in double precision, and its result is stored in single precision.
    """

    def __init__(self, xp: ModuleType, pixels: Array) -> None:
        self._xp, self._shape = xp, pixels.shape
        self.rings = rings(pixels.shape[-1])
        self._spectra = xp.empty((*pixels.shape[:2], *self.rings.shape), dtype=xp.complex64)
        for part in chunks(xp, len(pixels)):
            self._spectra[part] = xp.fft.rfft2(pixels[part].astype(xp.float64) / 255)

    def keep(self, mask: NDArray[np.bool_], out: Array | None = None) -> Array:
        """Return the float32 images that consist of the selected Fourier coefficients, without clipping.

        Args:
            mask: Selected coefficients, in the layout of `rings`.
            out: Array for the result. A new one is allocated by default.
        """
        out = self._xp.empty(self._shape, dtype=self._xp.float32) if out is None else out
        factors = self._xp.asarray(mask, dtype=self._xp.float32)
        for part in chunks(self._xp, len(out)):
            out[part] = self._xp.fft.irfft2(self._spectra[part] * factors, s=self._shape[-2:])
        return out


def perturb(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yield the masks grouped by their finer octaves. The sum of these octaves is computed once per group."""
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
    # The single coarse octaves are not needed once their sums exist, so their memory is released.
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
    """Write clip(coarse + fine, 0, 1) to the float32 images `out`. `coarse` is images, or one value per channel."""
    for part in chunks(xp, len(out)):
        total = coarse[part] if fine is None else xp.add(coarse[part], fine[part], out=out[part])
        xp.clip(total, 0, 1, out=out[part])


def clip_sum_in_kernel(_: ModuleType, coarse: Array, fine: Array | None, out: Array) -> None:
    """Compute the same as `clip_sum_in_arrays` on a GPU."""
    count, channels, height, width = out.shape
    area, coarse_area = height * width, coarse.shape[2] * coarse.shape[3]
    launch("clip_sum", (area, count * channels), out, coarse, fine, coarse_area, area)


def _members(condition: Condition, octaves: str) -> str:
    """Return those of `octaves` that the condition keeps."""
    return "".join(octave for octave in octaves if octave in str(condition["keep"]))


def _sum(xp: ModuleType, images: Sequence[Array]) -> Array:
    """Return the sum of float32 image arrays.

    The first may have one value per channel. A single array is returned as it is, not copied.
    """
    total = images[0]
    for place, field in enumerate(images[1:]):
        # The first addition allocates, because images[0] must not be overwritten and may need broadcasting.
        total = xp.add(total, field, out=total if place else None)
    return total


def perturb_band(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yield images that keep the mean and one frequency band (band-pass), or lack the band (band-stop)."""
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
    """Return the digits of a mask in ascending order, or `none`."""
    digits = "" if value == NO_OCTAVE else value
    if not isinstance(digits, str) or value == "" or len({*digits}) < len(digits) or not {*digits} <= {*OCTAVES}:
        raise ValueError(
            f'must be the digits of the octaves that are kept, 0 to 6, each once, such as "0123", or "{NO_OCTAVE}", '
            f"not {value!r}"
        )
    return "".join(sorted(digits)) or NO_OCTAVE


def _whole_number(edge: Any) -> int:
    """Parse a band edge. Raises ValueError for anything but an integer or its text."""
    if type(edge) not in (int, str):
        raise ValueError
    return int(edge)


def band_of(condition: Condition) -> tuple[int, int]:
    """Return the edges (low, high) of a band in cycles/image. `low` is exclusive and `high` is inclusive."""
    low, high = str(condition["edges"]).split(" to ")
    return int(low), int(high)


def check_size(condition: Condition, size: int) -> None:
    """Raise ProbeError if the images are too small to be divided into octaves."""
    if size < SMALLEST_SIZE:
        raise ProbeError(f"{condition.probe} needs {SMALLEST_SIZE} pixels a side or more, not {size}")


def check_size_of_band(condition: Condition, size: int) -> None:
    """Raise ProbeError if the images are too small, or if the band exceeds their Nyquist limit."""
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
