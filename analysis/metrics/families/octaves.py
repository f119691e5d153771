"""Shapley values of octaves: the contribution of each of seven octaves of spatial frequency to accuracy.

For a set S of |S| octaves, let v(S) be 1 if an image that contains only the octaves in S and the image mean is
classified correctly, and 0 otherwise. The set of all seven octaves is the clean image. Without labels, a prediction
counts as correct if it equals the clean prediction.

    octave_share_K   = sum over S without K      of |S|! (6 - |S|)! / 7! (v(S + K) - v(S))
    octave_pair_J_K  = sum over S without J, K   of |S|! (5 - |S|)! / 6! (v(S + J + K) - v(S + J) - v(S + K) + v(S))

The first is the Shapley value (Shapley 1953), which lies in [-1, 1]. The second is the Shapley interaction index
(Grabisch & Roubens 1999), which lies in [-2, 2]. The seven Shapley values of an image add up to v(all) - v(none).
Therefore, their means over images add up to the clean accuracy minus the accuracy on images that are uniformly filled
with their mean.

octave_log_share_K is the Shapley value for v(S) = natural logarithm of the probability of the label, in nats, as in
`label_probability`. I-ASIDE (Luo et al. 2024) computes it with the same weights for square rings of equal width in the
spectrum. It requires labels.

octave_share_K_C is the Shapley value over the images with label C. It is computed if these images are in more than one
cluster. In images smaller than 128 pixels, some octaves contain no frequencies. Metrics of such octaves are not
computed.

All metrics are means over images. Their confidence intervals are the intervals for differences in
`statistics.proportions`, clipped to the range of the metric. The state is `at_chance` if the clean accuracy, or the
accuracy under all other sets of octaves together, is not above the chance level of `statistics.chance_agreement`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import combinations, pairwise
from math import factorial

import numpy as np

from ....core.protocol import NO_OCTAVE, OCTAVE_PROBE, OCTAVES, octave_edges
from ...statistics import Floats, Ints, Mask
from ...statistics.proportions import Share, mean_interval, share_of
from ..base import Available, Display, Ends, Estimate, Measure, State, Words, estimate_of, nothing, under
from ..predictions import Outcomes, read_hits
from .label_probability import LARGEST_LOSS, log_probabilities

MASKS = tuple("".join(mask) for count in range(len(OCTAVES) + 1) for mask in combinations(OCTAVES, count))
"""All 128 sets of octaves, from the empty set to the full set. They are the rows of v."""
SHARES = tuple(f"octave_share_{octave}" for octave in OCTAVES)
LOG_SHARES = tuple(f"octave_log_share_{octave}" for octave in OCTAVES)
PAIRS = tuple(f"octave_pair_{first}_{second}" for first, second in combinations(OCTAVES, 2))
MOST_LABELS = 20
"""Maximum number of labels in an image set for which Shapley values by class are computed."""


@cache
def _weights(members: int) -> Ints:
    """Return integer weights of v, (sets of `members` octaves, 128), for Shapley values (1) or interactions (2).

    The weights must be divided by (8 - members)!. They are kept as integers so that terms that cancel give exactly 0.
    """
    free = len(OCTAVES) - members
    return np.array(
        [[_weight({*mask}, {*subset}, free) for mask in MASKS] for subset in combinations(OCTAVES, members)]
    )


def _weight(mask: set[str], subset: set[str], free: int) -> int:
    size, sign = len(mask - subset), 1 - 2 * (len(subset - mask) % 2)
    return sign * factorial(size) * factorial(free - size)


def interactions(values: Mask | Floats, members: int) -> Floats:
    """Compute Shapley values (1 member) or pairwise interactions (2 members), (sets, n), from v (128, n) by MASKS."""
    return np.asarray(_weights(members) @ values / factorial(len(OCTAVES) + 1 - members))


def image_shares(outcomes: Outcomes) -> Iterator[tuple[str, Share]]:
    """Yield the name of each metric and its mean over images with the data for its standard error."""
    cells = {str(condition["keep"]): cell for condition, cell in outcomes.cells_under(OCTAVE_PROBE).items()}
    ordered_cells = [*(cells[mask or NO_OCTAVE] for mask in MASKS[:-1]), outcomes.clean]
    hits = read_hits(ordered_cells)
    if hits is None:
        return
    logarithms = [log_probabilities(cell.decisions) for cell in ordered_cells if cell]
    values = [(SHARES, 1, hits), (PAIRS, 2, hits)]  # names, octaves per set and v of each group of metrics
    if not any(numbers is None for numbers in logarithms):
        values.append((LOG_SHARES, 1, np.array(logarithms)))
    images = outcomes.images
    edges = dict(zip(OCTAVES, pairwise(octave_edges(outcomes.subject.size)), strict=True))
    image_numbers = {
        name: numbers
        for names, members, v in values
        for name, octaves, numbers in zip(names, combinations(OCTAVES, members), interactions(v, members), strict=True)
        if all(low < high for low, high in map(edges.__getitem__, octaves))
    }
    for name, numbers in image_numbers.items():
        yield name, share_of(numbers, images.clusters)
    labels = np.unique(images.label[images.label >= 0])
    if len(labels) > MOST_LABELS or outcomes.clean is None:
        return
    for label in labels:
        class_mask, class_name = images.label == label, outcomes.clean.class_names.get(int(label), label)
        if len(np.unique(images.clusters[class_mask])) > 1:
            for name in (name for name in SHARES if name in image_numbers):
                yield f"{name}_{class_name}", share_of(image_numbers[name][class_mask], images.clusters[class_mask])


def octave_estimates(outcomes: Outcomes) -> dict[str, Estimate]:
    """Compute the estimate of each metric. Without clean predictions, all have the state `missing`."""
    estimates = {
        name: estimate_of(share, interval=partial(mean_interval, reach=_reach(name)))
        for name, share in image_shares(outcomes)
    }
    if not estimates:
        names = (*SHARES, *PAIRS, *(LOG_SHARES if outcomes.available.labelled else ()))
        return dict.fromkeys(names, nothing(State.MISSING, "no clean prediction to compare with"))
    why = outcomes.guessed or outcomes.why_at_floor(
        outcomes.cells_under(OCTAVE_PROBE).values(), "under all sets of octaves"
    )
    if not why:
        return estimates
    return {name: replace(estimate, state=State.AT_CHANCE, note=why) for name, estimate in estimates.items()}


def octave_differences(a: Outcomes, b: Outcomes) -> dict[str, Ends]:
    """Compute the paired intervals of the metrics that both runs have and that cover more than one cluster."""
    if not a.images.has_same_labels(b.images):
        return {}
    shares_a, intervals = dict(image_shares(a)), {}
    for name, share in image_shares(b):
        if name in shares_a and len(share.clusters) > 1:
            value, deviations = share.value - shares_a[name].value, share.deviations - shares_a[name].deviations
            difference = replace(share, value=value, deviations=deviations)
            intervals[name] = mean_interval(difference, 2 * _reach(name))
    return intervals


def _reach(name: str) -> float:
    """Return the largest absolute value that a metric can have."""
    return LARGEST_LOSS if name in LOG_SHARES else 2.0 if name in PAIRS else 1.0


def _lacks(available: Available) -> str | None:
    masks = {str(condition["keep"]) for condition in available.conditions_under(OCTAVE_PROBE)}
    absent = [mask for mask in MASKS[:-1] if (mask or NO_OCTAVE) not in masks]
    return f"{OCTAVE_PROBE} lacks {len(absent)} of its {len(MASKS) - 1} masks; leave out keep" if absent else None


_measure = partial(
    Measure,
    applies=under(OCTAVE_PROBE),
    needs=_lacks,
    estimates=octave_estimates,
    differences=octave_differences,
)
MEASURES = (
    *(
        _measure(
            name,
            display=Display(
                f"accuracy owed to octave {octave}",
                group="octave_share",
                tie_to_clean="one of the shares that add up to clean accuracy",
                words=Words({State.OK: f"owes {{value}} of all images to octave {octave}"}),
            ),
            is_bias=True,
        )
        for name, octave in zip(SHARES, OCTAVES, strict=True)
    ),
    *(
        _measure(name, display=Display(f"interaction of octaves {first} and {second}", group="octave_pair"))
        for name, (first, second) in zip(PAIRS, combinations(OCTAVES, 2), strict=True)
    ),
    *(
        _measure(
            name,
            display=Display(f"log-likelihood owed to octave {octave}", "nats", group="octave_log_share"),
            applies=lambda available: available.labelled and under(OCTAVE_PROBE)(available),
        )
        for name, octave in zip(LOG_SHARES, OCTAVES, strict=True)
    ),
)
