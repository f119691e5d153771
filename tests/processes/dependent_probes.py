"""Probes whose images depend on more than the image, drawn under seeds: does a run refuse them before it believes them?

`dependent_probes.py --probes 10000` is a long campaign. Each probe darkens some images
where they should be left alone: by their place in the batch, its size, its content, or the calls before. A probe is
caught where its run ends with the error; one that made a wrong image and was not caught is a silent error. The watch
looks at a sample, so a few are silent by chance, more of them in 512 images than in a larger set. A sound probe is
never refused.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))  # for a run without pytest

from campaigns import run_campaign

from bandlens.core.errors import ProbeError
from bandlens.core.records import Condition, digest_of
from bandlens.probes.custom import UserProbe
from bandlens.probes.family import Batch

IMAGES, SIZE = 512, 8
PIXELS = np.random.default_rng(0).integers(64, 192, (IMAGES, 3, SIZE, SIZE), dtype=np.uint8)

MOST_SILENT = 0.02
"""The largest share of probes that may be silent, but for what chance adds to it: four standard deviations."""

Images = NDArray[np.float32]
Rows = Callable[[Images, int], Any]
"""The rows of a batch that a probe darkens, by the batch and the number of the call, counted from 1."""


def by_place(random: Random) -> Rows:
    first, step = random.randrange(4), random.randrange(2, 9)
    return lambda *_: slice(first, None, step)


def the_last(random: Random) -> Rows:
    return lambda *_: slice(-1, None)


def by_size(random: Random) -> Rows:
    threshold = random.randrange(2, 7)
    return lambda images, _: slice(None) if len(images) >= threshold else slice(0)


def by_neighbours(random: Random) -> Rows:
    """An image is darkened that is brighter than the next one of its batch."""
    return lambda images, _: images.mean((1, 2, 3)) > np.roll(images, random.choice((-1, 1)), 0).mean((1, 2, 3))


def after_calls(random: Random) -> Rows:
    calls = random.randrange(2, 12)
    return lambda _, call: slice(None) if call > calls else slice(0)


def every_nth_call(random: Random) -> Rows:
    calls = random.randrange(2, 5)
    return lambda _, call: slice(None) if call % calls == 0 else slice(0)


def at_random(random: Random) -> Rows:
    share, generator = random.uniform(0.05, 0.5), np.random.default_rng(random.randrange(1 << 32))
    return lambda images, _: generator.random(len(images)) < share


def by_the_image(random: Random) -> Rows:
    """A sound probe: it looks at nothing but the image."""
    level = random.uniform(0.45, 0.55)
    return lambda images, _: images.mean((1, 2, 3)) < level


DEPENDENT = (by_place, the_last, by_size, by_neighbours, after_calls, every_nth_call, at_random)
SOUND = (by_the_image,)


def batches(size: int) -> Iterator[Batch]:
    places = np.arange(IMAGES)
    for start in range(0, IMAGES, size):
        rows = places[start : start + size]
        yield Batch(PIXELS[rows], rows.astype(np.uint64) + 7, rows, 0)


def run(kind: Callable[[Random], Rows], seed: int) -> str:
    """Draw a probe of a kind and a batch size, and run it over the images; gives `refused`, `silent` or `accepted`."""
    random = Random(seed)
    darkened_rows, calls = kind(random), 0

    def probe(images: Images) -> Images:
        nonlocal calls
        calls += 1
        darkened = images.copy()
        darkened[darkened_rows(images, calls)] *= 0.5
        return darkened

    watched = UserProbe(probe, f"probe {kind.__name__}", frozenset(), "def probe(images, rng)")
    condition = Condition("probe", (), digest_of(kind.__name__, seed))
    wrong_images = 0
    try:
        for batch in batches(random.choice((2, 3, 4, 5, 8, 16, 32, 64))):
            images = np.empty(batch.pixels.shape, np.float32)
            watched.perturb_batch(np, batch, condition, images)
            wrong_images += int((np.abs(images - batch.pixels / np.float32(255)).max((1, 2, 3)) > 0.1).sum())
    except ProbeError:
        return "refused"
    return "silent" if kind in DEPENDENT and wrong_images else "accepted"


def campaign(probes: int, seed: int) -> Counter[str]:
    """Run so many probes, of each kind in turn; how each kind ended, and how often."""
    kinds, counts = (*DEPENDENT, *SOUND), Counter[str]()
    for number in range(seed, seed + probes):
        kind = kinds[number % len(kinds)]
        outcome = run(kind, number)
        assert outcome != "refused" or kind in DEPENDENT, f"seed {number}: a sound probe was refused, {kind.__name__}"
        counts[f"{kind.__name__.replace('_', ' ')}: {outcome}"] += 1
    silent = sum(number for name, number in counts.items() if name.endswith("silent"))
    limit = MOST_SILENT * probes
    assert silent <= limit + 4 * limit**0.5, f"seeds from {seed} on: {silent} of {probes} gave wrong images unseen"
    return counts


def main() -> None:
    run_campaign(__doc__, campaign, {"probes": (500, "probes")})


if __name__ == "__main__":
    main()
