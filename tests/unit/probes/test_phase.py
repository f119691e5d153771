"""Phase scrambling against NumPy's transform: amplitudes stay, phases move by what was drawn, pictures stay real."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from skimage.color import rgb2gray
from stimuli import perturb, photographs

from bandlens.errors import ProbeError
from bandlens.probes.arrays import to_numpy
from bandlens.probes.phase import PHASE_SCRAMBLE, unit_shifts


def all_shifts(xp: ModuleType, seed: int, key: int, size: int) -> NDArray[np.float64]:
    """(size, size) for the whole spectrum, laid out as `fft2` has it."""
    half = to_numpy(unit_shifts(xp, seed, xp.asarray([key], dtype=xp.uint64), size))[0].astype(np.float64)
    whole = np.zeros((size, size))
    whole[:, : size // 2 + 1] = half
    for row in range(size):
        for column in range(size // 2 + 1, size):
            whole[row, column] = -half[-row % size, size - column]
    return whole


def test_shifts_are_odd_and_leave_the_mean_and_the_highest_frequencies_alone(xp: ModuleType) -> None:
    shifts = np.fft.fftshift(all_shifts(xp, 3, 2**60, 64))
    moved = shifts[1:, 1:]  # rows and columns 1 on, as the published code has it
    np.testing.assert_array_equal(moved, -moved[::-1, ::-1])
    assert moved[31, 31] == 0
    assert (moved == 0).sum() == 1
    assert not shifts[0].any()
    assert not shifts[:, 0].any()
    drawn = moved.ravel()[: moved.size // 2]
    assert stats.kstest(drawn, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 5 / np.sqrt(drawn.size)


def test_images_equal_numpys_transform_with_the_same_shifts(xp: ModuleType) -> None:
    pixels, keys, seed = photographs(5), [0, 1, 2**63, 5, 2**64 - 1], 8
    made = perturb(xp, PHASE_SCRAMBLE.conditions({}), pixels, keys, seed)
    assert [c["width"] for c in made] == [0, 30, 60, 90, 120, 150, 180]
    for place, key in enumerate(keys):
        spectrum = np.fft.fft2(rgb2gray(pixels[place], channel_axis=0))
        shifts = all_shifts(xp, seed, key, 224)
        for condition, images in made.items():
            phases = np.angle(spectrum) + np.radians(float(condition["width"])) * shifts
            back = np.fft.ifft2(np.abs(spectrum) * np.exp(1j * phases))
            assert np.abs(back.imag).max() < 1e-10
            for channel in images[place]:
                np.testing.assert_allclose(channel, back.real.clip(0, 1), rtol=0, atol=3e-6, err_msg=str(condition))


def test_an_odd_size_is_refused() -> None:
    with pytest.raises(ProbeError, match="phase_scramble needs an even number of pixels a side, not 225"):
        PHASE_SCRAMBLE.check_size(PHASE_SCRAMBLE.conditions({})[0], 225)
