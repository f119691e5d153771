"""Masks of octaves and bands against their formula, by torch's Fourier transform in double precision."""

from __future__ import annotations

from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stimuli import perturb, photographs

from bandlens.core.errors import ProbeError, UsageError
from bandlens.core.protocol import octave_edges
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


def test_the_edges_are_those_of_the_definition() -> None:
    assert octave_edges(224) == [0, 1, 3, 7, 14, 28, 56, 112]
    assert octave_edges(300) == [0, 2, 4, 9, 18, 37, 75, 150]
    assert octave_edges(32) == [0, 0, 0, 1, 2, 4, 8, 16]


@pytest.mark.parametrize("size", [224, 33, 16])
def test_all_masks_equal_the_formula_to_a_millionth(xp: ModuleType, size: int) -> None:
    pixels = np.ascontiguousarray(photographs(4)[..., :size, :size])
    conditions = GRID + OCTAVE_MASK.conditions({"keep": "0123456"})
    made = perturb(xp, conditions[:: 1 if size < 224 else 5], pixels)
    for condition, images in made.items():
        expected = ring_filter(pixels, rings_kept(condition, size))
        np.testing.assert_allclose(images, expected, rtol=0, atol=1e-6, err_msg=str(condition))


def test_all_octaves_are_the_image_and_none_is_its_mean(xp: ModuleType) -> None:
    pixels = photographs(3)
    everything, nothing = OCTAVE_MASK.conditions({"keep": ["0123456", "none"]})
    made = perturb(xp, [everything, nothing], pixels)
    np.testing.assert_allclose(made[everything], pixels / 255, rtol=0, atol=1e-6)
    mean = np.broadcast_to((pixels / 255).mean(axis=(2, 3), keepdims=True), pixels.shape)
    np.testing.assert_allclose(made[nothing], mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", [BANDPASS, BANDSTOP], ids=lambda family: family.name)
@pytest.mark.parametrize("size", [224, 33])
def test_bands_of_any_edges_equal_the_formula(xp: ModuleType, family: Family, size: int) -> None:
    pixels = np.ascontiguousarray(photographs(3)[..., :size, :size])
    bands = [(0, 1), (2, 5), (5, 16), (0, size // 2), (size // 2 - 1, size // 2)]
    conditions = family.conditions({"edges": [list(band) for band in bands]})
    made = perturb(xp, conditions, pixels)
    for condition, (low, high) in zip(conditions, bands, strict=True):
        inside = torch.zeros(size // 2 + 1, dtype=torch.float64)
        inside[low + 1 : high + 1] = 1
        passes = 1 - inside if family is BANDSTOP else inside.index_fill(0, torch.tensor([0]), 1.0)
        np.testing.assert_allclose(made[condition], ring_filter(pixels, passes), rtol=0, atol=1e-6)


def test_a_band_between_the_edges_of_an_octave_is_the_octave(xp: ModuleType) -> None:
    pixels = photographs(2)
    bands = [list(band) for band in pairwise(octave_edges(224))]
    octaves = perturb(xp, OCTAVE_MASK.conditions({"keep": list("0123456")}), pixels)
    passed = perturb(xp, BANDPASS.conditions({"edges": bands}), pixels)
    for octave, band in zip(octaves.values(), passed.values(), strict=True):
        np.testing.assert_allclose(octave, band, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mask", ["7", "00", "", "0,1", 3, True, "all"])
def test_a_mask_that_is_no_mask_is_refused_in_a_line(mask: object) -> None:
    with pytest.raises(UsageError, match=r'probe octaves: keep must be the digits of the octaves .* such as "0123"'):
        OCTAVE_MASK.conditions({"keep": mask})


@pytest.mark.parametrize("edges", [[7, 3], [3, 3], [-1, 3], [0.5, 3], [3], "3", [[3, 7], [9, 8]], True])
def test_edges_upside_down_or_equal_are_refused_in_a_line(edges: object) -> None:
    with pytest.raises(UsageError, match=r"probe bandpass: edges must be \[low, high\] in whole cycles per image"):
        BANDPASS.conditions({"edges": edges})


def test_images_too_small_for_octaves_or_for_a_band_are_refused() -> None:
    OCTAVE_MASK.check_size(GRID[0], 16)
    with pytest.raises(ProbeError, match="octaves needs 16 pixels a side or more, not 15"):
        OCTAVE_MASK.check_size(GRID[0], 15)
    band = BANDSTOP.conditions({"edges": [7, 28]})[0]
    BANDSTOP.check_size(band, 56)
    with pytest.raises(ProbeError, match="bandstop edges=7 to 28: images of 55 pixels hold 27 cycles at most, not 28"):
        BANDSTOP.check_size(band, 55)
    with pytest.raises(ProbeError, match="bandstop needs 16 pixels a side or more, not 8"):
        BANDSTOP.check_size(band, 8)
