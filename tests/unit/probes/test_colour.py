"""Grey blends against OpenCV, and the orders of channels."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from types import ModuleType

import cv2
import numpy as np
from scipy import stats
from stimuli import perturb, photographs

from bandlens.probes.colour import CHANNEL_SHUFFLE, GREY_BLEND, orders


def test_blends_are_opencvs(xp: ModuleType) -> None:
    pixels = photographs(6)
    made = perturb(xp, GREY_BLEND.conditions({"alpha": [0, 0.2, 0.4, 0.6, 0.8, 1]}), pixels)
    for condition, images in made.items():
        alpha = float(condition["alpha"])
        for image, blend in zip(pixels.astype(np.float32) / 255, images, strict=True):
            colour = np.ascontiguousarray(image.transpose(1, 2, 0))
            grey = cv2.cvtColor(cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            expected = cv2.addWeighted(colour, 1 - alpha, grey, alpha, 0)
            np.testing.assert_allclose(blend.transpose(1, 2, 0), expected, rtol=0, atol=1e-6)


def test_channels_are_those_of_the_image_in_an_order_of_their_own(xp: ModuleType) -> None:
    pixels, keys = np.repeat(photographs(1), 40, axis=0), list(range(40))
    (images,) = perturb(xp, CHANNEL_SHUFFLE.conditions({}), pixels, keys, 6).values()
    order = orders(np, 6, np.array(keys, np.uint64))
    for image, made, places in zip(pixels, images, order, strict=True):
        np.testing.assert_allclose(made, image[places] / 255, atol=1e-7)
    assert len({tuple(places) for places in order.tolist()}) == 6


def test_every_order_of_channels_is_as_likely_as_any_other() -> None:
    counts = Counter(map(tuple, orders(np, 0, np.arange(6000, dtype=np.uint64)).tolist()))
    assert set(counts) == set(permutations(range(3)))
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3
