"""Shape bias and low-frequency bias on cue-conflict images, whose two cues belong to different classes.

    shape_bias    = shape decisions / (shape decisions + texture decisions)
    shape_bias_C  = the same over images whose shape is of class C
    cue_accuracy  = (shape decisions + texture decisions) / images whose two classes differ

low_frequency_cue_bias and frequency_cue_accuracy are the same metrics for images whose low frequencies show one class
and whose high frequencies show another. The low frequencies take the place of shape. These metrics depend on the cutoff
frequency at which the images were composed.

The predicted class is the one of 16 entry-level classes whose ImageNet classes have the largest mean probability. It is
a shape decision if it is the class of the shape, and a texture decision if it is the class of the texture.

Each metric is a proportion over clusters with the confidence interval of `statistics.proportions`. The state of a bias
is `at_chance` if the cue accuracy is not significantly above that of random guesses (`statistics.proportions`), and
`doubtful` if the bias is computed from fewer than 20 decisions.

Sources: Geirhos et al. 2019 (shape and texture), Gavrikov et al. 2025 (low and high frequencies).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from ....core.protocol import CUES, FREQUENCY_CUES, SHAPE_CUES, SPACE_CLASSES, Cues
from ...statistics import Mask
from ...statistics.proportions import AT_FLOOR, p_above_chance, share_of
from ..base import (
    Available,
    Display,
    Ends,
    Estimate,
    ImageValues,
    Measure,
    PublishedFigure,
    State,
    Words,
    paired_intervals,
)
from ..predictions import CellOutcomes, Outcomes

NEITHER = "neither cue is ever named"
TITLES = {
    SHAPE_CUES.bias: "shape bias",
    SHAPE_CUES.accuracy: "cue accuracy",
    FREQUENCY_CUES.bias: "low-frequency cue bias",
    FREQUENCY_CUES.accuracy: "frequency cue accuracy",
}

CHANGES = {
    SHAPE_CUES.bias: ("decides", "by shape"),
    SHAPE_CUES.accuracy: ("recognizes", "of the two cues"),
    FREQUENCY_CUES.bias: ("decides", "by low frequencies"),
    FREQUENCY_CUES.accuracy: ("recognizes", "of the two bands' cues"),
}
VERDICTS = {
    SHAPE_CUES.bias: "decides by shape on {value} of the images that it names by shape or texture",
    FREQUENCY_CUES.bias: "decides by low frequencies on {value} of the images that it names by either band",
}
"""Bias -> sentence about a model in a report. {value} is the proportion of images in percent."""
FEWEST_DECISIONS = 20
"""Minimum number of decisions for either cue. With fewer, the state of a bias is `doubtful`."""


def _image_values(cues: Cues, cell: CellOutcomes) -> dict[str, ImageValues]:
    """Return the per-image values of each metric of a pair of cues, or an empty dictionary if no image has a conflict.

    The metrics are the bias over all images, the bias for each class of the first cue, and the cue accuracy. The name
    of the bias for a class ends with the class name, or with the class index if the class has no name.
    """
    images, conflicting, predicted = cell.images, cell.images.conflicting, cell.decisions.predicted
    if not conflicting.any():
        return {}
    first, second = (conflicting & (predicted == cue) for cue in (images.first_cue, images.second_cue))
    either = first | second
    values = {cues.bias: ImageValues(first, either, NEITHER, judge=partial(_judge_bias, cell, either))}
    for number in np.unique(images.first_cue[conflicting]):
        class_name, class_mask = cell.class_names.get(int(number), number), images.first_cue == number
        values[f"{cues.bias}_{class_name}"] = ImageValues(first & class_mask, either & class_mask, NEITHER)
    return values | {cues.accuracy: ImageValues(either, conflicting)}


def cue_estimates(cues: Cues, outcomes: Outcomes) -> dict[str, Estimate]:
    """Compute the metrics on the clean images. Their confidence intervals are those of proportions over clusters."""
    if (clean := outcomes.clean) is None:
        return {}
    return {name: values.estimate(clean.images.clusters) for name, values in _image_values(cues, clean).items()}


def _judge_bias(cell: CellOutcomes, either: Mask, bias: Estimate) -> Estimate:
    """Set the state of a bias if the cues are recognized too rarely.

    `either` (n,) is True for the images on which one of the two cues is predicted.
    """
    conflicting, chance = cell.images.conflicting, 2 * cell.floor
    if p_above_chance(share_of(either[conflicting], cell.images.clusters[conflicting]), chance) > AT_FLOOR:
        note = f"a cue is named no more often than blind guesses name one, {chance:.3g}"
        return replace(bias, state=State.AT_CHANCE, note=note)
    if either.sum() < FEWEST_DECISIONS and bias.state == State.OK:
        return replace(bias, state=State.DOUBTFUL, note=f"it is a share of {either.sum()} decisions")
    return bias


def cue_differences(cues: Cues, a: Outcomes, b: Outcomes) -> dict[str, Ends]:
    """Compute the paired intervals of the metrics that both runs have and that cover more than one cluster."""
    if a.clean is None or b.clean is None or not a.images.has_same_labels(b.images):
        return {}
    shares_a, shares_b = (
        {
            name: share
            for name, values in _image_values(cues, clean).items()
            if (share := values.share(clean.images.clusters))
        }
        for clean in (a.clean, b.clean)
    )
    return paired_intervals(shares_a, shares_b)


def _values_named(cues: Cues, name: str, cell: CellOutcomes) -> ImageValues | None:
    return _image_values(cues, cell).get(name)


def _conflicts(cues: Cues, available: Available) -> bool:
    return cues.second in available.schemes


def _display(cues: Cues, name: str) -> Display:
    is_bias = name == cues.bias
    words = Words({State.OK: VERDICTS[name]}, CHANGES[name], cues.accuracy) if is_bias else Words(change=CHANGES[name])
    published = PublishedFigure(("shape-bias",), SPACE_CLASSES["sixteen"]) if name == SHAPE_CUES.bias else None
    return Display(TITLES[name], group=cues.bias, folded=not is_bias, quantity=name, words=words, published=published)


def _measures(cues: Cues) -> Iterator[Measure[Outcomes]]:
    # All metrics of a pair of cues share one function object, so that it is called only once.
    estimates, differences = partial(cue_estimates, cues), partial(cue_differences, cues)
    for name in (cues.bias, cues.accuracy):
        yield Measure(
            name,
            _display(cues, name),
            applies=partial(_conflicts, cues),
            estimates=estimates,
            differences=differences,
            is_bias=name == cues.bias,
        )


MEASURES = tuple(measure for cues in CUES for measure in _measures(cues))
CONDITION_MEASURES = tuple(
    Measure(
        name,
        _display(cues, name),
        applies=partial(_conflicts, cues),
        values=partial(_values_named, cues, name),
    )
    for cues in CUES
    for name in (cues.bias, cues.accuracy)
)
