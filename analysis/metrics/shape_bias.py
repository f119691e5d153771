"""Shape bias: what a classifier names, where the shape of an image is of one class and its texture of another.

Over the images whose two classes differ:

    shape_bias    = shape decisions / (shape decisions + texture decisions)
    shape_bias_C  = the same over images whose shape is of class C
    cue_accuracy  = (shape decisions + texture decisions) / images

Fractions. shape_bias leaves out how often neither class is named; cue_accuracy tells it.
Source: Geirhos et al. 2019 ("ImageNet-trained CNNs are biased towards texture") for the first two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..statistics.arrays import Floats
from ..statistics.images import FEWEST_CLUSTERS, count_right, interval

Classes = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Decisions:
    """What one model names for the n images of a set whose shape and texture are of different classes; (n,) each."""

    predicted: Classes
    shape: Classes
    texture: Classes
    clusters: Classes


def shape_bias(
    decisions: Decisions, names: Mapping[int, str], resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Rows of metric, value, low, high, note: overall, for each class of shapes, and cue_accuracy.

    Intervals are percentiles over resampled clusters. `names` are those of classes; one without goes by its number.
    """
    if not len(decisions.predicted):
        return
    of_shape, of_texture = decisions.predicted == decisions.shape, decisions.predicted == decisions.texture
    classes = np.unique(decisions.shape)
    members = np.concatenate([np.ones((1, len(of_shape)), bool), decisions.shape == classes[:, None]])
    ids = np.unique(decisions.clusters, return_inverse=True)[1]
    right, images = count_right(
        np.concatenate([members & of_shape, members & of_texture]), ids, resamples, np.random.default_rng(seed)
    )
    shape, texture = np.split(right, 2)
    decided = (of_shape | of_texture) & members
    metrics = ["shape_bias", *(f"shape_bias_{names.get(int(one), one)}" for one in classes)]
    for row, metric in enumerate(metrics):
        independent = len(np.unique(ids[decided[row]]))
        yield {"metric": metric} | _share(shape[row], shape[row] + texture[row], independent, level)
    either = shape[0] + texture[0]
    yield {"metric": "cue_accuracy"} | _share(either, images, int(ids.max()) + 1, level)


def _share(part: Floats, whole: Floats, independent: int, level: float) -> dict[str, Any]:
    """The ratio part / whole of the data, which come first, with an interval over the resamples."""
    nothing = {"value": None, "low": None, "high": None, "note": None}
    if not whole[0]:
        return nothing | {"note": "neither cue is ever named"}
    value = float(part[0] / whole[0])
    if independent < FEWEST_CLUSTERS:
        return nothing | {"value": value, "note": f"{independent} independent images are too few for an interval"}
    if value in (0, 1):
        return nothing | {"value": value, "note": "all decisions are alike, so resampling them shows no spread"}
    # A resample without a decision has no share; the others speak for it.
    there = whole[1:] > 0
    low, high = interval(part[1:][there] / whole[1:][there], level)
    return {"value": value, "low": low, "high": high, "note": None}
