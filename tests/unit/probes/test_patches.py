"""Patches against scikit-image's view of blocks, and the fairness of their orders."""

from __future__ import annotations

from collections import Counter
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from skimage.util import view_as_blocks
from stimuli import perturb, photographs

from bandlens.core.errors import ProbeError
from bandlens.probes.arrays import to_numpy
from bandlens.probes.noise import PATCHES, random_words
from bandlens.probes.patches import PATCH_SHUFFLE, orders


def blocks(image: NDArray[np.uint8], grid: int) -> NDArray[np.uint8]:
    """The patches, row by row, as an array of shape (grid * grid, 3, side, side)."""
    side = image.shape[-1] // grid
    return view_as_blocks(np.ascontiguousarray(image), (3, side, side)).reshape(-1, 3, side, side)


@pytest.mark.parametrize("grid", [1, 2, 4, 7, 8, 16, 32])
def test_patches_are_those_of_the_image_in_the_order_that_was_drawn(xp: ModuleType, grid: int) -> None:
    pixels, keys, seed = photographs(5), [0, 1, 2**40, 2**63, 9], 3
    (images,) = perturb(xp, PATCH_SHUFFLE.conditions({"grid": grid}), pixels, keys, seed).values()
    drawn = to_numpy(orders(xp, seed, xp.asarray(keys, dtype=xp.uint64), grid))
    for image, made, order in zip(pixels, np.rint(images * 255).astype(np.uint8), drawn, strict=True):
        assert sorted(order) == list(range(grid * grid))
        np.testing.assert_array_equal(blocks(made, grid), blocks(image, grid)[order])


def test_words_that_are_equal_keep_the_order_of_their_places(xp: ModuleType) -> None:
    keys = xp.asarray([506, 524, 541, 586, 619, 628, 797], dtype=xp.uint64)
    drawn = to_numpy(orders(xp, 0, keys, 112)).tolist()
    for row, order in zip(to_numpy(random_words(xp, 0, keys, PATCHES ^ 112 << 8, 112**2)).tolist(), drawn, strict=True):
        assert len(set(row)) < len(row)
        assert order == sorted(range(len(row)), key=row.__getitem__)  # Python's sort keeps that order


def test_every_order_is_as_likely_as_any_other() -> None:
    counts = Counter(map(tuple, orders(np, 1, np.arange(24_000, dtype=np.uint64), 2).tolist()))
    assert len(counts) == 24
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_grids_draw_independently_of_each_other() -> None:
    small, large = (orders(np, 1, np.arange(3000, dtype=np.uint64), grid) for grid in (2, 4))
    assert abs(np.corrcoef(small[:, 0], large[:, 0])[0, 1]) < 4 / np.sqrt(3000)


def test_a_grid_that_does_not_divide_the_image_is_named_with_those_that_do() -> None:
    (condition,) = PATCH_SHUFFLE.conditions({"grid": 6})
    message = (
        "patch_shuffle grid=6: 224 pixels are not 6 patches of equal size; take a grid of 2, 4, 7, 8, 14, 16, 28, 32"
    )
    with pytest.raises(ProbeError, match=message):
        PATCH_SHUFFLE.check_size(condition, 224)
    PATCH_SHUFFLE.check_size(condition, 96)
