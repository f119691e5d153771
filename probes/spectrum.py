"""Power of images by octave, direction and ring.

With F the transform of a channel of size x size pixels in [0, 1], a wave of u cycles per image down and v across has

    power = |F(u, v)|^2 / size^4        the sum over all waves but the constant is the variance of the channel's pixels

Powers of an image are means over its channels. Octaves are those of probes/octaves.py. A direction is the angle of the
vector (v, u), within 22.5 degrees: a wave of 0 runs across and draws upright stripes, one of 90 runs down, and one of
45 to the lower right; octaves are square, so 45 and 135 hold 1.4 times the waves of 0 and 90. Ring r of 1 … size // 2
holds the waves with round(sqrt(u^2 + v^2)) = r.

Powers of natural images fall as f^-exponent with an exponent near 2 (Field 1987).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UsageError
from ..core.jobs import Progress, in_parallel, silent
from ..core.protocol import OCTAVES, octave_edges
from .images.image_set import ImageSet
from .octaves import SMALLEST_SIZE

Floats = NDArray[np.float64]
DIRECTIONS = (0, 45, 90, 135)
"""The directions of waves, in degrees."""
BLOCK = 16
"""Images that a thread transforms at a time."""


@dataclass(frozen=True, eq=False)
class Powers:
    """The powers of n images."""

    octaves: Floats
    """(n, 7, 4): by octave and direction; 0 in octaves without a ring."""
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
        power = np.square(np.abs(np.fft.fft2(images.take(rows) / 255))).mean(axis=1).reshape(len(rows), -1) / size**4
        by_band = [np.bincount(bands, image, count + 1)[:count] for image in power]
        by_ring = [np.bincount(ring, image)[1:] / waves for image in power]
        return np.reshape(by_band, (len(rows), len(OCTAVES), len(DIRECTIONS))), np.array(by_ring)

    blocks, all_rows = list[tuple[Floats, Floats]](), np.arange(images.info.count)
    with progress("spectra", len(all_rows), "images") as advance:
        for block in in_parallel(read_block, np.split(all_rows, range(BLOCK, len(all_rows), BLOCK))):
            blocks.append(block)
            advance(len(block[0]))
    octaves, radial = zip(*blocks, strict=True)
    return Powers(np.concatenate(octaves), np.concatenate(radial))


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
    octaves = np.searchsorted(octave_edges(size), np.rint(np.maximum(abs(down), abs(across)))) - 1
    angle = np.degrees(np.arctan2(down, across)) % 180
    direction = np.rint(angle / 45).astype(np.int64) % len(DIRECTIONS)
    bands = np.where(octaves < 0, len(OCTAVES) * len(DIRECTIONS), octaves * len(DIRECTIONS) + direction)
    return bands.ravel()
