"""Phases shifted at random, against NumPy's transform: as the published code shifts them, and as textbooks do."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from skimage.color import rgb2gray
from stimuli import perturb, photographs

from bandlens.probes.arrays import to_numpy
from bandlens.probes.phase import PHASE_SCRAMBLE, PHASE_SHIFT, opposite_shifts, unpaired_shifts

KEYS, SEED = [0, 1, 2**63, 5, 2**64 - 1], 8


def shifts_of_people(xp: ModuleType, seed: int, key: int, size: int) -> NDArray[np.float64]:
    """The shifts u of phase_scramble for one image."""
    return to_numpy(unpaired_shifts(xp, seed, xp.asarray([key], dtype=xp.uint64), size))[0].astype(np.float64)


def scramble_as_published(image: NDArray[np.float64], u: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """(size, size) in [0, 1]: the published procedure with given u in (-1, 1).

    The spectrum is shifted so that the mean lies in the middle. Its rows and columns from 1 on are an odd square, whose
    phases are read row by row: those before the middle move up by width u in degrees, those behind it move down by the
    same numbers in the same order.
    """
    spectrum = np.fft.fftshift(np.fft.fft2(image))
    phases = np.angle(spectrum)
    row_by_row = phases[1:, 1:].ravel()
    middle = row_by_row.size // 2
    steps = np.radians(width) * u
    row_by_row = np.concatenate(
        [row_by_row[:middle] + steps, row_by_row[middle : middle + 1], row_by_row[middle + 1 :] - steps]
    )
    phases[1:, 1:] = row_by_row.reshape(phases[1:, 1:].shape)
    inverse = np.fft.ifft2(np.fft.ifftshift(np.abs(spectrum) * np.exp(1j * phases)))
    return inverse.real.clip(0, 1)


@pytest.mark.parametrize("size", [224, 10, 2])
def test_scrambled_images_equal_the_published_procedure_with_the_same_shifts(xp: ModuleType, size: int) -> None:
    pixels = np.ascontiguousarray(photographs(5)[..., :size, :size])
    images_by_condition = perturb(xp, PHASE_SCRAMBLE.conditions({}), pixels, KEYS, SEED)
    assert [condition["width"] for condition in images_by_condition] == [0, 30, 60, 90, 120, 150, 180]
    for place, key in enumerate(KEYS):
        image, u = rgb2gray(pixels[place], channel_axis=0), shifts_of_people(xp, SEED, key, size)
        for condition, images in images_by_condition.items():
            expected = scramble_as_published(image, u, float(condition["width"]))
            for channel in images[place]:
                np.testing.assert_allclose(channel, expected, rtol=0, atol=1e-5, err_msg=str(condition))


def test_shifts_of_people_are_uniform_and_unrelated(xp: ModuleType) -> None:
    u = shifts_of_people(xp, 3, 2**60, 64)
    assert u.size == (63 * 63 - 1) // 2
    assert stats.kstest(u, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    for neighbours in (u[:-1], u[::-1][1:]):
        assert abs(np.corrcoef(u[1:], neighbours)[0, 1]) < 5 / np.sqrt(u.size)


def all_shifts(xp: ModuleType, seed: int, key: int, size: int) -> NDArray[np.float64]:
    """(size, size) shifts u of phase_shift for the whole spectrum, laid out as `fft2` has it."""
    half = to_numpy(opposite_shifts(xp, seed, xp.asarray([key], dtype=xp.uint64), size))[0].astype(np.float64)
    shifts = np.zeros((size, size))
    shifts[:, : size // 2 + 1] = half
    for row in range(size):
        for column in range(size // 2 + 1, size):
            shifts[row, column] = -half[-row % size, size - column]
    return shifts


def test_opposite_shifts_are_odd_and_leave_the_mean_and_the_highest_frequencies_alone(xp: ModuleType) -> None:
    shifts = np.fft.fftshift(all_shifts(xp, 3, 2**60, 64))
    interior = shifts[1:, 1:]
    np.testing.assert_array_equal(interior, -interior[::-1, ::-1])
    assert interior[31, 31] == 0
    assert (interior == 0).sum() == 1
    assert not shifts[0].any()
    assert not shifts[:, 0].any()
    draws = interior.ravel()[: interior.size // 2]
    assert stats.kstest(draws, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 5 / np.sqrt(draws.size)


def test_shifted_images_equal_numpys_transform_with_the_same_shifts(xp: ModuleType) -> None:
    pixels = photographs(5)
    images_by_condition = perturb(xp, PHASE_SHIFT.conditions({}), pixels, KEYS, SEED)
    assert [condition["width"] for condition in images_by_condition] == [0, 30, 60, 90, 120, 150, 180]
    for place, key in enumerate(KEYS):
        spectrum = np.fft.fft2(rgb2gray(pixels[place], channel_axis=0))
        shifts = all_shifts(xp, SEED, key, 224)
        for condition, images in images_by_condition.items():
            phases = np.angle(spectrum) + np.radians(float(condition["width"])) * shifts
            back = np.fft.ifft2(np.abs(spectrum) * np.exp(1j * phases))
            assert np.abs(back.imag).max() < 1e-10
            for channel in images[place]:
                np.testing.assert_allclose(channel, back.real.clip(0, 1), rtol=0, atol=3e-6, err_msg=str(condition))
