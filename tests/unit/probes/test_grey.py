"""Grey and contrast against scikit-image and the formula, and the distribution of the noise that is added."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from scipy import stats
from skimage.color import rgb2gray
from stimuli import perturb, photographs

from bandlens.probes.arrays import to_numpy
from bandlens.probes.grey import CONTRAST, UNIFORM_NOISE, grey


def test_grey_is_scikit_images(xp: ModuleType) -> None:
    pixels = photographs(6)
    np.testing.assert_allclose(to_numpy(grey(xp, xp.asarray(pixels))), rgb2gray(pixels, channel_axis=1), atol=2e-7)


def test_contrast_shrinks_grey_towards_one_half(xp: ModuleType) -> None:
    pixels = photographs(6)
    made = perturb(xp, CONTRAST.conditions({}), pixels)
    assert [c["contrast"] for c in made] == [0.01, 0.03, 0.05, 0.1, 0.15, 0.3, 0.5, 1]
    for condition, images in made.items():
        c = float(condition["contrast"])
        expected = (1 - c) / 2 + c * rgb2gray(pixels, channel_axis=1)
        for channel in range(3):
            np.testing.assert_allclose(images[:, channel], expected, atol=3e-7)


@pytest.mark.parametrize("width", [0.03, 0.1, 0.35])
def test_what_is_added_is_uniform_and_independent(xp: ModuleType, width: float) -> None:
    pixels = photographs(4)  # at contrast 0.3 their values lie in [0.35, 0.65], so that nothing is clipped
    images = perturb(xp, UNIFORM_NOISE.conditions({"width": width}), pixels).popitem()[1].astype(np.float64)
    added = images - (0.35 + 0.3 * rgb2gray(pixels, channel_axis=1))[:, None]
    np.testing.assert_allclose(added[:, 1:], added[:, :2], rtol=0, atol=1e-6)
    noise = added[:, 0]
    assert stats.kstest(noise.ravel(), stats.uniform(-width, 2 * width).cdf).pvalue > 1e-3
    fields = [*noise.reshape(4, -1), np.roll(noise[0], 1, axis=0).ravel(), np.roll(noise[0], 1, axis=1).ravel()]
    assert np.abs(np.corrcoef(fields) - np.eye(6)).max() < 5 / 224


def test_one_draw_serves_all_widths_and_what_leaves_the_range_is_clipped(xp: ModuleType) -> None:
    pixels = photographs(4)
    made = perturb(xp, UNIFORM_NOISE.conditions({}), pixels)
    assert [c["width"] for c in made] == [0, 0.03, 0.05, 0.1, 0.2, 0.35, 0.6, 0.9]
    still, least, *_, most = made.values()
    np.testing.assert_allclose(still[:, 0], 0.35 + 0.3 * rgb2gray(pixels, channel_axis=1), atol=3e-7)
    expected = np.clip(still + 30 * (least.astype(np.float64) - still), 0, 1)
    np.testing.assert_allclose(most, expected, atol=1e-5)
    assert ((most == 0) | (most == 1)).mean() > 0.3
