"""Grey and contrast against scikit-image and the formula."""

from __future__ import annotations

from types import ModuleType

import numpy as np
from skimage.color import rgb2gray
from stimuli import perturb, photographs

from bandlens.probes.arrays import to_numpy
from bandlens.probes.grey import CONTRAST, grey


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
