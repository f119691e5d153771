"""Shape bias: what a classifier names, where the shape of an image is of one class and its texture of another.

Over the images whose two classes differ:

    shape_bias    = shape decisions / (shape decisions + texture decisions)
    shape_bias_C  = the same over images whose shape is of class C
    cue_accuracy  = (shape decisions + texture decisions) / images

Fractions. Where the low frequencies of an image are of one class and its high ones of another, the same numbers, of low
frequencies for shape and of high ones for texture, are low_frequency_cue_bias and frequency_cue_accuracy. A bias leaves
out how often neither class is named; the accuracy tells it.
Source: Geirhos et al. 2019 ("ImageNet-trained CNNs are biased towards texture") for the first two, Gavrikov et al. 2025
for frequencies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...protocol import SHAPE_CUES, Cues
from ..statistics.arrays import Mask
from ..statistics.shares import difference_interval, share_of
from ..statistics.wilson import share_of_sums
from .states import State

Classes = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Decisions:
    """What one model names for the n images of a set whose shape and texture are of different classes; (n,) each."""

    predicted: Classes
    shape: Classes
    texture: Classes
    clusters: Classes
    cues: Cues = SHAPE_CUES
    """Which cues `shape` and `texture` are: of frequency conflicts, the low and the high frequencies."""


def shape_bias(decisions: Decisions, names: Mapping[int, str]) -> Iterator[dict[str, Any]]:
    """Rows of metric, value, low, high, state, note: overall, for each class of the first cue, and the accuracy.

    Each is a share of decisions or images, with the interval of `statistics.wilson` over clusters. `names` are those of
    classes; one without goes by its number.
    """
    if not len(decisions.predicted):
        return
    _, ids = np.unique(decisions.clusters, return_inverse=True)
    for metric, part, whole in shape_shares(decisions, names):
        right, sizes = (np.bincount(ids, one).astype(np.float64) for one in (part, whole))
        row: dict[str, Any] = {
            "metric": metric,
            "value": None,
            "low": None,
            "high": None,
            "state": State.OK,
            "note": None,
        }
        if not sizes.any():
            yield row | {"state": State.UNDETERMINED, "note": "neither cue is ever named"}
            continue
        row["value"] = float(right.sum() / sizes.sum())
        low, high = share_of_sums(right, sizes)
        if low is None:
            row |= {"state": State.NO_INTERVAL, "note": "1 independent image is too few for an interval"}
        yield row | {"low": low, "high": high}


def paired_shape_intervals(
    a: Decisions, b: Decisions, names: Mapping[int, str]
) -> Iterator[tuple[str, tuple[float, float]]]:
    """(metric, 95 % interval of its value in B less that in A), of decisions on the same images in the same order.

    Without a metric that one of them does not have, or that a single cluster decides.
    """
    if not np.array_equal(a.shape, b.shape):  # labels of texture were added to one of them
        return
    _, ids = np.unique(a.clusters, return_inverse=True)
    for (metric, part_a, whole_a), (_, part_b, whole_b) in zip(
        shape_shares(a, names), shape_shares(b, names), strict=True
    ):
        if not (whole_a.any() and whole_b.any()):
            continue
        found = difference_interval(share_of(part_a[whole_a], ids[whole_a]), share_of(part_b[whole_b], ids[whole_b]))
        if found:
            yield metric, found


def shape_shares(decisions: Decisions, names: Mapping[int, str]) -> Iterator[tuple[str, Mask, Mask]]:
    """(metric, images that count as right, images that count), (n,) each, of every metric."""
    of_shape, of_texture = decisions.predicted == decisions.shape, decisions.predicted == decisions.texture
    either = of_shape | of_texture
    yield decisions.cues.bias, of_shape, either
    for one in np.unique(decisions.shape):
        mine = decisions.shape == one
        yield f"{decisions.cues.bias}_{names.get(int(one), one)}", of_shape & mine, either & mine
    yield decisions.cues.accuracy, either, np.ones(len(either), bool)
