"""Create frequency cue-conflict images: low frequencies of one image, high frequencies of an image of another class.

    y = clip(low(A) + B - low(B), 0, 1),  rounded to 8 bits

low is the low-pass filter of probes/spectral.py without clipping, so the mean of y is that of A. Every image of the
source set contributes its low frequencies to one conflict image and its high frequencies to another. The pairs are
drawn at random. A prediction agrees with the class of the low frequencies, with that of the high frequencies, or with
neither. See `analysis.metrics.families.cue_conflict`.

The idea is that of Gavrikov et al. 2025. Their 1,280 images of 16 classes are not reproduced: the filter, the cutoff
and the pairs are different here.
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
"""Name of the benchmark in results."""


def pack_frequency_conflict(
    images: ImageSet, out: Path, *, cutoff: float, seed: int = 0, name: str | None = None, how: How = USUAL
) -> ImageSet:
    """Create a set with one conflict image for each image of a labeled set. See `app.api`.

    Conflict image i contains the low frequencies of image i. Labels are the classes of the low frequencies, the label
    scheme `hf_label` contains the classes of the high frequencies, and clusters are those of the images with the low
    frequencies.

    Args:
        images: Labeled image set in which no class has more than half of the images.
        out: Folder to create.
        cutoff: Cutoff between low and high frequencies as a proportion of the Nyquist limit, in (0, 1).
        seed: Seed of the random pairs.
        name: Name of the new set. Defaults to the name of its folder.
        how: Packing options.

    Raises:
        UsageError: The cutoff leaves no low or no high frequencies.
        ImageSetError: The set has no labels, an odd image size, or a class with more than half of the images.
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
    if not 1 <= cutoff * half < half:  # also rejects NaN
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
        # The images are already processed in one thread per processor, so additional BLAS threads would only slow them
        # down.
        with threadpool_limits(1, "blas"):
            sha256s, _ = hash_rows(conflicts(), count, folder / PIXELS, out, f"packing {set_info.name}", how)
        rows = range(count)
        second_classes = {FREQUENCY_CUES.second: [[int(labels[partner])] for partner in partners]}
        index = Index(paths, labels, images.clusters, [sha256s[row] for row in rows], second_classes)
        names = {} if images.class_names is None else {"class_names": images.class_names}
        finish_set(folder, out, index, set_info, rows, {}, skipped={}, ignored=0, **names)
    return open_image_set(out)


def draw_partners(labels: NDArray[np.int32], seed: int) -> NDArray[np.int64]:
    """Draw for each image the index of an image of another class, (n,). Each image is drawn exactly once.

    Raises:
        ValueError: A class has more than half of the images, so no such assignment exists.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if 2 * counts.max() > len(labels):
        raise ValueError(f"{counts.max()} of {len(labels)} images are of class {classes[counts.argmax()]}, too many")
    random = np.random.default_rng(seed)
    partners = random.permutation(len(labels))
    for row in np.flatnonzero(labels[partners] == labels):
        if labels[partners[row]] == labels[row]:
            # Swap partners with an image for which the swap creates no new pair of the same class. At least one exists,
            # because no class has more than half of the images.
            free = np.flatnonzero((labels != labels[row]) & (labels[partners] != labels[row]))
            swapped = random.choice(free)
            partners[[row, swapped]] = partners[[swapped, row]]
    return partners


def conflict(images: ImageSet, low: int, high: int, r: int) -> NDArray[np.uint8]:
    """Return an image with the frequencies up to r of image `low` and those above r of image `high`, (3, size, size)
    uint8.
    """
    pair = images.take(np.array([low, high])).astype(np.float32) / np.float32(255)
    filtered = lowpass(np, pair, spectrum(np, pair), r)
    mixed: NDArray[np.float32] = np.clip(filtered[0] + (pair[1] - filtered[1]), 0, 1)
    rounded: NDArray[np.uint8] = np.rint(mixed * np.float32(255)).astype(np.uint8)
    return rounded
