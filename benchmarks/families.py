"""Fourier waves and Gaussian filters beside the code of their sources, an image of 224 x 224 pixels, on one thread.

`bandlens`: the families as a run uses them, batch 32, buffers that go round, from uint8.
`rai-toolbox`: its bases, made once for each batch as in its heat maps, and its function that adds them, with the clip.
`one wave an image`: stronger, the wave there already, added to each image in float32 and clipped.
`scipy`: the published procedure, rgb2gray, gaussian_filter in double precision, clip, three channels.
`scipy, float32`: stronger, in single precision, with the grey image made once for all conditions.
"""

from __future__ import annotations

import numpy as np
import torch
from _common import BATCH, SIZE, Perturbations, arguments, in_turn, machine, print_rates, ratio, timed
from numpy.typing import NDArray
from rai_toolbox.augmentations.fourier import generate_fourier_bases
from rai_toolbox.augmentations.fourier._implementations import perturb_batch
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2gray
from threadpoolctl import threadpool_limits

from bandlens.core.records import Condition
from bandlens.probes.fourier import FOURIER_BASIS, NORM
from bandlens.probes.grayscale import BACKGROUND, GAUSSIAN_HIGHPASS, GAUSSIAN_LOWPASS

Images = NDArray[np.float32]
LOW, HIGH = GAUSSIAN_LOWPASS.conditions({}), GAUSSIAN_HIGHPASS.conditions({})
WAVES = FOURIER_BASIS.conditions({"row": [0, 7, 21], "column": [-30, 2, 14]})


def with_rai_toolbox(images: torch.Tensor) -> None:
    half = SIZE // 2
    places = [(int(wave["row"]) + half, int(wave["column"]) + half) for wave in WAVES]
    for basis in generate_fourier_bases(SIZE, SIZE, row_col_coords=places):
        perturb_batch(batch=images, basis=basis.basis, basis_norm=NORM, rand_flip_per_channel=True).clip_(0, 1)


def with_waves(images: Images, waves: list[Images], sign: Images) -> None:
    for wave in waves:
        for image in images:
            np.clip(image + sign * wave, 0, 1)


def published(grey: NDArray[np.floating], condition: Condition) -> None:
    if condition["sigma"] == "inf":
        image = grey - BACKGROUND
    else:
        image = gaussian_filter(grey, float(condition["sigma"]), mode="constant", cval=BACKGROUND)
        if condition.probe == "gaussian_highpass":
            image = grey - image
    if condition.probe == "gaussian_highpass":
        image = image + (BACKGROUND - image.mean())
    image = np.clip(image, 0, 1)
    np.stack([image, image, image])


def with_scipy(pixels: NDArray[np.uint8], conditions: list[Condition]) -> None:
    for image in pixels:
        for condition in conditions:
            published(rgb2gray(image, channel_axis=0), condition)


def with_scipy_in_float32(pixels: NDArray[np.uint8], conditions: list[Condition]) -> None:
    for image in pixels:
        grey = rgb2gray(image, channel_axis=0).astype(np.float32)
        for condition in conditions:
            published(grey, condition)


def main() -> None:
    options = arguments(__doc__, repeats=7, quick=1)
    torch.set_num_threads(1)
    perturbations = Perturbations()
    pixels = perturbations.pixels
    images = (pixels / np.float32(255)).astype(np.float32)
    sample = pixels[:2] if options.quick else pixels[:8]
    wave = [basis.basis * np.float32(NORM) for basis in generate_fourier_bases(SIZE, SIZE, row_col_coords=[(112, 114)])]
    sign = np.array([1, -1, 1], np.float32)[:, None, None]
    wave_loops = {
        "rai-toolbox": (BATCH, lambda _: with_rai_toolbox(torch.from_numpy(images))),
        "one wave an image": (BATCH, lambda _: with_waves(images, wave * len(WAVES), sign)),
    }
    gaussian_loops = {
        "scipy": (len(sample), lambda conditions: with_scipy(sample, conditions)),
        "scipy, float32": (len(sample), lambda conditions: with_scipy_in_float32(sample, conditions)),
    }
    with threadpool_limits(1):
        machine("numpy", "scipy", "torch", "rai-toolbox")
        for title, family, conditions, rivals in (
            ("fourier", FOURIER_BASIS, WAVES, wave_loops),
            # Both filters are one function, and one group of a run.
            ("gaussian low-pass and high-pass", GAUSSIAN_LOWPASS, LOW + HIGH, gaussian_loops),
            ("gaussian high-pass", GAUSSIAN_LOWPASS, HIGH, gaussian_loops),
        ):
            images_of = {"bandlens": BATCH} | {name: count for name, (count, _) in rivals.items()}
            counts = {name: count * len(conditions) for name, count in images_of.items()}
            variants = {"bandlens": perturbations.variant(family.perturb, conditions)}
            variants |= {name: timed(lambda w=run, c=conditions: w(c)) for name, (_, run) in rivals.items()}
            head = [f"{title}, {len(conditions)} conditions", "ms an image and condition", "times bandlens"]
            times = print_rates(head, in_turn(variants, options.repeats), counts, "bandlens")
            reference = next(iter(rivals))
            goal = "none" if conditions is HIGH else ">= 5"
            ratio(f"{title}: {reference} over bandlens", times[reference], goal)
            print()


if __name__ == "__main__":
    main()
