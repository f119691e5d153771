"""How sure a classifier is, and whether it is as often right as its confidence says.

The confidence c_i of an image is the probability of the class that was predicted (among 16 classes, its share of the
mean probabilities), y_i whether it is right. Images go into 15 bins by confidence, the b-th from above (b - 1) / 15
to b / 15:

    confidence                 = mean of c_i, where all are known
    expected_calibration_error = sum over bins of |sum over images of the bin of (c_i - y_i)| / n
    top1_brier_score           = mean of (c_i - y_i)^2

Sources: Guo et al. 2017, Brier 1950. With s_i the sign of the sum of the bin of image i, the calibration error
has the error of the mean of s_i (c_i - y_i). It is `doubtful` below twice the error of a calibrated network:

    chance = sum over bins of sqrt(2 / pi * sum over images of the bin of c_i (1 - c_i)) / n
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from ...statistics import Floats, Mask
from ..base import Available, Display, Estimate, ImageValues, Measure, State
from ..predictions import CellOutcomes

BINS = 15
NEAR_CHANCE = 2
"""A calibration error below this many times what chance gives says little of the network."""


def calibration_gaps(confidence: Floats, correct: Mask) -> tuple[Floats, float]:
    """(n,) s_i (c_i - y_i), whose mean is the expected calibration error; and `chance`. Confidences are in [0, 1]."""
    bins = np.clip(np.ceil(confidence * BINS).astype(np.intp) - 1, 0, BINS - 1)
    gaps = confidence - correct
    sums = np.bincount(bins, gaps, BINS)
    spread = np.bincount(bins, confidence * (1 - confidence), BINS)
    return np.where(sums < 0, -1.0, 1.0)[bins] * gaps, float(np.sqrt(2 / np.pi * spread).sum() / len(gaps))


def _applies(available: Available) -> bool:
    """Exclude images whose cues conflict: nothing says which of the two classes a confidence should be of."""
    return available.labelled and not available.conflicting


def _confidence_and_right(cell: CellOutcomes) -> tuple[Floats, Mask] | None:
    """(n,) each: confidence, and whether it is right; None where these are not known."""
    confidence = cell.decisions.confidence
    if confidence is None or cell.hits is None or cell.images.conflicting.any():
        return None
    return confidence, cell.hits


def _confidence_values(cell: CellOutcomes) -> ImageValues | None:
    confidence = cell.decisions.confidence
    return None if confidence is None else ImageValues(confidence)


def _gap_values(cell: CellOutcomes) -> ImageValues | None:
    if (pair := _confidence_and_right(cell)) is None:
        return None
    gaps, chance = calibration_gaps(*pair)
    return ImageValues(gaps, judge=partial(_doubt_near_chance, chance))


def _square_values(cell: CellOutcomes) -> ImageValues | None:
    if (pair := _confidence_and_right(cell)) is None:
        return None
    confidence, hits = pair
    return ImageValues(np.square(confidence - hits))


def _doubt_near_chance(chance: float, estimate: Estimate) -> Estimate:
    if estimate.value >= NEAR_CHANCE * chance:
        return estimate
    note = f"{chance:.2g} is expected of a network that is calibrated"
    return replace(estimate, state=State.DOUBTFUL, note=note)


MEASURES = (
    Measure("confidence", Display("confidence"), values=_confidence_values),
    Measure(
        "expected_calibration_error",
        Display("expected calibration error", "probability", folded=False),
        applies=_applies,
        values=_gap_values,
    ),
    Measure(
        "top1_brier_score",
        Display("Brier score of the top-1", "squared probability", sense=-1),
        applies=_applies,
        values=_square_values,
    ),
)
