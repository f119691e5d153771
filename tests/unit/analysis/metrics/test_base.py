"""Values of images lie where intervals are for."""

from __future__ import annotations

import numpy as np
import pytest

from bandlens.analysis.metrics.base import ImageValues


@pytest.mark.parametrize("value", [1.7, -1.1])
def test_values_of_images_that_no_interval_is_for_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=rf"a measure gives an image the value {value}: values lie in \[-1, 1\]"):
        ImageValues(np.array([0.5, value]))


def test_values_of_images_may_be_numbers_to_one_or_yes_and_no() -> None:
    for values in (np.array([-1.0, 1.0, np.nan]), np.array([True, False]), np.zeros(0)):
        assert ImageValues(values).values is values
