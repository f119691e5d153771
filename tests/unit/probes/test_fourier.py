"""Fourier basis noise against rai-toolbox's bases and NumPy's transform."""

from __future__ import annotations

import warnings
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare
from stimuli import perturb, photographs

from bandlens.core.records import Condition
from bandlens.probes.arrays import to_numpy
from bandlens.probes.fourier import FOURIER_BASIS, FOURIER_BIN, NORM, POWER_LAW_NOISE, signs, unit_noise, wave, waves_of
from bandlens.probes.noise import POWER_LAW, unit_normal_fields


def frequency(condition: Condition) -> tuple[int, int]:
    return int(condition["row"]), int(condition["column"])


def basis_of(size: int, row: int, column: int) -> np.ndarray:
    """The wave of rai-toolbox, whose import takes a second, and warns of its escapes from Python 3.12 on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        from rai_toolbox.augmentations.fourier import generate_fourier_bases

    place = ((row + size // 2) % size, (column + size // 2) % size)
    (basis,) = generate_fourier_bases(size, size, np.float64, row_col_coords=[place])
    return basis.basis


def test_the_published_map_is_half_of_63_by_63_frequencies() -> None:
    frequencies = [frequency(condition) for condition in FOURIER_BASIS.conditions({})]
    assert len(frequencies) == len(set(frequencies)) == 1985
    assert {*frequencies, *((-row, -column) for row, column in frequencies)} == {
        (i, j) for i in range(-31, 32) for j in range(-31, 32)
    }
    assert not {(-row, -column) for row, column in frequencies} & (set(frequencies) - {(0, 0)})


def test_waves_are_rai_toolboxs(xp: ModuleType) -> None:
    for row, column in [(0, 0), (0, 1), (1, 0), (3, -5), (16, 0), (16, 16), (15, -15), (7, 16)]:
        np.testing.assert_allclose(to_numpy(wave(xp, 32, row, column)), basis_of(32, row, column), rtol=0, atol=1e-8)


def test_a_wave_of_an_odd_size_has_norm_1_and_one_frequency(xp: ModuleType) -> None:
    for row, column in [(0, 0), (2, -3), (0, 16), (16, 16)]:
        values = to_numpy(wave(xp, 33, row, column)).astype(np.float64)
        np.testing.assert_allclose(np.linalg.norm(values), 1, atol=1e-6)
        peaks = {tuple(place) for place in np.argwhere(np.abs(np.fft.fft2(values)) > 1e-3).tolist()}
        assert peaks == {(row % 33, column % 33), (-row % 33, -column % 33)}


def test_images_get_the_wave_with_a_sign_for_each_channel(xp: ModuleType) -> None:
    pixels, keys, seed = photographs(5), [3, 2**40, 2**63, 2**64 - 1, 0], 12
    conditions = FOURIER_BASIS.conditions({"row": [0, 4, 30], "column": [-17, 0, 2]})
    sign = to_numpy(signs(np, seed, np.array(keys, np.uint64)))
    for condition, images in perturb(xp, conditions, pixels, keys, seed).items():
        row, column = frequency(condition)
        expected = np.clip(pixels / 255 + NORM * sign * basis_of(224, row, column), 0, 1)
        np.testing.assert_allclose(images, expected, rtol=0, atol=5e-7, err_msg=str(condition))


def test_signs_are_fair_and_independent() -> None:
    draws = signs(np, 5, np.arange(1000, dtype=np.uint64)).reshape(1000, 3)
    assert set(draws.ravel()) == {-1.0, 1.0}
    assert np.abs(draws.mean(axis=0)).max() < 4 / np.sqrt(1000)
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 4 / np.sqrt(1000)


def test_the_bins_divide_the_waves_of_their_octaves() -> None:
    members = [
        (octave, orientation, row, column)
        for octave in range(5)
        for orientation in (0, 45, 90, 135)
        for row, column in waves_of(octave, orientation).tolist()
    ]
    expected = {frequency(condition) for condition in FOURIER_BASIS.conditions({})}
    assert len(members) == 1602
    assert {(row, column) for *_, row, column in members} == {(i, j) for i, j in expected if 1 <= np.hypot(i, j) < 32}
    assert {(0, 0, 0, 1), (0, 45, 1, 1), (0, 90, 1, 0), (0, 135, 1, -1)} <= set(members)
    assert {(3, 135, 5, -12), (3, 0, 5, -13), (4, 90, 31, 0), (4, 0, 0, 16)} <= set(members)


def test_a_bin_adds_one_of_its_waves_to_each_image(xp: ModuleType) -> None:
    """The transform of the image tells which wave it is; the map's condition of this wave is the same image."""
    grey, keys = np.full((6, 3, 64, 64), 128, np.uint8), [3, 2**40, 2**63, 2**64 - 1, 0, 1]
    for condition, images in perturb(xp, FOURIER_BIN.conditions({"norm": 4}), grey, keys).items():
        for k, image in enumerate(images):
            power = np.abs(np.fft.fft2(image[0] - image[0].mean()))
            row, column = (int(at) if at < 32 else int(at) - 64 for at in np.unravel_index(power.argmax(), power.shape))
            assert 2 ** int(condition["octave"]) <= np.hypot(row, column) < 2 ** (int(condition["octave"]) + 1)
            away = (np.degrees(np.arctan2(row, column)) - float(condition["orientation"])) % 180
            assert min(away, 180 - away) < 22.5
            [expected] = perturb(
                xp, FOURIER_BASIS.conditions({"row": row, "column": column, "norm": 4}), grey, keys
            ).values()
            np.testing.assert_allclose(image, expected[k], rtol=0, atol=1e-7)


def test_the_waves_of_a_bin_are_equally_likely_whatever_the_signs() -> None:
    keys, seed = np.arange(800, dtype=np.uint64), 5
    grey = np.full((len(keys), 3, 16, 16), 128, np.uint8)
    [condition] = FOURIER_BIN.conditions({"octave": 1, "orientation": 45, "norm": 1})
    noise = perturb(np, [condition], grey, keys.tolist(), seed)[condition][:, 0] - np.float32(128 / 255)
    waves = np.stack([to_numpy(wave(np, 16, row, column)) for row, column in waves_of(1, 45).tolist()])
    share = np.einsum("nij,kij->nk", noise, waves)  # waves of a bin are orthogonal
    choices, sign = np.abs(share).argmax(axis=1), np.sign(share).sum(axis=1, where=np.abs(share) > 0.5)
    np.testing.assert_array_equal(sign, signs(np, seed, keys)[:, 0, 0, 0])
    table = np.array([np.bincount(choices[sign == direction], minlength=5) for direction in (-1, 1)])
    assert chi2_contingency(table).pvalue > 1e-3
    assert chisquare(table.sum(axis=0)).pvalue > 1e-3


@pytest.mark.parametrize("orientation", [0, 22.5, 67.5, 180])
def test_no_bin_is_empty_and_180_degrees_are_none(orientation: float) -> None:
    [condition] = FOURIER_BIN.conditions({"octave": 0, "orientation": orientation})
    assert len(waves_of(0, float(condition["orientation"]))) == 1
    assert condition["orientation"] == orientation % 180


@pytest.mark.parametrize("exponent", [-4, 0.5, 2])
def test_noise_equals_the_definition_in_double_precision(xp: ModuleType, exponent: float) -> None:
    white = unit_normal_fields(xp, 3, xp.asarray([1, 2**63], dtype=xp.uint64), POWER_LAW, 224)
    fields = to_numpy(unit_noise(xp, white, exponent))
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(224, 1 / 224), np.fft.fftfreq(224, 1 / 224), indexing="ij"))
    f[0, 0] = 1
    gain = f ** (-exponent / 2)
    gain[0, 0] = 0
    for field, noise in zip(to_numpy(white).astype(np.float64), fields, strict=True):
        back = np.fft.ifft2(np.fft.fft2(field) * gain)
        assert np.abs(back.imag).max() < 1e-10 * np.abs(back.real).max()
        expected = back.real / np.sqrt(np.mean(back.real**2))
        np.testing.assert_allclose(noise, expected, rtol=0, atol=2e-5)


def test_what_is_added_has_its_rms_in_all_channels(xp: ModuleType) -> None:
    grey = np.full((2, 3, 224, 224), 128, np.uint8)
    conditions = POWER_LAW_NOISE.conditions({"exponent": [0, 1], "noise_sd": [0, 0.02, 0.05]})
    images_by_condition = perturb(xp, conditions, grey)
    for condition, images in images_by_condition.items():
        noise = images.astype(np.float64) - 128 / 255
        np.testing.assert_allclose(np.sqrt(np.mean(noise**2, axis=(2, 3))), condition["noise_sd"], atol=1e-6)
        np.testing.assert_array_equal(noise[:, 1:], noise[:, :2])
    weak, strong = (images_by_condition[condition] - 128 / 255 for condition in conditions[1:3])
    np.testing.assert_allclose(2.5 * weak, strong, atol=1e-6)
