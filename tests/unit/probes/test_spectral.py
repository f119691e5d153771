"""Low-pass and high-pass against a Fourier transform of each image, in double precision, by torch."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from stimuli import perturb, photographs

from bandlens.core.records import Condition
from bandlens.probes.spectral import HIGHPASS, LOWPASS, radius

GRID = LOWPASS.conditions({}) + HIGHPASS.conditions({})


def shifted_spectrum(pixels: NDArray[np.uint8]) -> torch.Tensor:
    return torch.fft.fftshift(torch.fft.fft2(torch.from_numpy(pixels).double() / 255), dim=(-2, -1))


def published_filter(spectrum: torch.Tensor, condition: Condition) -> NDArray[np.float64]:
    """The study's definition: shifted spectrum, 0/1 block, real part, clip."""
    half = spectrum.shape[-1] // 2
    cutoff = float(condition["cutoff"])
    r = int(cutoff * half) if condition.probe == "lowpass" else int((1 - cutoff) * half)
    block = torch.zeros(spectrum.shape[-2:], dtype=torch.float64)
    block[half - r : half + r, half - r : half + r] = 1
    mask = block if condition.probe == "lowpass" else 1 - block
    back = torch.fft.ifft2(torch.fft.ifftshift(spectrum * mask, dim=(-2, -1)))
    return back.real.clip(0, 1).numpy()


def test_the_published_grid_has_22_conditions_with_the_published_radii() -> None:
    low = [radius(condition, 224) for condition in LOWPASS.conditions({})]
    high = [radius(condition, 224) for condition in HIGHPASS.conditions({})]
    assert low == [1, 11, 22, 33, 44, 56, 67, 78, 89, 100, 110]
    assert high == low[::-1]


def test_all_22_conditions_equal_torchs_fft(xp: ModuleType) -> None:
    pixels = photographs(4)
    spectrum = shifted_spectrum(pixels)
    for condition, images in perturb(xp, GRID, pixels).items():
        np.testing.assert_allclose(
            images, published_filter(spectrum, condition), rtol=0, atol=5e-6, err_msg=str(condition)
        )


def test_every_radius_of_a_small_image_equals_torchs_fft(xp: ModuleType) -> None:
    """32 pixels have 17 radii, and the two ends pass all or nothing."""
    pixels = np.random.default_rng(1).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    cutoffs = {"cutoff": [r / 16 for r in range(17)]}
    conditions = LOWPASS.conditions(cutoffs) + HIGHPASS.conditions(cutoffs)
    assert [radius(condition, 32) for condition in conditions] == [*range(17), *reversed(range(17))]
    spectrum = shifted_spectrum(pixels)
    for condition, images in perturb(xp, conditions, pixels).items():
        np.testing.assert_allclose(images, published_filter(spectrum, condition), rtol=0, atol=5e-6)


def test_cutoffs_that_share_a_radius_each_get_their_images(xp: ModuleType) -> None:
    pixels = photographs(2)
    conditions = LOWPASS.conditions({"cutoff": [0.5, 0.501, 0.502, 0.503]}) + HIGHPASS.conditions({"cutoff": 0.5})
    images = perturb(xp, conditions, pixels)
    assert len(images) == 5
    for condition in conditions[1:4]:
        np.testing.assert_array_equal(images[condition], images[conditions[0]])
