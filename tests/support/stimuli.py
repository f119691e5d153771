"""Images and runners that several probe tests use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandlens.core.records import Condition
from bandlens.export.reference_images import photograph_crops
from bandlens.probes.arrays import to_numpy
from bandlens.probes.family import Batch, Family
from bandlens.probes.grid import FAMILIES

Images = NDArray[np.float32]

SAMPLES: Mapping[str, Mapping[str, Any]] = {
    "clean": {},
    "lowpass": {},
    "highpass": {},
    "critical_band": {"draw": ["shared", "independent"]},
    "fourier": {"row": [0, 3], "column": [-5, 0, 112]},
    "fourier_bin": {"octave": [0, 5], "orientation": [0, 67.5]},
    "power_law_noise": {"exponent": [-1, 0, 2], "noise_sd": [0.05, 0.3]},
    "gaussian_lowpass": {},
    "gaussian_highpass": {},
    "contrast": {},
    "uniform_noise": {},
    "phase_scramble": {},
    "phase_shift": {},
    "patch_shuffle": {},
    "bilateral": {"d": [4, 9], "sigma_color": [50, 200]},
    "grey_blend": {},
    "channel_shuffle": {},
    "octaves": {"keep": ["none", "3", "024", "0123456"]},
    "bandpass": {"edges": [[0, 7], [14, 112]]},
    "bandstop": {"edges": [[0, 7], [14, 28]]},
}
"""Conditions of every family: the published ones, or some."""


def photographs(count: int) -> NDArray[np.uint8]:
    """(count, 3, 224, 224) uint8: crops of real photographs, then pure noise and the extremes, which clip the most.

    One or two are photographs alone.
    """
    noise = np.random.default_rng(0).integers(0, 256, (3, 224, 224))
    extremes = [noise, np.zeros((3, 224, 224)), np.full((3, 224, 224), 255)] if count > 2 else []
    crops = np.round(photograph_crops(224)[: count - len(extremes)] * 255)
    return np.stack([*crops, *extremes]).astype(np.uint8, order="C")


def perturb(
    xp: ModuleType,
    conditions: Sequence[Condition],
    pixels: NDArray[np.uint8],
    keys: Sequence[int] | None = None,
    seed: int = 3,
) -> dict[Condition, Images]:
    """The images that the families of one group make, by condition, as NumPy arrays.

    The images' keys are 0, 1, 2 … unless others are given.
    """
    families = {family(condition).perturb for condition in conditions}
    assert len(families) == 1
    positions = np.arange(len(pixels))
    batch = Batch(xp.asarray(pixels), xp.asarray(positions if keys is None else keys, dtype=xp.uint64), positions, seed)
    images_by_condition = {}
    for condition, images in families.pop()(xp, batch, conditions, lambda: xp.full(pixels.shape, xp.nan, xp.float32)):
        assert condition not in images_by_condition
        images_by_condition[condition] = to_numpy(images).copy()
    return images_by_condition


def family(condition: Condition) -> Family:
    return FAMILIES[condition.probe]
