"""Filtered images and grey blends against OpenCV, patches against scikit-image, and the fairness of drawn orders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import permutations
from types import ModuleType

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from skimage.util import view_as_blocks
from stimuli import perturb, photographs

from bandlens.probes.arrays import to_numpy
from bandlens.probes.blur_and_shuffle import (
    BILATERAL,
    CHANNEL_SHUFFLE,
    GREY_BLEND,
    PATCH_SHUFFLE,
    channel_orders,
    patch_orders,
)
from bandlens.probes.noise import PATCHES, random_words


@pytest.mark.parametrize(("d", "sigma_color", "sigma_space"), [(2, 50, 75), (5, 1, 2), (14, 100, 2), (9, 200, 75)])
def test_opencv_rounds_to_the_same(xp: ModuleType, d: int, sigma_color: float, sigma_space: float) -> None:
    pixels = photographs(4)
    (condition,) = BILATERAL.conditions({"d": d, "sigma_color": sigma_color, "sigma_space": sigma_space})
    (smooth,) = perturb(xp, [condition], pixels).values()
    for image, values in zip(pixels, smooth, strict=True):
        colour = np.ascontiguousarray(image.transpose(1, 2, 0))
        expected = cv2.bilateralFilter(colour, d, sigma_color, sigma_space).transpose(2, 0, 1)
        assert np.abs(255 * values.astype(np.float64) - expected).max() <= 0.5 + 2e-3


def blocks(image: NDArray[np.uint8], grid: int) -> NDArray[np.uint8]:
    """The patches, row by row, as an array of shape (grid * grid, 3, side, side)."""
    side = image.shape[-1] // grid
    return view_as_blocks(np.ascontiguousarray(image), (3, side, side)).reshape(-1, 3, side, side)


@pytest.mark.parametrize("grid", [1, 7, 32])
def test_patches_are_those_of_the_image_in_the_order_that_was_drawn(xp: ModuleType, grid: int) -> None:
    pixels, keys, seed = photographs(5), [0, 1, 2**40, 2**63, 9], 3
    (images,) = perturb(xp, PATCH_SHUFFLE.conditions({"grid": grid}), pixels, keys, seed).values()
    orders = to_numpy(patch_orders(xp, seed, xp.asarray(keys, dtype=xp.uint64), grid))
    for image, shuffled, order in zip(pixels, np.rint(images * 255).astype(np.uint8), orders, strict=True):
        assert sorted(order) == list(range(grid * grid))
        np.testing.assert_array_equal(blocks(shuffled, grid), blocks(image, grid)[order])


def test_words_that_are_equal_keep_the_order_of_their_places(xp: ModuleType) -> None:
    keys = xp.asarray([506, 524, 541, 586, 619, 628, 797], dtype=xp.uint64)
    orders = to_numpy(patch_orders(xp, 0, keys, 112)).tolist()
    words = to_numpy(random_words(xp, 0, keys, PATCHES ^ 112 << 8, 112**2)).tolist()
    for row, order in zip(words, orders, strict=True):
        assert len(set(row)) < len(row)
        assert order == sorted(range(len(row)), key=row.__getitem__)  # Python's sort keeps that order


@pytest.mark.parametrize(("size", "draw"), [(4, partial(patch_orders, grid=2)), (3, channel_orders)])
def test_every_order_of_patches_and_of_channels_is_as_likely_as_any_other(
    size: int, draw: Callable[..., NDArray[np.int64]]
) -> None:
    counts = Counter(map(tuple, draw(np, 1, np.arange(2400, dtype=np.uint64)).tolist()))
    assert set(counts) == set(permutations(range(size)))
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_blends_are_opencvs(xp: ModuleType) -> None:
    pixels = photographs(6)
    for condition, images in perturb(xp, GREY_BLEND.conditions({"alpha": [0, 0.2, 0.6, 1]}), pixels).items():
        alpha = float(condition["alpha"])
        for image, blend in zip(pixels.astype(np.float32) / 255, images, strict=True):
            colour = np.ascontiguousarray(image.transpose(1, 2, 0))
            grey = cv2.cvtColor(cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            expected = cv2.addWeighted(colour, 1 - alpha, grey, alpha, 0)
            np.testing.assert_allclose(blend.transpose(1, 2, 0), expected, rtol=0, atol=1e-6)


def test_channels_are_those_of_the_image_in_an_order_of_their_own(xp: ModuleType) -> None:
    pixels, keys = np.repeat(photographs(1)[..., :16, :16], 40, axis=0), list(range(40))
    (images,) = perturb(xp, CHANNEL_SHUFFLE.conditions({}), pixels, keys, 6).values()
    order = channel_orders(np, 6, np.array(keys, np.uint64))
    for image, shuffled, places in zip(pixels, images, order, strict=True):
        np.testing.assert_allclose(shuffled, image[places] / 255, atol=1e-7)
    assert len({tuple(places) for places in order.tolist()}) == 6
