"""The 28 noisy critical-band conditions of an image of 224 x 224 pixels, on one thread.

`shared`, `independent`: probes.critical_band.perturb as a run uses it, batch 32, buffers that go round; one draw of
noise an image, or one for each condition.
`published`: for each image and condition a draw, pyrtools' Laplacian pyramid, two reconstructions, RMS equalized, and
a loop over all pixels of an image that leaves [0, 1]. It gets its grey image for nothing.
"""

from __future__ import annotations

import numpy as np
import pyrtools
from _common import BATCH, Perturbations, arguments, in_turn, machine, print_rates, ratio, ratios, timed
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import threadpool_limits

from bandlens.core.records import Condition
from bandlens.probes.critical_band import CONTRAST, CRITICAL_BAND, LAST_LEVEL, MEAN, NOISE_SDS, perturb

NOISY = [sd for sd in NOISE_SDS if sd > 0]
MARGIN = 0.1


def conditions(draw: str) -> list[Condition]:
    return CRITICAL_BAND.conditions({"noise_sd": NOISY, "draw": draw, "grey": False})


# The published procedure


def grey(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    image = np.asarray(Image.fromarray(pixels.transpose(1, 2, 0)).convert("L")) / 255.0
    return (image - image.mean()) * CONTRAST + MEAN


def published(images: list[NDArray[np.float64]], conditions: list[Condition]) -> None:
    random = np.random.RandomState(0)
    for image in images:
        for condition in conditions:
            one_published(image.copy(), float(condition["noise_sd"]), int(condition["frequency"]), random)


def one_published(
    image: NDArray[np.float64], noise_sd: float, frequency: int, random: np.random.RandomState
) -> NDArray[np.float32]:
    """The published stimulus of an image, of shape (224, 224, 3)."""
    pyramid = pyrtools.pyramids.LaplacianPyramid(random.randn(*image.shape) * noise_sd)
    band = pyramid.recon_pyr(levels=LAST_LEVEL - frequency)
    noise = band * rms(pyramid.recon_pyr(levels=0)) / rms(band)
    mixed = image + noise
    if mixed.min() < 0 or mixed.max() > 1:
        for row in range(mixed.shape[0]):
            for column in range(mixed.shape[1]):
                if mixed[row, column] < 0 or mixed[row, column] > 1:
                    target = MARGIN if mixed[row, column] < 0 else 1 - MARGIN
                    bring_into_range(image, noise, row, column, target, noise_sd, random)
        mixed = image + noise
    return np.stack([mixed.astype(np.float32)] * 3, axis=2)


def bring_into_range(
    image: NDArray[np.float64],
    noise: NDArray[np.float64],
    row: int,
    column: int,
    target: float,
    noise_sd: float,
    random: np.random.RandomState,
) -> None:
    shifted = target - noise[row, column]
    if 0 <= shifted <= 1:
        image[row, column] = shifted
        return
    while not 0 <= image[row, column] + noise[row, column] <= 1:
        noise[row, column] = random.randn() * noise_sd


def rms(image: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(image))))


def main() -> None:
    options = arguments(__doc__, repeats=7, quick=1)
    perturbations = Perturbations()
    counts = {"shared": BATCH, "independent": BATCH, "published": 2 if options.quick else 18}
    images = [grey(perturbations.pixels[k]) for k in range(counts["published"])]  # there are 18 different ones
    shared, independent = conditions("shared"), conditions("independent")
    with threadpool_limits(1):
        machine("numpy", "pyrtools")
        variants = {
            "shared": perturbations.variant(perturb, shared),
            "independent": perturbations.variant(perturb, independent),
            "published": timed(lambda: published(images, shared)),
        }
        seconds = in_turn(variants, options.repeats)
    head = [f"{len(shared)} conditions", "ms an image", "times shared"]
    times = print_rates(head, seconds, counts, "shared")
    ratio("published over one draw an image", times["published"], ">= 40")
    ratio("published over one draw a condition", ratios(times["published"], times["independent"]), "none")


if __name__ == "__main__":
    main()
