from __future__ import annotations

import numpy as np
import skimage.data

from bandlens.export.reference_images import photograph_crops


def test_the_photographs_are_those_of_scikit_image() -> None:
    crops = photograph_crops(96)
    assert crops.shape == (12, 3, 96, 96)
    assert crops.dtype == np.float32
    assert crops.min() >= 0
    assert crops.max() <= 1
    assert np.allclose(crops[0].mean(axis=(1, 2)) * 255, skimage.data.astronaut().mean(axis=(0, 1)), atol=2)
    assert len({crop.tobytes() for crop in crops}) == 12
