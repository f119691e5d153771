"""Every family keeps these promises, whatever it does to an image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from stimuli import SAMPLES, Images, perturb, photographs

from bandlens.core.errors import ProbeError
from bandlens.probes import noise
from bandlens.probes.family import Batch
from bandlens.probes.grid import FAMILIES, PROBES, make_grid

CONDITIONS = {name: FAMILIES[name].conditions(SAMPLES[name]) for name in FAMILIES if name in SAMPLES}
RANDOM = [name for name, family in FAMILIES.items() if family.random]


@pytest.mark.parametrize("name", FAMILIES)
def test_at_most_two_buffers_are_held(name: str) -> None:
    """This holds for any number of conditions: a run has four buffers that go round."""
    pixels, buffer_count, peak = photographs(1), 0, 0
    batch = Batch(pixels, np.zeros(1, np.uint64), np.zeros(1, np.int64), 0)

    def buffer() -> Images:
        nonlocal buffer_count, peak
        buffer_count += 1
        peak = max(peak, buffer_count)
        return np.empty(pixels.shape, np.float32)

    for _ in FAMILIES[name].perturb(np, batch, CONDITIONS[name], buffer):
        buffer_count -= 1
    assert peak <= 2


def test_every_family_has_its_samples() -> None:
    assert list(SAMPLES) == list(FAMILIES), "SAMPLES of tests/support/stimuli.py has some conditions of each family"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_condition_comes_once_in_range(xp: ModuleType, name: str) -> None:
    pixels = photographs(4)
    images_by_condition = perturb(xp, CONDITIONS[name], pixels)
    assert set(images_by_condition) == set(CONDITIONS[name])
    for images in images_by_condition.values():
        assert images.dtype == np.float32
        assert images.shape == pixels.shape
        assert images.min() >= 0  # false for NaN, which the buffers hold at first
        assert images.max() <= 1


@pytest.mark.parametrize("name", FAMILIES)
@fuzz(3)
@given(data=st.data(), order=st.permutations(range(3)))
def test_an_image_does_not_depend_on_its_batch_nor_on_the_other_conditions(
    name: str, data: st.DataObject, order: list[int]
) -> None:
    pixels = photographs(3)
    conditions = data.draw(st.lists(st.sampled_from(CONDITIONS[name]), min_size=1, max_size=2, unique=True))
    images_by_condition = perturb(np, conditions, pixels[order], keys=order)
    for condition in conditions:
        single_images = [perturb(np, [condition], pixels[i : i + 1], keys=[i])[condition] for i in order]
        np.testing.assert_array_equal(images_by_condition[condition], np.concatenate(single_images))


@pytest.mark.parametrize("name", FAMILIES)
def test_seed_and_key_matter_where_a_family_is_random_and_nowhere_else(name: str) -> None:
    pixels, condition = np.repeat(photographs(1), 4, axis=0), CONDITIONS[name][-1]
    images, reseeded = (perturb(np, [condition], pixels, seed=seed)[condition] for seed in (1, 2))
    assert np.array_equal(images, reseeded) != (name in RANDOM)
    assert all(np.array_equal(images[0], image) for image in images) != (name in RANDOM)


@pytest.mark.parametrize(
    ("name", "table", "size", "message", "valid_size"),
    [
        ("pgd_linf", {"band": [0.1, 0.11]}, 64, "the band has no frequency of images of 64 pixels; widen it", 224),
        ("pgd_linf", {"band": [0.1, 0.11]}, 225, "pgd_linf needs an even number of pixels a side, not 225", 224),
        ("critical_band", {}, 126, "an even number of pixels a side, at least 128, not 126", 128),
        ("critical_band", {}, 225, "an even number of pixels a side, at least 128, not 225", 224),
        ("fourier", {"row": 17, "column": 0}, 33, "images of 33 pixels hold 16 cycles at most, not 17", 34),
        ("fourier_bin", {"octave": 4, "orientation": 0}, 60, "images of 60 pixels hold 30 cycles at most, not 31", 62),
        ("power_law_noise", {"exponent": 1, "noise_sd": 0.1}, 225, "needs an even number of pixels a side", 2),
        ("phase_scramble", {}, 225, "phase_scramble needs an even number of pixels a side, not 225", 2),
        ("phase_shift", {}, 225, "phase_shift needs an even number of pixels a side, not 225", 2),
        ("lowpass", {}, 33, "lowpass needs an even number of pixels a side, not 33", 2),
        ("octaves", {}, 15, "octaves needs 16 pixels a side or more, not 15", 16),
        ("bandstop", {"edges": [7, 28]}, 55, "edges=7 to 28: images of 55 pixels hold 27 cycles at most, not 28", 56),
        ("bandstop", {"edges": [1, 2]}, 8, "bandstop needs 16 pixels a side or more, not 8", 16),
        ("bilateral", {"d": 64, "sigma_color": 50}, 32, "32 pixels are smaller than the filter; take a smaller d", 33),
        ("patch_shuffle", {"grid": 6}, 224, "224 pixels are not 6 patches of equal size; take a grid of 2, 4, 7,", 96),
    ],
)
def test_sizes_that_a_condition_does_not_take_are_refused(
    name: str, table: Mapping[str, Any], size: int, message: str, valid_size: int
) -> None:
    family = PROBES[name]
    condition = family.conditions(table)[-1]
    with pytest.raises(ProbeError, match=message):
        family.check_size(condition, size)
    family.check_size(condition, valid_size)


def test_random_families_draw_independently_of_each_other() -> None:
    """Their draws differ: no two families turn the same words into their noise."""
    patterns = [noise.FOURIER, noise.UNIFORM, noise.PATCHES, noise.CHANNELS, noise.POWER_LAW]
    draws = [*patterns, noise.PHASES, noise.UNPAIRED_PHASES]
    keys = np.array([7], np.uint64)
    words = [noise.random_words(np, 1, keys, draw, 4000)[0].astype(np.float64) for draw in [0, *draws]]
    assert np.abs(np.corrcoef(words) - np.eye(len(words))).max() < 5 / np.sqrt(4000)


def test_the_published_conditions_of_a_source_need_no_parameters() -> None:
    published = {name for name in SAMPLES if all(parameter.published for parameter in FAMILIES[name].parameters)}
    grid = make_grid({name: {} for name in published}, Path())
    counts = {name: sum(condition.probe == name for condition in grid.conditions) for name in grid.families}
    filters = {"clean": 1, "lowpass": 11, "highpass": 11, "gaussian_lowpass": 8, "gaussian_highpass": 8}
    remainder = {"fourier_bin": 20, "patch_shuffle": 4, "grey_blend": 5, "channel_shuffle": 1, "phase_shift": 7}
    assert counts.items() >= (filters | remainder).items()
