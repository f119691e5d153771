"""Frequency cue conflicts: the low frequencies of one image, and the high ones of another, which shows another class.

    y = clip(low(A) + B - low(B), 0, 1),  rounded to 8 bits

low is the low-pass of probes/spectral.py before its clip, so that the mean is A's. Every image of the set gives its low
frequencies to one conflict and its high ones to another; which, is drawn. What a network names is a decision for the
low frequencies, for the high ones, or for neither: see `analysis.metrics.families.cue_conflict`.

Source: after Gavrikov et al. 2025, whose 1,280 images of 16 classes are not these: the filter, the cutoff and the pairs
are this module's.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from ...core.errors import ImageSetError, UsageError
from ...core.protocol import FREQUENCY_CUES
from ...core.records import ImageSetInfo
from ..images.image_set import ImageSet, open_image_set
from ..images.pack import Photograph, finish_set, hash_rows
from ..images.pack_options import USUAL, How
from ..images.storage import PIXELS, Index, need_space, new_folder
from ..spectral import lowpass, spectrum

if TYPE_CHECKING:
    from numpy.typing import NDArray

BENCHMARK = "frequency-conflict"


def pack_frequency_conflict(
    images: ImageSet, out: Path, *, cutoff: float, seed: int = 0, name: str | None = None, how: How = USUAL
) -> ImageSet:
    """Make a set of as many conflicts as there are images, of which conflict i has the low frequencies of image i.

    No class has more than half of `images`. Labels of the set are the classes of low frequencies, the scheme `hf_label`
    those of high ones, and clusters those of the image with the low ones: see `app.api`.
    """
    info = images.info
    if images.labels is None:
        raise ImageSetError(
            f"{images.folder}: has no labels, so no two images are known to conflict; pack it with labels"
        )
    if info.size % 2:
        raise ImageSetError(
            f"{images.folder}: frequencies are split at an even number of pixels a side, not {info.size}"
        )
    half = info.size // 2
    if not 1 <= cutoff * half < half:  # nor NaN
        raise UsageError(
            f"--cutoff {cutoff:g} leaves no {'high' if cutoff * half >= half else 'low'} frequencies of {info.size} "
            f"pixels; choose from {2 / info.size:.2g} up to, but not including, 1"
        )
    r = int(cutoff * half)
    try:
        partners = draw_partners(images.labels, seed)
    except ValueError as error:
        raise ImageSetError(f"{images.folder}: {error}; pack a set of more classes") from None
    labels, count = images.labels, info.count
    paths = [f"{images.paths[row]}+{images.paths[partner]}" for row, partner in enumerate(partners)]
    how.say(f"{out}: {need_space(out, count, info.size)}")

    def conflicts() -> Iterator[Photograph]:
        for row, path in enumerate(paths):
            yield row, path, partial(conflict, images, row, int(partners[row]), r)

    preprocessing = f"{info.preprocessing}; up to {r} cycles of each, and above {r} of another class's, drawn by {seed}"
    set_info = ImageSetInfo(name or out.name, BENCHMARK, "", 0, info.size, preprocessing, True, info.decision_space)
    with new_folder(out) as folder:
        # The workers share the processors already; the threads of each product would be in their way.
        with threadpool_limits(1, "blas"):
            sha256s, _ = hash_rows(conflicts(), count, folder / PIXELS, out, f"packing {set_info.name}", how)
        rows = range(count)
        second_classes = {FREQUENCY_CUES.second: [[int(labels[partner])] for partner in partners]}
        index = Index(paths, labels, images.clusters, [sha256s[row] for row in rows], second_classes)
        names = {} if images.class_names is None else {"class_names": images.class_names}
        finish_set(folder, out, index, set_info, rows, {}, skipped={}, ignored=0, **names)
    return open_image_set(out)


def draw_partners(labels: NDArray[np.int32], seed: int) -> NDArray[np.int64]:
    """(n,) for each image, the index of one of another class; all are different.

    ValueError where a class has more than half of the images, since there are no such partners.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if 2 * counts.max() > len(labels):
        raise ValueError(f"{counts.max()} of {len(labels)} images are of class {classes[counts.argmax()]}, too many")
    random = np.random.default_rng(seed)
    partners = random.permutation(len(labels))
    for row in np.flatnonzero(labels[partners] == labels):
        if labels[partners[row]] == labels[row]:
            # It exchanges partners with one of these; there is at least one, since no class has more than half.
            free = np.flatnonzero((labels != labels[row]) & (labels[partners] != labels[row]))
            swapped = random.choice(free)
            partners[[row, swapped]] = partners[[swapped, row]]
    return partners


def conflict(images: ImageSet, low: int, high: int, r: int) -> NDArray[np.uint8]:
    """(3, size, size) uint8: frequencies up to r of image `low`, and those above r of image `high`."""
    pair = images.take(np.array([low, high])).astype(np.float32) / np.float32(255)
    filtered = lowpass(np, pair, spectrum(np, pair), r)
    mixed: NDArray[np.float32] = np.clip(filtered[0] + (pair[1] - filtered[1]), 0, 1)
    rounded: NDArray[np.uint8] = np.rint(mixed * np.float32(255)).astype(np.uint8)
    return rounded
