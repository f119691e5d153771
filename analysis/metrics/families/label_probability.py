"""How much of its probability a model gives to the right class, under one condition.

p_i is the softmax probability of the label of image i among the classes that the model decides between, and c_i that
of the predicted class. The label and the classes are those of accuracy: of several right classes the most probable,
where cues conflict the class of the first cue; and among sixteen classes p_i is a share of the mean probabilities.

    negative_log_likelihood = mean of -ln max(p_i, 2^-149), in nats
    label_margin            = mean of p_i - c_i, in [-1, 0]

Probabilities are stored in single precision, whose least positive number is 2^-149: a probability of 0 costs as much,
103.3 nats. The margin is that of the label to the most probable class. It is 0 where the label is predicted, since the
probability of the class that comes second is not stored, and near -1 where the model is sure of another class.

These are means over images, whose intervals and paired differences from the clean images are those of differences
(`statistics.shares`), with one nat, or a probability of 1, in the place of one right answer. They end where the ranges
do. Source: Good 1952 for the logarithm of a probability as a score.
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
"""The negative logarithm of the least probability that is stored, in nats."""
RANGES: Mapping[str, tuple[float, float]] = {LIKELIHOOD: (0.0, LARGEST_LOSS), MARGIN: (-1.0, 0.0)}
"""Name of each number -> the lowest and the highest that it can be."""


def log_probabilities(decisions: Decisions) -> Floats | None:
    """(n,) natural logarithms of the probabilities of the labels; None where that of some image is not known."""
    if decisions.label_probability is None:
        return None
    return np.log(np.clip(decisions.label_probability.astype(np.float64), LEAST_PROBABILITY, 1))


def _image_numbers(cell: CellOutcomes) -> dict[str, Floats]:
    """Name -> the (n,) numbers of images that each is the mean of; none where they are not known."""
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
    """The interval of the mean of (n,) changes of the numbers of images; None where one cluster holds all of them."""
    mean, (lowest, highest) = share_of(changes, clusters), RANGES[name]
    return mean_interval(mean, highest - lowest) if len(mean.clusters) > 1 else None


def probability_estimates(cell: CellOutcomes) -> dict[str, Estimate]:
    """Both means of one condition, with their differences from the clean images."""
    clean = None if cell.is_clean else cell.unperturbed()
    clean_numbers = _image_numbers(clean) if clean else {}
    return {
        name: _estimate(name, numbers, clean_numbers.get(name), cell.images.clusters)
        for name, numbers in _image_numbers(cell).items()
    }


def probability_differences(a: CellOutcomes, b: CellOutcomes) -> dict[str, Ends]:
    """Paired intervals of the means in B less those in A, of the same images."""
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
