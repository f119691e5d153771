"""Load the photographs bundled with the package, on which the outputs of models are compared."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PHOTOGRAPH_FOLDER = Path(__file__).with_name("pictures")
PHOTOGRAPHS = ("astronaut.jpg", "chelsea.jpg", "coffee.jpg", "hubble_deep_field.jpg", "retina.jpg", "rocket.jpg")
"""Photographs in the public domain or under CC0; NOTICE lists their sources.

Their shorter side has at most 448 pixels.
"""


@lru_cache(4)
def photograph_crops(size: int) -> NDArray[np.float32]:
    """Return two center crops of each photograph: one of the full shorter side, one of half of it.

    The result is cached for the four most recent sizes, so callers must not modify it.

    Args:
        size: Width and height of the result in pixels.

    Returns:
        (2n, 3, size, size) float32 in [0, 1].
    """
    import numpy as np
    from PIL import Image
    from PIL.Image import Resampling

    crops = []
    for name in PHOTOGRAPHS:
        with Image.open(PHOTOGRAPH_FOLDER / name) as file:
            photograph = file.convert("RGB")
        for part in (1.0, 0.5):
            side = int(min(photograph.size) * part)
            x, y = ((length - side) // 2 for length in photograph.size)
            crop = photograph.crop((x, y, x + side, y + side)).resize((size, size), Resampling.BICUBIC)
            crops.append((np.asarray(crop, np.float32) / np.float32(255)).transpose(2, 0, 1))
    return np.stack(crops)
