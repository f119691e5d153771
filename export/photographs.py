"""Real photographs that models are compared on; scikit-image ships them inside its package."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)


def photograph_folder() -> Path:
    """scikit-image's own data folder; nothing is downloaded. ExportError if scikit-image is not installed."""
    # skimage.data would fetch a file that the package does not hold; its folder is read without it.
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise ExportError(
            "the photographs of scikit-image are missing; pip install scikit-image, or pass your own images"
        )
    return Path(package.origin).parent / "data"


@lru_cache(4)
def photograph_crops(size: int) -> NDArray[np.float32]:
    """(2n, 3, size, size) float32 in [0, 1]: the middle of each photograph, once whole and once from half its width.

    They are decoded once for each of the latest sizes, so they are only to be read.
    """
    import numpy as np
    from PIL import Image
    from PIL.Image import Resampling

    crops = []
    for name in PHOTOGRAPHS:
        with Image.open(photograph_folder() / name) as file:
            photograph = file.convert("RGB")
        for part in (1.0, 0.5):
            side = int(min(photograph.size) * part)
            x, y = ((length - side) // 2 for length in photograph.size)
            crop = photograph.crop((x, y, x + side, y + side)).resize((size, size), Resampling.BICUBIC)
            crops.append((np.asarray(crop, np.float32) / np.float32(255)).transpose(2, 0, 1))
    return np.stack(crops)
