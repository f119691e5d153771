"""Power-law noise against NumPy's transform, and the slope of its spectrum."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from stimuli import perturb, photographs

from bandlens.core.errors import ProbeError
from bandlens.probes.arrays import to_numpy
from bandlens.probes.noise import POWER_LAW, unit_normal_fields
from bandlens.probes.power_law import POWER_LAW_NOISE, unit_noise


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
