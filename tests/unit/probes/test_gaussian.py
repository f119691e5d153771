"""Gaussian filters against SciPy's, in double precision."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2gray
from stimuli import perturb, photographs

from bandlens.core.errors import UsageError
from bandlens.core.records import Condition
from bandlens.probes.gaussian import GAUSSIAN_HIGHPASS, GAUSSIAN_LOWPASS

GRID = GAUSSIAN_LOWPASS.conditions({}) + GAUSSIAN_HIGHPASS.conditions({})


def published_filter(image: NDArray[np.float64], condition: Condition) -> NDArray[np.float64]:
    """The definition, of one grey image in [0, 1]; an infinite sigma takes a constant away."""
    unfiltered = condition["sigma"] == "inf"
    low = 0 if unfiltered else gaussian_filter(image, float(condition["sigma"]), mode="constant", cval=0.4423)
    if condition.probe == "gaussian_lowpass":
        return low.clip(0, 1)
    high = image - low
    return (high + 0.4423 - high.mean()).clip(0, 1)


def assert_published(xp: ModuleType, conditions: list[Condition], pixels: NDArray[np.uint8]) -> None:
    grey = rgb2gray(pixels, channel_axis=1)
    for condition, images in perturb(xp, conditions, pixels).items():
        for image, made in zip(grey, images, strict=True):
            expected = published_filter(image, condition)
            for channel in made:
                np.testing.assert_allclose(channel, expected, rtol=0, atol=1e-6, err_msg=str(condition))


def test_the_published_conditions_equal_scipys_filter(xp: ModuleType) -> None:
    assert [c["sigma"] for c in GRID] == [0, 1, 3, 5, 7, 10, 15, 40, "inf", 3, 1.5, 1, 0.7, 0.55, 0.45, 0.4]
    assert_published(xp, GRID, photographs(6))


@pytest.mark.parametrize("size", [20, 33, 96, 130])
def test_other_sizes_and_sigmas(xp: ModuleType, size: int) -> None:
    """Some sizes are smaller than a block of rows or no multiple of it, and some kernels are wider than the image."""
    pixels = np.random.default_rng(size).integers(0, 256, (2, 3, size, size), dtype=np.uint8)
    sigmas = [1e-6, 0.12, 0.13, 2, 8.1, 60, 900]
    conditions = GAUSSIAN_LOWPASS.conditions({"sigma": sigmas}) + GAUSSIAN_HIGHPASS.conditions({"sigma": sigmas})
    assert_published(xp, conditions, pixels)


def test_infinity_is_one_condition_however_it_is_written() -> None:
    assert len(GAUSSIAN_HIGHPASS.conditions({"sigma": ["inf", float("inf")]})) == 1


@pytest.mark.parametrize("sigma", [-1, 1001, "wide", True, float("nan"), float("-inf")])
def test_a_sigma_out_of_range_is_named(sigma: object) -> None:
    with pytest.raises(UsageError, match=r'gaussian_highpass: sigma must be a number in \[0, 1000\] or "inf", not'):
        GAUSSIAN_HIGHPASS.conditions({"sigma": sigma})
