"""Masks of octaves and bands against their formula, by torch's Fourier transform in double precision."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stimuli import perturb, photographs

from bandlens.core.records import Condition
from bandlens.probes.family import Family
from bandlens.probes.octaves import BANDPASS, BANDSTOP, OCTAVE_MASK

GRID = OCTAVE_MASK.conditions({})


def ring_filter(pixels: NDArray[np.uint8], passes: torch.Tensor) -> NDArray[np.float64]:
    """The images without the rings, by max(|u|, |v|), that `passes` (h + 1,) is false for; clipped."""
    size = pixels.shape[-1]
    frequency = (torch.fft.fftfreq(size, dtype=torch.float64) * size).round().abs().long()
    ring = torch.maximum(frequency[:, None], frequency[None, :])
    spectrum = torch.fft.fft2(torch.from_numpy(pixels).double() / 255)
    return torch.fft.ifft2(spectrum * passes[ring]).real.clip(0, 1).numpy()


def rings_kept(condition: Condition, size: int) -> torch.Tensor:
    """(h + 1,): whether a mask keeps each ring, by the definition: octave k is (h // 2^(7 - k), h // 2^(6 - k)]."""
    half = size // 2
    passes = torch.zeros(half + 1, dtype=torch.float64)
    passes[0] = 1
    for octave in range(7):
        if str(octave) in str(condition["keep"]):
            passes[1 if octave == 0 else half // 2 ** (7 - octave) + 1 : half // 2 ** (6 - octave) + 1] = 1
    return passes


def test_the_published_masks_and_the_image_itself_are_all_sets_of_seven_octaves() -> None:
    masks = [str(condition["keep"]) for condition in GRID]
    assert len(masks) == len({*masks}) == 127
    assert "0123456" not in masks
    assert OCTAVE_MASK.conditions({"keep": "6310"}) == OCTAVE_MASK.conditions({"keep": ["0136"]})


@pytest.mark.parametrize("size", [224, 33, 16])
def test_all_masks_equal_the_formula_to_a_millionth(xp: ModuleType, size: int) -> None:
    pixels = np.ascontiguousarray(photographs(4)[..., :size, :size])
    conditions = GRID + OCTAVE_MASK.conditions({"keep": "0123456"})
    for condition, images in perturb(xp, conditions[:: 1 if size < 224 else 16], pixels).items():
        expected = ring_filter(pixels, rings_kept(condition, size))
        np.testing.assert_allclose(images, expected, rtol=0, atol=1e-6, err_msg=str(condition))


@pytest.mark.parametrize("family", [BANDPASS, BANDSTOP], ids=lambda family: family.name)
def test_bands_of_any_edges_equal_the_formula(xp: ModuleType, family: Family) -> None:
    pixels = np.ascontiguousarray(photographs(4)[..., :33, :33])
    bands = [(0, 1), (2, 5), (5, 16), (0, 16), (15, 16)]
    conditions = family.conditions({"edges": [list(band) for band in bands]})
    images = perturb(xp, conditions, pixels)
    for condition, (low, high) in zip(conditions, bands, strict=True):
        inside = torch.zeros(17, dtype=torch.float64)
        inside[low + 1 : high + 1] = 1
        passes = 1 - inside if family is BANDSTOP else inside.index_fill(0, torch.tensor([0]), 1.0)
        np.testing.assert_allclose(images[condition], ring_filter(pixels, passes), rtol=0, atol=1e-6)
