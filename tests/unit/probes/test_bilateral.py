"""The bilateral filter against OpenCV's, which rounds to whole numbers."""

from __future__ import annotations

from types import ModuleType

import cv2
import numpy as np
import pytest
from stimuli import perturb, photographs

from bandlens.core.errors import ProbeError
from bandlens.probes.bilateral import BILATERAL


@pytest.mark.parametrize(("d", "sigma_color"), [(2, 50), (4, 50), (5, 1), (9, 200), (14, 100)])
@pytest.mark.parametrize("sigma_space", [75, 2])
def test_opencv_rounds_to_the_same(xp: ModuleType, d: int, sigma_color: float, sigma_space: float) -> None:
    pixels = photographs(5)[1:]
    (condition,) = BILATERAL.conditions({"d": d, "sigma_color": sigma_color, "sigma_space": sigma_space})
    (images,) = perturb(xp, [condition], pixels).values()
    for image, made in zip(pixels, images, strict=True):
        colour = np.ascontiguousarray(image.transpose(1, 2, 0))
        expected = cv2.bilateralFilter(colour, d, sigma_color, sigma_space).transpose(2, 0, 1)
        assert np.abs(255 * made.astype(np.float64) - expected).max() <= 0.5 + 2e-3


def test_a_constant_image_and_a_sharp_edge_stay() -> None:
    pixels = np.full((1, 3, 32, 32), 10, np.uint8)
    pixels[..., 16:] = 240
    (images,) = perturb(np, BILATERAL.conditions({"d": 9, "sigma_color": 50}), pixels).values()
    np.testing.assert_allclose(images, pixels / 255, atol=1e-6)


def test_an_image_smaller_than_the_filter_is_refused() -> None:
    (condition,) = BILATERAL.conditions({"d": 64, "sigma_color": 50})
    with pytest.raises(ProbeError, match="images of 32 pixels are smaller than the filter; take a smaller d"):
        BILATERAL.check_size(condition, 32)
    BILATERAL.check_size(condition, 33)
