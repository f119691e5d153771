"""Power of images by octave, direction and ring, and the products of band-passed images that a linear readout takes.

With F the transform of a channel of size x size pixels in [0, 1], a wave of u cycles per image down and v across has

    power = |F(u, v)|^2 / size^4        the sum over all waves but the constant is the variance of the channel's pixels

Powers of an image are means over its channels. Octaves are those of probes/octaves.py. A direction is the angle of the
vector (v, u), within 22.5 degrees: a wave of 0 runs across and draws upright stripes, one of 90 runs down, and one of
45 to the lower right; octaves are square, so 45 and 135 hold 1.4 times the waves of 0 and 90. Ring r of 1 … size // 2
holds the waves with round(sqrt(u^2 + v^2)) = r.

Powers of natural images fall as f^-exponent with an exponent near 2 (Field 1987).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UsageError
from ..core.jobs import Progress, in_parallel, silent
from ..core.protocol import OCTAVES, octave_edges
from .images.image_set import ImageSet
from .octaves import SMALLEST_SIZE, rings

Floats = NDArray[np.float64]
T = TypeVar("T")
DIRECTIONS = (0, 45, 90, 135)
"""The directions of waves, in degrees."""
BLOCK = 16
"""Images that a thread transforms at a time."""


@dataclass(frozen=True, eq=False)
class Powers:
    """The powers of n images."""

    octaves: Floats
    """(n, 3, 7, 4): by channel, octave and direction; 0 in octaves without a ring."""
    rings: Floats
    """(n, size // 2): the mean power of a wave in rings 1 to size // 2."""


def check_size(images: ImageSet) -> None:
    """UsageError for images that are too small to have octaves."""
    if images.info.size < SMALLEST_SIZE:
        raise UsageError(
            f"{images.folder}: a spectrum needs {SMALLEST_SIZE} pixels a side or more, not {images.info.size}; pack "
            "larger images"
        )


def octave_columns(size: int) -> list[dict[str, Any]]:
    """Number and cycles per image, such as `8 to 14`, of each octave that images of a size have waves in."""
    return [
        {"octave": octave, "cycles": f"{high}" if high == low + 1 else f"{low + 1} to {high}"}
        for octave, (low, high) in enumerate(pairwise(octave_edges(size)))
        if low < high
    ]


def octave_numbers(ring: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """The octave of each square ring, 0 to 6, and -1 for the constant."""
    numbers: NDArray[np.int64] = np.searchsorted(octave_edges(size), ring) - 1
    return numbers


def ring_cycles(size: int) -> Floats:
    """(size // 2,): the cycles per image in rings 1 to size // 2, as geometric means over their waves."""
    ring, logarithm = _plane_rings(size)
    inside = (ring > 0) & (ring <= size // 2)
    sums = np.bincount(ring[inside], logarithm[inside])
    return np.asarray(np.exp(sums[1:] / np.bincount(ring[inside])[1:]))


def read_powers(images: ImageSet, progress: Progress = silent) -> Powers:
    """The powers of all images of a set; UsageError where they are too small."""
    check_size(images)
    size = images.info.size
    ring, _ = _plane_rings(size)
    ring[ring > size // 2] = 0
    waves, bands = np.bincount(ring)[1:], _bands(size)
    count = len(OCTAVES) * len(DIRECTIONS)

    def read_block(rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
        power = np.square(np.abs(np.fft.fft2(images.take(rows) / 255))).reshape(len(rows), 3, -1) / size**4
        by_band = [np.bincount(bands, channel, count + 1)[:count] for channel in power.reshape(-1, size**2)]
        by_ring = [np.bincount(ring, mean)[1:] / waves for mean in power.mean(axis=1)]
        return np.reshape(by_band, (len(rows), 3, len(OCTAVES), len(DIRECTIONS))), np.array(by_ring)

    octaves, radial = zip(*_in_blocks(read_block, np.arange(images.info.count), progress, "spectra"), strict=True)
    return Powers(np.concatenate(octaves), np.concatenate(radial))


def read_products(images: ImageSet, rows: NDArray[np.int64], progress: Progress = silent) -> Floats:
    """(7, n, n): inner products of n images in grey, each band-passed to an octave; 0 in octaves without a ring.

    They are computed from the waves, of which an octave has as many as an image of its own resolution has pixels.
    """
    size = images.info.size
    octaves = octave_numbers(rings(size), size).ravel()
    order = np.argsort(octaves, kind="stable")
    ends = np.searchsorted(octaves[order], range(len(OCTAVES) + 1))
    across = np.arange(size // 2 + 1)
    # The half plane stands for the whole one: each of its waves counts twice, unless it is its own mirror image.
    double = np.tile(np.where((across > 0) & (2 * across < size), np.sqrt(2), 1), size)[order]

    def read_block(block: NDArray[np.int64]) -> NDArray[np.complex64]:
        grey = images.take(block).mean(axis=1) / 255
        spectra = np.fft.rfft2(grey, norm="forward").reshape(len(block), -1)
        return np.asarray(spectra[:, order] * double, np.complex64)

    waves = np.concatenate(_in_blocks(read_block, rows, progress, "octaves of images"))
    parts = [np.ascontiguousarray(waves[:, first:last]).view(np.float32) for first, last in pairwise(ends)]
    return np.array([part @ part.T for part in parts], np.float64)


def energy_shares(fields: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Shares of the energy of images by octave and by ring, without the constant; their channels' mean is taken.

    Args:
        fields: (n, 3, size, size).

    Returns (n, 7) and (n, rings): ring 1, 2, … to that of the corner. Both add up to 1, or are NaN where an image is
    constant.
    """
    size = fields.shape[-1]
    ring, _ = _plane_rings(size)
    octaves = _bands(size) // len(DIRECTIONS)
    energies = np.square(np.abs(np.fft.fft2(fields.mean(axis=1, dtype=np.float64)))).reshape(len(fields), -1)
    by_octave = np.array([np.bincount(octaves, row, len(OCTAVES) + 1)[: len(OCTAVES)] for row in energies])
    by_ring = np.array([np.bincount(ring, row)[1:] for row in energies])
    total = by_octave.sum(axis=1, keepdims=True)
    total[total == 0] = np.nan
    return by_octave / total, by_ring / total


def _in_blocks(
    read: Callable[[NDArray[np.int64]], T], rows: NDArray[np.int64], progress: Progress, title: str
) -> list[T]:
    """The results of blocks of rows, which are read in threads."""
    results = []
    with progress(title, len(rows), "images") as advance:
        for result in in_parallel(read, np.split(rows, range(BLOCK, len(rows), BLOCK))):
            results.append(result)
            advance(BLOCK)
    return results


def _plane(size: int) -> tuple[Floats, Floats]:
    """Cycles down, (size, 1), and across, (1, size), laid out as `fft2` has waves."""
    cycles = np.asarray(np.fft.fftfreq(size, 1 / size), np.float64)
    return cycles[:, None], cycles[None]


def _plane_rings(size: int) -> tuple[NDArray[np.int64], Floats]:
    """(size^2,): the ring of each wave, and the logarithm of its cycles per image."""
    radius = np.asarray(np.hypot(*_plane(size)).ravel(), np.float64)
    return np.rint(radius).astype(np.int64), np.asarray(np.log(np.maximum(radius, 1)), np.float64)


def _bands(size: int) -> NDArray[np.int64]:
    """(size^2,): octave and direction of each wave as one number, and 28 for the constant."""
    down, across = _plane(size)
    octaves = octave_numbers(np.rint(np.maximum(abs(down), abs(across))).astype(np.int64), size)
    angle = np.degrees(np.arctan2(down, across)) % 180
    direction = np.rint(angle / 45).astype(np.int64) % len(DIRECTIONS)
    bands = np.where(octaves < 0, len(OCTAVES) * len(DIRECTIONS), octaves * len(DIRECTIONS) + direction)
    return bands.ravel()
