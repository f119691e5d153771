"""Low-pass and high-pass against a Fourier transform of each image, in double precision, by torch."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stimuli import perturb, photographs

from bandlens.core.errors import ProbeError
from bandlens.core.records import Condition
from bandlens.probes.spectral import CUTOFFS, HIGHPASS, LOWPASS, radius

GRID = LOWPASS.conditions({}) + HIGHPASS.conditions({})


def published_filter(images: NDArray[np.uint8], condition: Condition) -> NDArray[np.float64]:
    """The study's definition: shifted spectrum, 0/1 block, real part, clip."""
    half = images.shape[-1] // 2
    cutoff = float(condition["cutoff"])
    r = int(cutoff * half) if condition.probe == "lowpass" else int((1 - cutoff) * half)
    block = torch.zeros(images.shape[-2:], dtype=torch.float64)
    block[half - r : half + r, half - r : half + r] = 1
    mask = block if condition.probe == "lowpass" else 1 - block
    spectrum = torch.fft.fftshift(torch.fft.fft2(torch.from_numpy(images).double() / 255), dim=(-2, -1))
    back = torch.fft.ifft2(torch.fft.ifftshift(spectrum * mask, dim=(-2, -1)))
    return back.real.clip(0, 1).numpy()


def test_the_published_grid_has_22_conditions_with_the_published_radii() -> None:
    low = [radius(condition, 224) for condition in LOWPASS.conditions({})]
    high = [radius(condition, 224) for condition in HIGHPASS.conditions({})]
    assert low == [1, 11, 22, 33, 44, 56, 67, 78, 89, 100, 110]
    assert high == low[::-1]


def test_all_22_conditions_equal_torchs_fft(xp: ModuleType) -> None:
    pixels = photographs(8)
    made = perturb(xp, GRID, pixels)
    assert set(made) == set(GRID)
    for condition, images in made.items():
        np.testing.assert_allclose(
            images, published_filter(pixels, condition), rtol=0, atol=5e-6, err_msg=str(condition)
        )


@pytest.mark.parametrize("cutoff", [0.0, 0.004, 0.25, 0.995, 1.0])
def test_other_cutoffs_and_the_two_ends(xp: ModuleType, cutoff: float) -> None:
    pixels = photographs(4)
    conditions = LOWPASS.conditions({"cutoff": cutoff}) + HIGHPASS.conditions({"cutoff": cutoff})
    for condition, images in perturb(xp, conditions, pixels).items():
        np.testing.assert_allclose(
            images, published_filter(pixels, condition), rtol=0, atol=5e-6, err_msg=str(condition)
        )


def test_every_radius_there_is(xp: ModuleType) -> None:
    """32 pixels have 17 radii: all of them, on images of another size than the study's."""
    pixels = np.random.default_rng(1).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    conditions = LOWPASS.conditions({"cutoff": [r / 16 for r in range(17)]})
    assert [radius(condition, 32) for condition in conditions] == list(range(17))
    for condition, images in perturb(xp, conditions, pixels).items():
        np.testing.assert_allclose(images, published_filter(pixels, condition), rtol=0, atol=5e-6)


def test_cutoffs_that_share_a_radius_each_get_their_images(xp: ModuleType) -> None:
    pixels = photographs(2)
    conditions = LOWPASS.conditions({"cutoff": [0.5, 0.501, 0.502, 0.503]}) + HIGHPASS.conditions({"cutoff": 0.5})
    made = perturb(xp, conditions, pixels)
    assert len(made) == 5
    for condition in conditions[1:4]:
        np.testing.assert_array_equal(made[condition], made[conditions[0]])


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(5)), chosen=st.lists(st.sampled_from(GRID), min_size=1, unique=True))
def test_an_image_does_not_depend_on_its_batch_nor_on_the_other_conditions(
    order: list[int], chosen: list[Condition]
) -> None:
    pixels = photographs(5)
    alone = {c: np.concatenate([perturb(np, [c], pixels[i : i + 1])[c] for i in order]) for c in chosen}
    together = perturb(np, chosen, pixels[order])
    for condition in chosen:
        np.testing.assert_array_equal(together[condition], alone[condition])


def test_an_odd_size_is_refused() -> None:
    with pytest.raises(ProbeError, match="lowpass needs an even number of pixels a side, not 33"):
        LOWPASS.check_size(GRID[0], 33)


def test_lowpass_and_highpass_of_a_radius_add_up_to_the_image(xp: ModuleType) -> None:
    """Where neither is clipped, what the one removes is what the other keeps."""
    pixels = photographs(3)
    for low, high in zip(LOWPASS.conditions({}), reversed(HIGHPASS.conditions({})), strict=True):
        made = perturb(xp, [low, high], pixels)
        inside = (made[low] > 0) & (made[low] < 1) & (made[high] > 0) & (made[high] < 1)
        np.testing.assert_allclose((made[low] + made[high])[inside], (pixels / 255)[inside], atol=5e-6)
    assert len(CUTOFFS) == 11
