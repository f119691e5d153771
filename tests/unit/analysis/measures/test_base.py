"""Estimates that are made together are those that each share has, and values of images lie where intervals are for."""

from __future__ import annotations

import numpy as np
import pytest

from bandlens.analysis.measures.base import ImageValues, all_less_clean, less_clean
from bandlens.analysis.statistics.shares import share_of


@pytest.mark.parametrize("images_a_cluster", [1, 3])
def test_estimates_made_together_are_those_of_each_share_to_the_bit(images_a_cluster: int) -> None:
    random, clusters = np.random.default_rng(0), np.arange(300) // images_a_cluster
    shares = [share_of(random.random(300) < accuracy, clusters) for accuracy in np.linspace(0, 1, 40)]
    clean = [shares[20] if place % 3 else None for place in range(len(shares))]
    other_images = share_of(np.ones(7, bool), np.arange(7))  # with these, nothing is made together
    for some_shares, some_clean in ((shares, clean), ([*shares, other_images], [*clean, None])):
        expected = [less_clean(*pair) for pair in zip(some_shares, some_clean, strict=True)]
        assert repr(all_less_clean(some_shares, some_clean)) == repr(expected)  # NaN is not itself


@pytest.mark.parametrize("value", [1.7, -1.1])
def test_values_of_images_that_no_interval_is_for_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=rf"a measure gives an image the value {value}: values lie in \[-1, 1\]"):
        ImageValues(np.array([0.5, value]))


def test_values_of_images_may_be_numbers_to_one_or_yes_and_no() -> None:
    for values in (np.array([-1.0, 1.0, np.nan]), np.array([True, False]), np.zeros(0)):
        assert ImageValues(values).values is values
