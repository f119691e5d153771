"""Powers against their definition, waves whose power is known, and noise of a known power law."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small import make_images, make_pictures

from bandlens.analysis.statistics.spectra import exponent_weights
from bandlens.core.errors import UsageError
from bandlens.probes.fourier import unit_noise
from bandlens.probes.spectrum import DIRECTIONS, read_powers, ring_cycles


def wave(size: int, down: int, across: int) -> NDArray[np.uint8]:
    """(size, size, 3): one wave of amplitude 100 around 128."""
    place = 2 * np.pi * np.arange(size) / size
    field = 128 + 100 * np.cos(down * place[:, None] + across * place[None])
    return np.rint(field[..., None].repeat(3, axis=2)).astype(np.uint8)


def test_octaves_add_up_to_the_variance_of_the_pixels(tmp_path: Path) -> None:
    pictures = make_pictures(20, size=32)
    advances = list[float]()
    powers = read_powers(make_images(tmp_path / "set", pictures), lambda *_: nullcontext(advances.append))
    assert sum(advances) == len(pictures)
    variance = (pictures / 255).var(axis=(1, 2)).mean(axis=1)
    np.testing.assert_allclose(powers.octaves.sum(axis=(1, 2)), variance, rtol=1e-9)


@pytest.mark.parametrize(("down", "across", "octave", "direction"), [
    (0, 1, 1, 0), (12, 12, 5, 45), (-20, 21, 6, 135), (32, 0, 6, 90),
])  # fmt: skip
def test_a_wave_lies_in_its_octave_direction_and_ring(
    down: int, across: int, octave: int, direction: int, tmp_path: Path
) -> None:
    powers = read_powers(make_images(tmp_path / "set", wave(64, down, across)[None]))
    bands = powers.octaves[0]
    assert np.unravel_index(bands.argmax(), bands.shape) == (octave, DIRECTIONS.index(direction))
    assert bands.max() > 0.999 * bands.sum()
    radius = round(np.hypot(down, across))
    if radius <= 32:
        assert powers.rings[0].argmax() + 1 == radius


@pytest.mark.parametrize("exponent", [0.0, 2.0])
def test_the_exponent_of_noise_is_the_one_that_made_it(exponent: float) -> None:
    white = np.random.default_rng(0).standard_normal((60, 128, 128)).astype(np.float32)
    noise = unit_noise(np, white, exponent)
    radius = np.rint(np.hypot(np.fft.fftfreq(128, 1 / 128)[:, None], np.fft.fftfreq(128, 1 / 128))).astype(int)
    power = np.square(np.abs(np.fft.fft2(noise))).mean(axis=0)
    rings = np.array([power[radius == ring].mean() for ring in range(1, 65)])
    assert np.log(rings) @ exponent_weights(ring_cycles(128)) == pytest.approx(exponent, abs=0.06)


def test_small_images_have_no_spectrum(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs 16 pixels a side or more, not 15"):
        read_powers(make_images(tmp_path / "set", make_pictures(2, 32)[:, :15, :15].copy()))
