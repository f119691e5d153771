"""Shape bias, where the shape of an image is of one class and its texture of another.

    shape_bias    = shape decisions / (shape decisions + texture decisions)
    shape_bias_C  = the same over images whose shape is of class C
    cue_accuracy  = (shape decisions + texture decisions) / images whose two classes differ

low_frequency_cue_bias and frequency_cue_accuracy are the same of images whose low frequencies (shape) are of one class
and high ones (texture) of another; they depend on the cutoff at which the set was split.

A decision is the one of 16 entry-level classes whose ImageNet members have the largest mean probability. Each number is
a share over clusters (`statistics.wilson`). A bias is `at_chance` where the cue accuracy is not above that of blind
guesses (`statistics.shares`), and `doubtful` below 20 decisions.

Sources: Geirhos et al. 2019 (shapes), Gavrikov et al. 2025 (frequencies).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from ...core.protocol import CUES, FREQUENCY_CUES, SHAPE_CUES, SPACE_CLASSES, Cues
from ..statistics import Index, Mask
from ..statistics.shares import AT_FLOOR, p_above_chance, share_of
from ..statistics.wilson import share_of_sums
from .base import (
    Available,
    Display,
    Ends,
    Estimate,
    ImageValues,
    Measure,
    PublishedFigure,
    Scope,
    State,
    Words,
    nothing,
    paired_intervals,
    too_few_images,
)
from .outcomes import CellOutcomes, Outcomes

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
"""Bias -> what a model does, with the share of images in percent."""
FEWEST_DECISIONS = 20
"""Decisions for a cue below which their share says little."""


def cue_shares(cell: CellOutcomes, cues: Cues) -> Iterator[tuple[str, Mask, Mask]]:
    """Yield (name, images that count as right, images that count), (n,) each, of every number of two cues."""
    images, conflicting = cell.images, cell.images.conflicting
    first, either = _named_cues(cell)
    yield cues.bias, first, either
    for number in np.unique(images.first_cue[conflicting]):
        class_mask = images.first_cue == number
        yield f"{cues.bias}_{cell.class_names.get(int(number), number)}", first & class_mask, either & class_mask
    yield cues.accuracy, either, conflicting


def _named_cues(cell: CellOutcomes) -> tuple[Mask, Mask]:
    """(n,) each: whether the class of the first cue is named, and that of either, where the cues conflict."""
    images, predicted = cell.images, cell.decisions.predicted
    first, second = (images.conflicting & (predicted == cue) for cue in (images.first_cue, images.second_cue))
    return first, first | second


def cue_estimates(cues: Cues, outcomes: Outcomes) -> dict[str, Estimate]:
    """The bias overall and for each class of the first cue, and the accuracy, on the clean images.

    Each is a share of decisions or images, with the interval of `statistics.wilson` over clusters. A class without a
    name goes by its number.
    """
    clean = outcomes.clean
    if clean is None or not clean.images.conflicting.any():
        return {}
    ids = clean.images.cluster_ids
    estimates = {name: _share(part, base, ids) for name, part, base in cue_shares(clean, cues)}
    return estimates | {cues.bias: _judge_bias(clean, estimates[cues.bias])}


def _judge_bias(cell: CellOutcomes, bias: Estimate) -> Estimate:
    """The bias, with another state where the cues are recognized too rarely."""
    _, either = _named_cues(cell)
    conflicting, chance = cell.images.conflicting, 2 * cell.floor
    if not either.any():
        return bias
    if p_above_chance(share_of(either[conflicting], cell.images.clusters[conflicting]), chance) > AT_FLOOR:
        note = f"a cue is named no more often than blind guesses name one, {chance:.3g}"
        return replace(bias, state=State.AT_CHANCE, note=note)
    if either.sum() < FEWEST_DECISIONS and bias.state == State.OK:
        return replace(bias, state=State.DOUBTFUL, note=f"it is a share of {either.sum()} decisions")
    return bias


def _share(part: Mask, base: Mask, ids: Index) -> Estimate:
    part_sizes, base_sizes = (np.bincount(ids, mask).astype(np.float64) for mask in (part, base))
    if not base_sizes.any():
        return nothing(State.UNDETERMINED, NEITHER)
    value = float(part_sizes.sum() / base_sizes.sum())
    low, high = share_of_sums(part_sizes, base_sizes)
    if low is None or high is None:
        return Estimate(value, state=State.NO_INTERVAL, note=too_few_images(1))
    return Estimate(value, low, high)


def cue_differences(cues: Cues, a: Outcomes, b: Outcomes) -> dict[str, Ends]:
    """Paired intervals of the numbers that both runs have, and that more than one cluster decides."""
    if a.clean is None or b.clean is None or not a.images.has_same_labels(b.images):
        return {}
    shares_a, shares_b = (
        {
            name: share_of(part[base], a.images.clusters[base])
            for name, part, base in cue_shares(clean, cues)
            if base.any()
        }
        for clean in (a.clean, b.clean)
    )
    return paired_intervals(shares_a, shares_b)


def _bias_values(cell: CellOutcomes) -> ImageValues | None:
    first, either = _named_cues(cell)
    if not cell.images.conflicting.any():
        return None
    return ImageValues(first, either, NEITHER, judge=partial(_judge_bias, cell))


def _accuracy_values(cell: CellOutcomes) -> ImageValues | None:
    _, either = _named_cues(cell)
    return ImageValues(either, cell.images.conflicting) if cell.images.conflicting.any() else None


def _conflicts(cues: Cues, available: Available) -> bool:
    return cues.second in available.schemes


def _display(cues: Cues, name: str) -> Display:
    is_bias = name == cues.bias
    words = Words({State.OK: VERDICTS[name]}, CHANGES[name], cues.accuracy) if is_bias else Words(change=CHANGES[name])
    published = PublishedFigure(("shape-bias",), SPACE_CLASSES["sixteen"]) if name == SHAPE_CUES.bias else None
    return Display(TITLES[name], group=cues.bias, folded=not is_bias, quantity=name, words=words, published=published)


def _measures(cues: Cues) -> Iterator[Measure[Outcomes]]:
    # Both measures have the same function, so that it is called once.
    estimates, differences = partial(cue_estimates, cues), partial(cue_differences, cues)
    for name in (cues.bias, cues.accuracy):
        yield Measure(
            name,
            Scope.GRID,
            _display(cues, name),
            applies=partial(_conflicts, cues),
            estimates=estimates,
            differences=differences,
            is_bias=name == cues.bias,
        )


MEASURES = tuple(measure for cues in CUES for measure in _measures(cues))
CONDITION_MEASURES = tuple(
    Measure(name, Scope.CONDITION, _display(cues, name), applies=partial(_conflicts, cues), values=values)
    for cues in CUES
    for name, values in ((cues.bias, _bias_values), (cues.accuracy, _accuracy_values))
)
