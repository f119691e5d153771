"""The 22 published low-pass and high-pass conditions of an RGB image of 224 x 224 pixels, on one thread.

`bandlens`: probes.spectral.perturb as a run uses it, batch 32, buffers that go round.
`torch`: the published procedure, for each image and condition fft2, fftshift, mask, ifftshift, ifft2, real, clip.
`scipy`: a stronger one, an FFT for each image and condition in single precision, with masks that are shifted already.
`scipy, one forward`: stronger yet, the forward FFT of an image shared by all of its conditions.

The FFTs get their images as float32 in [0, 1] and their masks for nothing; bandlens starts from uint8.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.fft
import torch
from _common import BATCH, SIZE, Perturbations, arguments, in_turn, machine, print_rates, ratio, timed
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bandlens.core.records import Condition
from bandlens.probes.family import Batch
from bandlens.probes.spectral import HIGHPASS, LOWPASS, perturb, radius

Images = NDArray[np.float32]
CONDITIONS = [*LOWPASS.conditions({}), *HIGHPASS.conditions({})]


def mask(condition: Condition) -> NDArray[np.float32]:
    """The mask of 0 and 1 for the shifted spectrum, of shape (224, 224)."""
    r, half, low = radius(condition, SIZE), SIZE // 2, condition.probe == "lowpass"
    passband = np.full((SIZE, SIZE), 0 if low else 1, np.float32)
    passband[half - r : half + r, half - r : half + r] = 1 if low else 0
    return passband


def with_torch(images: torch.Tensor, masks: Sequence[torch.Tensor]) -> None:
    for image in images:
        for passband in masks:
            one_with_torch(image, passband)


def one_with_torch(image: torch.Tensor, passband: torch.Tensor) -> torch.Tensor:
    axes = (-2, -1)
    shifted = torch.fft.fftshift(torch.fft.fft2(image), dim=axes)
    return torch.fft.ifft2(torch.fft.ifftshift(shifted * passband, dim=axes)).real.clip(0, 1)


def with_scipy(images: Images, masks: Sequence[Images]) -> None:
    for image in images:
        for passband in masks:
            np.clip(scipy.fft.ifft2(scipy.fft.fft2(image) * passband, overwrite_x=True).real, 0, 1)


def with_scipy_one_forward(images: Images, masks: Sequence[Images]) -> None:
    for image in images:
        spectrum = scipy.fft.fft2(image)
        for passband in masks:
            np.clip(scipy.fft.ifft2(spectrum * passband, overwrite_x=True).real, 0, 1)


def largest_difference(batch: Batch, images: Images) -> float:
    """The largest difference of bandlens from torch's FFT in double precision, over all images and conditions."""
    maximum = 0.0
    for condition, out in perturb(np, batch, CONDITIONS, lambda: np.empty_like(images)):
        expected = one_with_torch(torch.from_numpy(images).double(), torch.from_numpy(mask(condition)).double())
        maximum = max(maximum, float(np.abs(out - expected.numpy()).max()))
    return maximum


def main() -> None:
    options = arguments(__doc__, repeats=11, quick=1)
    torch.set_num_threads(1)
    perturbations = Perturbations()
    pixels, batch = perturbations.pixels, perturbations.batch
    images = (pixels / np.float32(255)).astype(np.float32)
    fewer = images[:2] if options.quick else images[:8]
    shifted = [mask(condition) for condition in CONDITIONS]
    unshifted = [np.fft.ifftshift(passband) for passband in shifted]
    tensors = [torch.from_numpy(passband) for passband in shifted]
    with threadpool_limits(1):
        machine("numpy", "scipy", "torch")
        variants = {
            "bandlens": perturbations.variant(perturb, CONDITIONS),
            "torch": timed(lambda: with_torch(torch.from_numpy(fewer), tensors)),
            "scipy": timed(lambda: with_scipy(fewer, unshifted)),
            "scipy, one forward": timed(lambda: with_scipy_one_forward(fewer, unshifted)),
        }
        seconds = in_turn(variants, options.repeats)
        sample = Batch(pixels[: len(fewer)], batch.keys[: len(fewer)], batch.positions[: len(fewer)], 0)
        maximum = largest_difference(sample, fewer)
    counts = {name: BATCH if name == "bandlens" else len(fewer) for name in variants}
    times = print_rates(["22 conditions", "ms an image", "times bandlens"], seconds, counts, "bandlens")
    print(f"largest difference from torch in double precision: {maximum:.1e}")
    ratio("one FFT per condition (torch) over bandlens", times["torch"], ">= 3.5")


if __name__ == "__main__":
    main()
