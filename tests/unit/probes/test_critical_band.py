"""Octave-band noise against pyrtools and against the published procedure, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pyrtools
import pytest
from numpy.typing import NDArray
from PIL import Image
from stimuli import perturb, photographs

from bandlens.core.records import Condition
from bandlens.probes.arrays import to_numpy
from bandlens.probes.critical_band import CRITICAL_BAND, FREQUENCIES, noise_bands
from bandlens.probes.noise import unit_normal_fields, unit_normals_at

GRID = CRITICAL_BAND.conditions({})
NOISY = [condition for condition in GRID if condition["noise_sd"] != 0]


def rms(image: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(image**2)))


def pyrtools_band(noise: NDArray[np.float64], frequency: int) -> NDArray[np.float64]:
    """The band as the published code makes it, with the RMS of the finest level."""
    pyramid = pyrtools.pyramids.LaplacianPyramid(noise)
    band = pyramid.recon_pyr(levels=6 - frequency)
    return np.asarray(band * rms(pyramid.recon_pyr(levels=0)) / rms(band))


def published_grey(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    luma = np.asarray(Image.fromarray(pixels.transpose(1, 2, 0)).convert("L")) / 255.0
    return np.asarray((luma - luma.mean()) * 0.2 + 0.449)


@dataclass
class Published:
    """The published stimulus of one image and condition with the project's normals, and where rounding decides."""

    images: NDArray[np.float64]
    sure: NDArray[np.bool_]
    """Pixels that are not within 5e-6 of a border where the rule jumps."""
    out_of_range: int
    redrawn: int


def published_stimulus(
    xp: ModuleType, pixels: NDArray[np.uint8], condition: Condition, key: int, seed: int
) -> Published:
    """The published rule, pixel by pixel: shift the image's pixel, or draw its noise again where that cannot help."""
    sd, frequency = float(condition["noise_sd"]), int(condition["frequency"])
    field = to_numpy(unit_normal_fields(xp, seed, xp.asarray([key], dtype=xp.uint64), 0, 224))[0].astype(np.float64)
    grey, noise = published_grey(pixels), pyrtools_band(field * sd, frequency)
    image, noisy = grey.copy(), grey + noise
    borders = np.minimum(np.abs(noisy), np.abs(noisy - 1))
    sure = np.minimum(borders, np.abs(np.abs(noise) - 0.9)) > 5e-6
    rows, columns = np.nonzero((noisy < 0) | (noisy > 1))
    redrawn = 0
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        shifted = (0.1 if noisy[row, column] < 0 else 0.9) - noise[row, column]
        if 0 <= shifted <= 1:
            image[row, column] = shifted
            continue
        redrawn += 1
        attempt = 0
        while not 0 <= grey[row, column] + noise[row, column] <= 1:
            attempt += 1
            pixel = xp.asarray([row * 224 + column])
            fresh = unit_normals_at(xp, seed, xp.asarray([key], dtype=xp.uint64), 0, pixel, attempt)
            noise[row, column] = sd * float(fresh[0])
    return Published(image + noise, sure, len(rows), redrawn)


def test_the_published_grid_has_29_conditions_and_sd_0_once() -> None:
    assert len(GRID) == 29
    assert [dict(c.parameters) for c in GRID if c["noise_sd"] == 0] == [{"noise_sd": 0.0}]
    assert {(c["noise_sd"], c["frequency"]) for c in NOISY} == {
        (sd, f) for sd in (0.02, 0.04, 0.08, 0.16) for f in range(7)
    }


@pytest.mark.parametrize("size", [224, 300])
def test_bands_equal_pyrtools_in_float32(xp: ModuleType, size: int) -> None:
    noise = np.random.default_rng(size).standard_normal((2, size, size)).astype(np.float32)
    out = xp.empty((7, 2, size, size), dtype=xp.float32)
    bands = to_numpy(noise_bands(xp, xp.asarray(noise), FREQUENCIES, out))
    height = pyrtools.pyramids.LaplacianPyramid(noise[0].astype(np.float64)).num_scales
    for frequency, band in zip(FREQUENCIES, bands, strict=True):
        if frequency == 0 and height != 7:
            continue  # the pyramid of a larger image goes on below, where this one ends
        for image in range(2):
            expected = pyrtools_band(noise[image].astype(np.float64), frequency)
            np.testing.assert_allclose(band[image], expected, rtol=0, atol=1e-5 * rms(expected))


def test_grey_is_pillows_luma_at_contrast_02_around_0449(xp: ModuleType) -> None:
    pixels = photographs(6)
    [images] = perturb(xp, GRID[:1], pixels).values()
    for image, channels in zip(pixels, images, strict=True):
        for channel in channels:
            np.testing.assert_allclose(channel, published_grey(image), rtol=0, atol=1e-6)


def test_all_28_noisy_conditions_equal_the_published_procedure(xp: ModuleType) -> None:
    pixels, keys, seed = photographs(4), [40, 41, 2**63, 2**64 - 1], 11
    out_of_range = 0
    for condition, images in perturb(xp, NOISY, pixels, keys, seed).items():
        for position, image in enumerate(images):
            expected = published_stimulus(xp, pixels[position], condition, keys[position], seed)
            out_of_range += expected.out_of_range
            for channel in image:
                difference = np.abs(channel - expected.images)[expected.sure].max()
                assert difference <= 5e-6, (condition, position, difference)
    assert out_of_range > 1000  # the rule was put to the test


def test_noise_that_no_shift_can_undo_is_drawn_again(xp: ModuleType) -> None:
    """At sd 0.5 this meets a few percent of the pixels; each equals the published rule with the same fresh normals."""
    pixels, keys, seed = photographs(1), [9], 4
    (condition,) = CRITICAL_BAND.conditions({"noise_sd": 0.5, "frequency": 6, "grey": False})
    images = perturb(xp, [condition], pixels, keys, seed)[condition]
    expected = published_stimulus(xp, pixels[0], condition, keys[0], seed)
    assert expected.redrawn > 1000
    np.testing.assert_allclose(images[0, 0][expected.sure], expected.images[expected.sure], rtol=0, atol=5e-6)
    assert images.min() >= 0
    assert images.max() <= 1


def test_weak_noise_takes_no_dark_pixel_below_0(xp: ModuleType) -> None:
    """A tenth of the images is black and the rest white: at a grey of 0.27, noise of sd 0.08 reaches below 0."""
    pixels = np.full((4, 3, 224, 224), 255, np.uint8)
    pixels[:, :, :22] = 0
    conditions = CRITICAL_BAND.conditions({"noise_sd": 0.08, "frequency": 6, "grey": False})
    [images] = perturb(xp, conditions, pixels).values()
    assert images.min() >= 0
    assert (images == np.float32(0.1)).any()


def test_shared_draw_serves_all_conditions_and_an_independent_one_only_its_own(xp: ModuleType) -> None:
    pixels = photographs(2)
    setting = {"noise_sd": [0.02, 0.04], "frequency": [2, 3], "grey": False}
    shared = perturb(xp, CRITICAL_BAND.conditions(setting), pixels)
    grey = np.stack([published_grey(image) for image in pixels])
    noise = {(c["noise_sd"], c["frequency"]): images[:, 0] - grey for c, images in shared.items()}
    np.testing.assert_allclose(noise[0.04, 2], 2 * noise[0.02, 2], atol=2e-6)
    independent = perturb(xp, CRITICAL_BAND.conditions(setting | {"draw": "independent"}), pixels)
    samples = {(c["noise_sd"], c["frequency"]): images[:, 0] - grey for c, images in independent.items()}
    assert abs(np.corrcoef(samples[0.04, 3].ravel(), samples[0.02, 3].ravel())[0, 1]) < 0.1
    for key, sample in samples.items():
        np.testing.assert_allclose(sample.std(), noise[key].std(), rtol=0.05)
