"""Compute the power of images by octave, orientation and ring.

Let F be the Fourier transform of a channel of size x size pixels in [0, 1]. A wave with u cycles/image vertically and v
cycles/image horizontally has

    power = |F(u, v)|^2 / size^4

The sum over all waves except the constant is the variance of the channel's pixels. The power of an image is the mean
over its channels.

Octaves are defined in probes/octaves.py. The direction of a wave is the angle of the vector (v, u), rounded to a
multiple of 45 degrees. A wave with direction 0 varies horizontally (its stripes are vertical), 90 varies vertically,
and 45 varies towards the lower right. Since octaves are square, directions 45 and 135 contain 1.4 times as many waves
as 0 and 90. Ring r = 1 … size // 2 contains the waves with round(sqrt(u^2 + v^2)) = r.

The power of natural images is proportional to f^-exponent with an exponent near 2 (Field 1987).
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
"""Directions of waves, in degrees."""
BLOCK = 16
"""Number of images that a thread transforms at a time."""


@dataclass(frozen=True, eq=False)
class Powers:
    """Power of n images."""

    octaves: Floats
    """Power by octave and direction, (n, 7, 4). Octaves without a ring have power 0."""
    rings: Floats
    """Mean power of a wave in rings 1 to size // 2, (n, size // 2)."""


def check_size(images: ImageSet) -> None:
    """Raise UsageError if the images are too small to be divided into octaves."""
    if images.info.size < SMALLEST_SIZE:
        raise UsageError(
            f"{images.folder}: a spectrum needs {SMALLEST_SIZE} pixels a side or more, not {images.info.size}; pack "
            "larger images"
        )


def octave_columns(size: int) -> list[dict[str, Any]]:
    """Return the index and the range in cycles/image, such as `8 to 14`, of each non-empty octave at this size."""
    return [
        {"octave": octave, "cycles": f"{high}" if high == low + 1 else f"{low + 1} to {high}"}
        for octave, (low, high) in enumerate(pairwise(octave_edges(size)))
        if low < high
    ]


def ring_cycles(size: int) -> Floats:
    """Return the spatial frequency of rings 1 to size // 2 in cycles/image, (size // 2,), as the geometric mean over
    waves.
    """
    ring, logarithm = _plane_rings(size)
    inside = (ring > 0) & (ring <= size // 2)
    sums = np.bincount(ring[inside], logarithm[inside])
    return np.asarray(np.exp(sums[1:] / np.bincount(ring[inside])[1:]))


def read_powers(images: ImageSet, progress: Progress = silent) -> Powers:
    """Compute the power of all images of an image set.

    Args:
        images: Image set. Its images need at least `SMALLEST_SIZE` pixels per side.
        progress: Function that displays the progress.

    Raises:
        UsageError: The images are too small.
    """
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
    """Compute the proportion of energy in each octave and in each ring, without the constant.

    Args:
        fields: (n, 3, size, size) images. Their channels are averaged first.

    Returns:
        Proportions by octave, (n, 7), and by ring, (n, rings), from ring 1 to the ring of the corner of the spectrum.
        Each row adds up to 1, or is NaN if the image is constant.
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
    """Return the vertical (size, 1) and horizontal (1, size) frequencies in cycles/image, in the layout of `fft2`."""
    cycles = np.asarray(np.fft.fftfreq(size, 1 / size), np.float64)
    return cycles[:, None], cycles[None]


def _plane_rings(size: int) -> tuple[NDArray[np.int64], Floats]:
    """Return the ring of each wave and the logarithm of its frequency in cycles/image, (size^2,) each."""
    radius = np.asarray(np.hypot(*_plane(size)).ravel(), np.float64)
    return np.rint(radius).astype(np.int64), np.asarray(np.log(np.maximum(radius, 1)), np.float64)


def _bands(size: int) -> NDArray[np.int64]:
    """Return octave and direction of each wave as one index, (size^2,). The index of the constant is 28."""
    down, across = _plane(size)
    octaves = np.searchsorted(octave_edges(size), np.rint(np.maximum(abs(down), abs(across)))) - 1
    angle = np.degrees(np.arctan2(down, across)) % 180
    direction = np.rint(angle / 45).astype(np.int64) % len(DIRECTIONS)
    bands = np.where(octaves < 0, len(OCTAVES) * len(DIRECTIONS), octaves * len(DIRECTIONS) + direction)
    return bands.ravel()
