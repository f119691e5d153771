from __future__ import annotations

import numpy as np
import pytest

from bandlens.export.photographs import PHOTOGRAPHS, photograph_crops, photograph_folder


def test_the_photographs_are_those_of_scikit_image() -> None:
    skimage_data = pytest.importorskip("skimage.data")
    assert all((photograph_folder() / name).is_file() for name in PHOTOGRAPHS)
    crops = photograph_crops(96)
    assert crops.shape == (18, 3, 96, 96)
    assert crops.dtype == np.float32
    assert crops.min() >= 0
    assert crops.max() <= 1
    astronaut = skimage_data.astronaut()
    assert np.allclose(crops[0].mean(axis=(1, 2)) * 255, astronaut.mean(axis=(0, 1)), atol=1)
    assert len({crop.tobytes() for crop in crops}) == 18
