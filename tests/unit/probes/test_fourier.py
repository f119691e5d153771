"""Fourier basis noise against rai-toolbox's bases and NumPy's transform."""

from __future__ import annotations

from types import ModuleType
from weakref import finalize

import numpy as np
import pytest
from rai_toolbox.augmentations.fourier import generate_fourier_bases
from scipy.stats import chi2_contingency, chisquare
from stimuli import Images, perturb, photographs

from bandlens.core.errors import ProbeError
from bandlens.core.records import Condition
from bandlens.probes.arrays import to_numpy
from bandlens.probes.family import Batch
from bandlens.probes.fourier import FOURIER_BASIS, FOURIER_BIN, NORM, POWER_LAW_NOISE, signs, unit_noise, wave, waves_of
from bandlens.probes.noise import POWER_LAW, unit_normal_fields


def frequency(condition: Condition) -> tuple[int, int]:
    return int(condition["row"]), int(condition["column"])


def test_the_published_map_is_half_of_63_by_63_frequencies() -> None:
    frequencies = [frequency(condition) for condition in FOURIER_BASIS.conditions({})]
    assert len(frequencies) == len(set(frequencies)) == 1985
    assert {*frequencies, *((-row, -column) for row, column in frequencies)} == {
        (i, j) for i in range(-31, 32) for j in range(-31, 32)
    }
    assert not {(-row, -column) for row, column in frequencies} & (set(frequencies) - {(0, 0)})


def test_a_whole_map_holds_two_images_and_not_1985() -> None:
    """They are the image that was yielded and the next one: a run lets go of each image as it asks for another."""
    alive, most = set[int](), 0

    def buffer() -> Images:
        nonlocal most
        made = np.empty((1, 3, 64, 64), np.float32)
        alive.add(id(made))
        finalize(made, alive.discard, id(made))
        most = max(most, len(alive))
        return made

    batch = Batch(photographs(1)[..., :64, :64], np.zeros(1, np.uint64), np.zeros(1, np.int64), 0)
    count = sum(1 for _ in FOURIER_BASIS.perturb(np, batch, FOURIER_BASIS.conditions({}), buffer))
    assert (count, most) == (1985, 2)


@pytest.mark.parametrize("size", [32, 224])
def test_waves_are_rai_toolboxs(xp: ModuleType, size: int) -> None:
    half = size // 2
    places = [(0, 0), (0, 1), (1, 0), (3, -5), (31, 12), (half, 0), (half, half), (half - 1, 1 - half), (7, half)]
    for row, column in places:
        places_there = [((row + half) % size, (column + half) % size)]
        (basis,) = generate_fourier_bases(size, size, np.float64, row_col_coords=places_there)
        np.testing.assert_allclose(to_numpy(wave(xp, size, row, column)), basis.basis, rtol=0, atol=1e-8)


@pytest.mark.parametrize("size", [33, 64])
def test_a_wave_has_norm_1_and_one_frequency(xp: ModuleType, size: int) -> None:
    for row, column in [(0, 0), (2, -3), (0, size // 2), (size // 2, size // 2)]:
        made = to_numpy(wave(xp, size, row, column)).astype(np.float64)
        np.testing.assert_allclose(np.linalg.norm(made), 1, atol=1e-6)
        spectrum = np.abs(np.fft.fft2(made))
        peaks = {tuple(place) for place in np.argwhere(spectrum > 1e-3).tolist()}
        assert peaks == {(row % size, column % size), (-row % size, -column % size)}


def test_images_get_the_wave_with_a_sign_for_each_channel(xp: ModuleType) -> None:
    pixels, keys, seed = photographs(5), [3, 2**40, 2**63, 2**64 - 1, 0], 12
    conditions = FOURIER_BASIS.conditions({"row": [0, 4, 30], "column": [-17, 0, 2]})
    sign = to_numpy(signs(np, seed, np.array(keys, np.uint64)))
    for condition, images in perturb(xp, conditions, pixels, keys, seed).items():
        row, column = frequency(condition)
        place = [(row + 112, column + 112)]
        (basis,) = generate_fourier_bases(224, 224, np.float64, row_col_coords=place)
        expected = np.clip(pixels / 255 + NORM * sign * basis.basis, 0, 1)
        np.testing.assert_allclose(images, expected, rtol=0, atol=5e-7, err_msg=str(condition))


def test_the_published_norm_is_an_rms_of_7_percent() -> None:
    grey = np.full((1, 3, 224, 224), 128, np.uint8)  # nothing is clipped
    (images,) = perturb(np, FOURIER_BASIS.conditions({"row": 3, "column": 8}), grey).values()
    np.testing.assert_allclose((images - 128 / 255).std(axis=(2, 3)), 0.0701, atol=1e-4)


def test_signs_are_fair_and_independent() -> None:
    draws = signs(np, 5, np.arange(4000, dtype=np.uint64)).reshape(4000, 3)
    assert set(draws.ravel()) == {-1.0, 1.0}
    assert np.abs(draws.mean(axis=0)).max() < 4 / np.sqrt(4000)
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 4 / np.sqrt(4000)


def test_a_frequency_that_the_images_do_not_hold_is_named() -> None:
    (condition,) = FOURIER_BASIS.conditions({"row": 17, "column": 0})
    with pytest.raises(ProbeError, match="images of 32 pixels hold 16 cycles at most, not 17"):
        FOURIER_BASIS.check_size(condition, 32)
    FOURIER_BASIS.check_size(condition, 34)


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
    keys, seed = np.arange(3000, dtype=np.uint64), 5
    grey = np.full((len(keys), 3, 16, 16), 128, np.uint8)
    [condition] = FOURIER_BIN.conditions({"octave": 1, "orientation": 45, "norm": 1})
    noise = perturb(np, [condition], grey, keys.tolist(), seed)[condition][:, 0] - np.float32(128 / 255)
    waves = np.stack([to_numpy(wave(np, 16, row, column)) for row, column in waves_of(1, 45).tolist()])
    share = np.einsum("nij,kij->nk", noise, waves)  # waves of a bin are orthogonal
    drawn, sign = np.abs(share).argmax(axis=1), np.sign(share).sum(axis=1, where=np.abs(share) > 0.5)
    np.testing.assert_array_equal(sign, signs(np, seed, keys)[:, 0, 0, 0])
    table = np.array([np.bincount(drawn[sign == direction], minlength=5) for direction in (-1, 1)])
    assert chi2_contingency(table).pvalue > 1e-3
    assert chisquare(table.sum(axis=0)).pvalue > 1e-3


@pytest.mark.parametrize("orientation", [0, 22.5, 67.5, 180])
def test_no_bin_is_empty_and_180_degrees_are_none(orientation: float) -> None:
    [condition] = FOURIER_BIN.conditions({"octave": 0, "orientation": orientation})
    assert len(waves_of(0, float(condition["orientation"]))) == 1
    assert condition["orientation"] == orientation % 180


def test_an_octave_that_the_images_do_not_hold_is_named() -> None:
    [condition] = FOURIER_BIN.conditions({"octave": 4, "orientation": 0})
    with pytest.raises(ProbeError, match="images of 60 pixels hold 30 cycles at most, not 31"):
        FOURIER_BIN.check_size(condition, 60)
    FOURIER_BIN.check_size(condition, 62)


@pytest.mark.parametrize("exponent", [-4, -1, 0, 0.5, 2, 4])
def test_noise_equals_the_definition_in_double_precision(xp: ModuleType, exponent: float) -> None:
    white = unit_normal_fields(xp, 3, xp.asarray([1, 2**63], dtype=xp.uint64), POWER_LAW, 224)
    made = to_numpy(unit_noise(xp, white, exponent))
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(224, 1 / 224), np.fft.fftfreq(224, 1 / 224), indexing="ij"))
    f[0, 0] = 1
    gain = f ** (-exponent / 2)
    gain[0, 0] = 0
    for field, noise in zip(to_numpy(white).astype(np.float64), made, strict=True):
        back = np.fft.ifft2(np.fft.fft2(field) * gain)
        assert np.abs(back.imag).max() < 1e-10 * np.abs(back.real).max()
        expected = back.real / np.sqrt(np.mean(back.real**2))
        np.testing.assert_allclose(noise, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("exponent", [-1, 0, 1, 2])
def test_power_falls_with_the_exponent(exponent: float) -> None:
    """A line through the logarithms of power and frequency; the periodogram's scatter is that of an exponential."""
    white = unit_normal_fields(np, 9, np.arange(4, dtype=np.uint64), POWER_LAW, 224)
    power = np.abs(np.fft.fft2(unit_noise(np, white, exponent).astype(np.float64))) ** 2
    f = np.hypot(np.fft.fftfreq(224, 1 / 224)[:, None], np.fft.fftfreq(224, 1 / 224))
    inside = (f >= 4) & (f <= 100)
    slopes = [np.polyfit(np.log(f[inside]), np.log(spectrum[inside]), 1)[0] for spectrum in power]
    np.testing.assert_allclose(slopes, -exponent, atol=0.06)


def test_what_is_added_has_its_rms_in_all_channels(xp: ModuleType) -> None:
    grey = np.full((2, 3, 224, 224), 128, np.uint8)
    conditions = POWER_LAW_NOISE.conditions({"exponent": [0, 1], "noise_sd": [0, 0.02, 0.05]})
    made = perturb(xp, conditions, grey)
    for condition, images in made.items():
        added = images.astype(np.float64) - 128 / 255
        np.testing.assert_allclose(np.sqrt(np.mean(added**2, axis=(2, 3))), condition["noise_sd"], atol=1e-6)
        np.testing.assert_array_equal(added[:, 1:], added[:, :2])
    weak, strong = (made[c] - 128 / 255 for c in conditions[1:3])
    np.testing.assert_allclose(2.5 * weak, strong, atol=1e-6)


def test_clipped_where_it_leaves_the_range(xp: ModuleType) -> None:
    pixels = photographs(4)
    still, noisy = perturb(xp, POWER_LAW_NOISE.conditions({"exponent": 2, "noise_sd": [0, 0.4]}), pixels).values()
    np.testing.assert_allclose(still, pixels / 255, atol=1e-7)
    assert noisy.min() == 0
    assert noisy.max() == 1


def test_an_odd_size_is_refused() -> None:
    (condition,) = POWER_LAW_NOISE.conditions({"exponent": 1, "noise_sd": 0.1})
    with pytest.raises(ProbeError, match="power_law_noise needs an even number of pixels a side, not 225"):
        POWER_LAW_NOISE.check_size(condition, 225)
