"""Every family keeps these promises, whatever it does to an image."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stimuli import SAMPLES, Images, perturb, photographs

from bandlens.probes import noise
from bandlens.probes.family import Batch
from bandlens.probes.grid import FAMILIES, make_grid

CONDITIONS = {name: FAMILIES[name].conditions(SAMPLES[name]) for name in FAMILIES if name in SAMPLES}
RANDOM = [name for name, family in FAMILIES.items() if family.random]


@pytest.mark.parametrize("name", FAMILIES)
def test_at_most_two_buffers_are_held(name: str) -> None:
    """This holds for any number of conditions: a run has four buffers that go round."""
    pixels, held, most = photographs(1), 0, 0
    batch = Batch(pixels, np.zeros(1, np.uint64), np.zeros(1, np.int64), 0)

    def buffer() -> Images:
        nonlocal held, most
        held += 1
        most = max(most, held)
        return np.empty(pixels.shape, np.float32)

    for _ in FAMILIES[name].perturb(np, batch, CONDITIONS[name], buffer):
        held -= 1
    assert most <= 2


def test_every_family_has_its_samples() -> None:
    assert list(SAMPLES) == list(FAMILIES), "SAMPLES of tests/support/stimuli.py has some conditions of each family"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_condition_comes_once_in_range(xp: ModuleType, name: str) -> None:
    pixels = photographs(4)
    made = perturb(xp, CONDITIONS[name], pixels)
    assert set(made) == set(CONDITIONS[name])
    for images in made.values():
        assert images.dtype == np.float32
        assert images.shape == pixels.shape
        assert images.min() >= 0  # false for NaN, which the buffers hold at first
        assert images.max() <= 1


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=3, deadline=None)
@given(data=st.data(), order=st.permutations(range(3)))
def test_an_image_does_not_depend_on_its_batch_nor_on_the_other_conditions(
    name: str, data: st.DataObject, order: list[int]
) -> None:
    pixels = photographs(3)
    chosen = data.draw(st.lists(st.sampled_from(CONDITIONS[name]), min_size=1, max_size=2, unique=True))
    together = perturb(np, chosen, pixels[order], keys=order)
    for condition in chosen:
        alone = [perturb(np, [condition], pixels[i : i + 1], keys=[i])[condition] for i in order]
        np.testing.assert_array_equal(together[condition], np.concatenate(alone))


@pytest.mark.parametrize("name", FAMILIES)
def test_seed_and_key_matter_where_a_family_is_random_and_nowhere_else(name: str) -> None:
    pixels, condition = np.repeat(photographs(1), 8, axis=0), CONDITIONS[name][-1]
    first, again, reseeded = (perturb(np, [condition], pixels, seed=seed)[condition] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, reseeded) != (name in RANDOM)
    assert all(np.array_equal(first[0], image) for image in first) != (name in RANDOM)


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
    noise_alone = {"critical_band": 29, "fourier": 1985, "fourier_bin": 20, "uniform_noise": 8}
    phases = {"phase_scramble": 7, "phase_shift": 7}
    remainder = {"contrast": 8, "patch_shuffle": 4, "grey_blend": 5, "channel_shuffle": 1, "octaves": 127}
    assert counts.items() >= (filters | noise_alone | phases | remainder).items()
