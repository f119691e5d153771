"""Probability that a model assigns to the correct class, under one condition.

p_i is the softmax probability of the label of image i, and c_i that of the predicted class, over the classes of the
decision space. The label is the same as for accuracy: if an image has several correct classes, it is the most probable
of them, and in cue-conflict images it is the class of the first cue. In the 16-class decision space, p_i is the mean
probability of the members of the class, normalized over the 16 classes.

    negative_log_likelihood = mean of -ln max(p_i, 2^-149), in nats
    label_margin            = mean of p_i - c_i, in [-1, 0]

Probabilities are stored in single precision. 2^-149 is the smallest positive number of that format, so a probability
of 0 contributes 103.3 nats.

The margin compares the label with the most probable class. It is 0 if the label is predicted, because the probability
of the second most probable class is not stored. It is close to -1 if the model is certain of another class.

Both metrics are means over images. Their confidence intervals, and those of their paired differences from the clean
images, are the intervals for differences in `statistics.proportions`, where one nat, or a probability of 1, takes the
place of one correct prediction. Intervals are clipped to the range of the metric. Source: Good 1952 for the logarithm
of a probability as a score.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import log

import numpy as np

from ....core.protocol import LEAST_PROBABILITY
from ...statistics import Floats, Ints
from ...statistics.proportions import Share, mean_interval, share_of
from ..base import Display, Ends, Estimate, Measure, estimate_of, has_labels
from ..predictions import CellOutcomes, Decisions

LIKELIHOOD, MARGIN = "negative_log_likelihood", "label_margin"
LARGEST_LOSS = -log(LEAST_PROBABILITY)
"""Negative logarithm of the smallest probability that can be stored, in nats."""
RANGES: Mapping[str, tuple[float, float]] = {LIKELIHOOD: (0.0, LARGEST_LOSS), MARGIN: (-1.0, 0.0)}
"""Metric -> smallest and largest possible value."""


def log_probabilities(decisions: Decisions) -> Floats | None:
    """Return the natural logarithms (n,) of the label probabilities, or None if any image has no stored probability."""
    if decisions.label_probability is None:
        return None
    return np.log(np.clip(decisions.label_probability.astype(np.float64), LEAST_PROBABILITY, 1))


def _image_numbers(cell: CellOutcomes) -> dict[str, Floats]:
    """Return the per-image values (n,) of each metric that can be computed. The estimate is their mean."""
    logarithms, confidence = log_probabilities(cell.decisions), cell.decisions.confidence
    if logarithms is None:
        return {}
    numbers = {LIKELIHOOD: -logarithms}
    return numbers if confidence is None else numbers | {MARGIN: np.minimum(np.exp(logarithms) - confidence, 0)}


def _estimate(name: str, numbers: Floats, clean: Floats | None, clusters: Ints) -> Estimate:
    lowest, highest = RANGES[name]

    def interval(mean: Share) -> Ends:
        low, high = mean_interval(mean, highest - lowest)
        return max(low, lowest), min(high, highest)

    mean = share_of(numbers, clusters)
    if clean is None:
        return estimate_of(mean, interval=interval)
    ends = _paired_interval(name, numbers - clean, clusters)
    return estimate_of(mean, share_of(clean, clusters), interval, lambda *_: ends)


def _paired_interval(name: str, changes: Floats, clusters: Ints) -> Ends | None:
    """Return the interval of the mean of per-image changes (n,), or None if all images are in one cluster."""
    mean, (lowest, highest) = share_of(changes, clusters), RANGES[name]
    return mean_interval(mean, highest - lowest) if len(mean.clusters) > 1 else None


def probability_estimates(cell: CellOutcomes) -> dict[str, Estimate]:
    """Compute both metrics for one condition, with their differences from the clean images."""
    clean = None if cell.is_clean else cell.unperturbed()
    clean_numbers = _image_numbers(clean) if clean else {}
    return {
        name: _estimate(name, numbers, clean_numbers.get(name), cell.images.clusters)
        for name, numbers in _image_numbers(cell).items()
    }


def probability_differences(a: CellOutcomes, b: CellOutcomes) -> dict[str, Ends]:
    """Compute the paired intervals of B - A for both metrics, over the same images."""
    numbers_a, numbers_b = _image_numbers(a), _image_numbers(b)
    return {
        name: ends
        for name in numbers_a.keys() & numbers_b.keys()
        if (ends := _paired_interval(name, numbers_b[name] - numbers_a[name], a.images.clusters))
    }


_measure = partial(
    Measure,
    applies=has_labels,
    estimates=probability_estimates,
    differences=probability_differences,
)
MEASURES = (
    _measure(LIKELIHOOD, display=Display("negative log-likelihood", "nats", sense=-1)),
    _measure(MARGIN, display=Display("margin of the label", "probability", sense=1)),
)
