"""Images and runners that several probe tests use."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from bandlens.export.photographs import photograph_crops
from bandlens.probes.arrays import to_numpy
from bandlens.probes.family import Batch, Family
from bandlens.probes.grid import FAMILIES
from bandlens.records import Condition

Images = NDArray[np.float32]


def photographs(count: int) -> NDArray[np.uint8]:
    """(count, 3, 224, 224) uint8: crops of real photographs, then pure noise and the extremes, which clip the most."""
    rng = np.random.default_rng(0)
    odd = np.stack([rng.integers(0, 256, (3, 224, 224)), np.zeros((3, 224, 224)), np.full((3, 224, 224), 255)])
    real = np.round(photograph_crops(224) * 255)
    return np.concatenate([real[: count - len(odd)], odd]).astype(np.uint8)[:count]


def perturb(
    xp: ModuleType,
    conditions: Sequence[Condition],
    pixels: NDArray[np.uint8],
    keys: Sequence[int] | None = None,
    seed: int = 3,
) -> dict[Condition, Images]:
    """What the families of one group make of the images, by condition, as NumPy arrays.

    The images' keys are 0, 1, 2 … unless others are given.
    """
    families = {family(condition).perturb for condition in conditions}
    assert len(families) == 1
    positions = np.arange(len(pixels))
    batch = Batch(xp.asarray(pixels), xp.asarray(positions if keys is None else keys, dtype=xp.uint64), positions, seed)
    made = {}
    for condition, images in families.pop()(xp, batch, conditions, lambda: xp.full(pixels.shape, xp.nan, xp.float32)):
        assert condition not in made
        made[condition] = to_numpy(images).copy()
    return made


def family(condition: Condition) -> Family:
    return FAMILIES[condition.probe]
