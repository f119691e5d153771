"""Confidence, calibration error and Brier score of a model under one condition.

The confidence c_i of image i is the probability of its predicted class, and y_i is 1 if the prediction is correct and 0
otherwise. In the 16-class decision space, c_i is the mean probability of the members of the class, normalized over the
16 classes. Images are sorted by confidence into 15 bins of equal width. Bin b contains confidences above (b - 1) / 15,
up to and including b / 15.

    confidence                 = mean of c_i, if all confidences are known
    expected_calibration_error = sum over bins of |sum over images of the bin of (c_i - y_i)| / n
    top1_brier_score           = mean of (c_i - y_i)^2

With s_i the sign of the sum in the bin of image i, the expected calibration error is the mean of s_i (c_i - y_i), and
its confidence interval is that of this mean. The estimate is positive even for a perfectly calibrated model, because
random deviations in the bins do not cancel. Its expected value for such a model is approximately

    chance = sum over bins of sqrt(2 / pi * sum over images of the bin of c_i (1 - c_i)) / n

The state is `doubtful` if the calibration error is smaller than 2 * chance.

Sources: Guo et al. 2017, Brier 1950.
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
"""A calibration error below this multiple of `chance` is not distinguishable from that of a calibrated model."""


def calibration_gaps(confidence: Floats, correct: Mask) -> tuple[Floats, float]:
    """Return s_i (c_i - y_i), (n,), whose mean is the expected calibration error, and `chance`.

    Confidences must be in [0, 1].
    """
    bins = np.clip(np.ceil(confidence * BINS).astype(np.intp) - 1, 0, BINS - 1)
    gaps = confidence - correct
    sums = np.bincount(bins, gaps, BINS)
    spread = np.bincount(bins, confidence * (1 - confidence), BINS)
    return np.where(sums < 0, -1.0, 1.0)[bins] * gaps, float(np.sqrt(2 / np.pi * spread).sum() / len(gaps))


def _applies(available: Available) -> bool:
    """Exclude cue-conflict images, because it is undefined which of their two classes is the correct one."""
    return available.labelled and not available.conflicting


def _confidence_and_right(cell: CellOutcomes) -> tuple[Floats, Mask] | None:
    """Return the confidence and the correctness of each prediction, (n,) each, or None if either is unknown."""
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
