"""How often `images spectrum` finds the octave in which labels were planted, and how often one in shuffled labels.

Each draw is a set of noise of 32 x 32 pixels whose power falls as 1 / f^2, in which one octave, another in each draw,
is amplified in the images of label 1. It is found where the p of one of its two readouts, corrected for all octaves,
is at most 5 %. Goal: at least 95 of 100 draws; and with shuffled labels any octave in at most 5.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from _common import arguments, table
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bandlens.analysis.statistics import ALPHA
from bandlens.app.frequency_content import measure_spectra
from bandlens.core.protocol import OCTAVES, octave_edges
from bandlens.core.records import Crop
from bandlens.probes.fourier import unit_noise
from bandlens.probes.images.pack import pack_arrays

SEED, SIZE = 0, 32
AMPLIFIED = 3
"""The gain of the planted octave in images of label 1, at a gain of 1 elsewhere."""


def planted(rng: np.random.Generator, labels: NDArray[np.int64], octave: int) -> NDArray[np.uint8]:
    """(n, 32, 32, 3) images."""
    noise = unit_noise(np, rng.standard_normal((len(labels), SIZE, SIZE)).astype(np.float32), 2)
    cycles = abs(np.fft.fftfreq(SIZE, 1 / SIZE))
    ring, (low, high) = np.maximum(cycles[:, None], cycles), octave_edges(SIZE)[octave : octave + 2]
    gain = np.where((low < ring) & (ring <= high) & (labels[:, None, None] == 1), AMPLIFIED, 1)
    field = np.fft.ifft2(np.fft.fft2(noise) * gain).real
    return np.rint((128 + 20 * field).clip(0, 255)).astype(np.uint8)[..., None].repeat(3, axis=3)


def significant_octaves(folder: Path, images: int, draw: int) -> tuple[int, set[int], set[int]]:
    """The octave that was planted, and the octaves that are found with the labels, and with shuffled ones."""
    rng = np.random.default_rng([SEED, draw])
    edges = octave_edges(SIZE)
    filled = [octave for octave in range(len(OCTAVES)) if edges[octave] < edges[octave + 1]]
    octave, labels = filled[draw % len(filled)], np.arange(images) % 2
    files = ((f"{number}.png", picture) for number, picture in enumerate(planted(rng, labels, octave)))
    packed = pack_arrays(files, folder / f"{draw}.set", crop=Crop(SIZE, SIZE), labels=labels.tolist())
    sets = packed, replace(packed, labels=rng.permutation(labels).astype(np.int32))
    octaves, by_chance = (
        {row["octave"] for row in measure_spectra([images]).tables["information"] if row["p"] <= ALPHA}
        for images in sets
    )
    return octave, octaves, by_chance


def main() -> None:
    options = arguments(__doc__, repeats=1, quick=1, draws=(100, "sets of images"), images=(100, "images of each set"))
    draws = 10 if options.quick else options.draws
    with TemporaryDirectory(prefix="bandlens-") as folder:
        results = [significant_octaves(Path(folder), options.images, draw) for draw in range(draws)]
    rows = [
        ("planted octave", sum(octave in octaves for octave, octaves, _ in results)),
        ("an octave beside the planted one", sum(bool(octaves - {octave}) for octave, octaves, _ in results)),
        ("planted octave, labels shuffled", sum(octave in by_chance for octave, _, by_chance in results)),
        ("any octave, labels shuffled", sum(bool(by_chance) for _, _, by_chance in results)),
    ]
    print(f"seed {SEED}, {options.images} images\n")
    table(["found", f"of {draws} draws"], [[name, str(count)] for name, count in rows])


if __name__ == "__main__":
    with threadpool_limits(1, "blas"):
        main()
