"""Grey images and filters against scikit-image, SciPy and the formulas, and the distribution of the added noise."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2gray
from stimuli import perturb, photographs

from bandlens.core.records import Condition
from bandlens.probes.grayscale import CONTRAST, GAUSSIAN_HIGHPASS, GAUSSIAN_LOWPASS, UNIFORM_NOISE


def test_contrast_shrinks_grey_towards_one_half(xp: ModuleType) -> None:
    pixels = photographs(6)
    images_by_condition = perturb(xp, CONTRAST.conditions({}), pixels)
    assert [c["contrast"] for c in images_by_condition] == [0.01, 0.03, 0.05, 0.1, 0.15, 0.3, 0.5, 1]
    for condition, images in images_by_condition.items():
        c = float(condition["contrast"])
        expected = (1 - c) / 2 + c * rgb2gray(pixels, channel_axis=1)
        for channel in range(3):
            np.testing.assert_allclose(images[:, channel], expected, atol=3e-7)


def test_what_is_added_is_uniform_and_independent(xp: ModuleType) -> None:
    width = 0.35
    pixels = photographs(4)  # at contrast 0.3 their values lie in [0.35, 0.65], so that nothing is clipped
    images = perturb(xp, UNIFORM_NOISE.conditions({"width": width}), pixels).popitem()[1].astype(np.float64)
    differences = images - (0.35 + 0.3 * rgb2gray(pixels, channel_axis=1))[:, None]
    np.testing.assert_allclose(differences[:, 1:], differences[:, :2], rtol=0, atol=1e-6)
    noise = differences[:, 0]
    assert stats.kstest(noise.ravel(), stats.uniform(-width, 2 * width).cdf).pvalue > 1e-3
    fields = [*noise.reshape(4, -1), np.roll(noise[0], 1, axis=0).ravel(), np.roll(noise[0], 1, axis=1).ravel()]
    assert np.abs(np.corrcoef(fields) - np.eye(6)).max() < 5 / 224


def test_one_draw_serves_all_widths_and_what_leaves_the_range_is_clipped(xp: ModuleType) -> None:
    pixels = photographs(4)
    images_by_condition = perturb(xp, UNIFORM_NOISE.conditions({}), pixels)
    assert [c["width"] for c in images_by_condition] == [0, 0.03, 0.05, 0.1, 0.2, 0.35, 0.6, 0.9]
    still, low_noise, *_, high_noise = images_by_condition.values()
    np.testing.assert_allclose(still[:, 0], 0.35 + 0.3 * rgb2gray(pixels, channel_axis=1), atol=3e-7)
    expected = np.clip(still + 30 * (low_noise.astype(np.float64) - still), 0, 1)
    np.testing.assert_allclose(high_noise, expected, atol=1e-5)
    assert ((high_noise == 0) | (high_noise == 1)).mean() > 0.3


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
        for image, channels in zip(grey, images, strict=True):
            expected = published_filter(image, condition)
            for channel in channels:
                np.testing.assert_allclose(channel, expected, rtol=0, atol=1e-6, err_msg=str(condition))


def test_the_published_conditions_equal_scipys_filter(xp: ModuleType) -> None:
    assert [c["sigma"] for c in GRID] == [0, 1, 3, 5, 7, 10, 15, 40, "inf", 3, 1.5, 1, 0.7, 0.55, 0.45, 0.4]
    assert_published(xp, GRID, photographs(6))


@pytest.mark.parametrize("size", [20, 130])
def test_other_sizes_and_sigmas(xp: ModuleType, size: int) -> None:
    """Some sizes are smaller than a block of rows or no multiple of it, and some kernels are wider than the image."""
    pixels = np.random.default_rng(size).integers(0, 256, (2, 3, size, size), dtype=np.uint8)
    sigmas = [1e-6, 0.13, 8.1, 60]
    conditions = GAUSSIAN_LOWPASS.conditions({"sigma": sigmas}) + GAUSSIAN_HIGHPASS.conditions({"sigma": sigmas})
    assert_published(xp, conditions, pixels)


def test_infinity_is_one_condition_however_it_is_written() -> None:
    assert len(GAUSSIAN_HIGHPASS.conditions({"sigma": ["inf", float("inf")]})) == 1
