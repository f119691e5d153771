"""The energy of images by octave and ring of their frequencies.

With F the transform of an image of size x size pixels, a wave of u cycles per image down and v across has the energy
|F(u, v)|^2. Octaves are those of probes/octaves.py. Ring r of 1, 2, … holds the waves with round(sqrt(u^2 + v^2)) = r.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UsageError
from ..core.protocol import OCTAVES, octave_edges
from .images.image_set import ImageSet
from .octaves import SMALLEST_SIZE

Floats = NDArray[np.float64]


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


def energy_shares(fields: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Shares of the energy of images by octave and by ring, without the constant; their channels' mean is taken.

    Args:
        fields: (n, 3, size, size).

    Returns (n, 7) and (n, rings): ring 1, 2, … to that of the corner. Both add up to 1, or are NaN where an image is
    constant.
    """
    size = fields.shape[-1]
    cycles = np.abs(np.fft.fftfreq(size, 1 / size))
    ring = np.rint(np.hypot(cycles[:, None], cycles)).astype(np.int64).ravel()
    octave = np.searchsorted(octave_edges(size), np.rint(np.maximum(cycles[:, None], cycles)).ravel())  # from 1 on
    energies = np.square(np.abs(np.fft.fft2(fields.mean(axis=1, dtype=np.float64)))).reshape(len(fields), -1)
    by_octave = np.array([np.bincount(octave, row, len(OCTAVES) + 1)[1:] for row in energies])
    by_ring = np.array([np.bincount(ring, row)[1:] for row in energies])
    total = by_octave.sum(axis=1, keepdims=True)
    total[total == 0] = np.nan
    return by_octave / total, by_ring / total
