"""Calibration: whether a classifier is as often right as its confidence says.

The confidence c_i of an image is the probability of the class that was predicted, y_i whether it is right. Images go
into 15 bins by confidence, the b-th from (b - 1) / 15, not included, to b / 15:

    expected_calibration_error = sum over bins of |sum over images of the bin of (c_i - y_i)| / n
    top1_brier_score           = mean of (c_i - y_i)^2

Sources: Guo et al. 2017 ("On Calibration of Modern Neural Networks"), Brier 1950. With s_i the sign of the sum of the
bin of image i, the first is the mean of s_i (c_i - y_i): where the signs are sure, it has the error of such a mean.
They are not where a network is calibrated, and no sum is 0, by chance alone. With these confidences its error would be

    chance = sum over bins of sqrt(2 / pi * sum over images of the bin of c_i (1 - c_i)) / n

The negative log-likelihood needs the probability of the label, which is not kept of images that are wrong.
"""

from __future__ import annotations

import numpy as np

from ..statistics.arrays import Floats, Mask

BINS = 15
NEAR_CHANCE = 2
"""A calibration error below so many times what chance gives says little of the network."""


def calibration_gaps(confidence: Floats, correct: Mask) -> tuple[Floats, float]:
    """(n,) s_i (c_i - y_i), whose mean is the expected calibration error; and `chance`. Confidences are in [0, 1]."""
    bins = np.clip(np.ceil(confidence * BINS).astype(np.intp) - 1, 0, BINS - 1)
    gaps = confidence - correct
    sums = np.bincount(bins, gaps, BINS)
    spread = np.bincount(bins, confidence * (1 - confidence), BINS)
    return np.where(sums < 0, -1.0, 1.0)[bins] * gaps, float(np.sqrt(2 / np.pi * spread).sum() / len(gaps))
