"""Accuracy, agreement and reciprocal rank of a model under one condition.

    accuracy              proportion of images whose predicted class is the label
    agreement             without labels: proportion of images whose predicted class is the clean prediction
    accuracy_real         proportion of the images with ReaL labels for which ReaL accepts the predicted class
    reciprocal_rank       mean of 1 / (1 + r), where r is the number of classes scored above the label. If an image has
                          several correct classes, r is the rank of the one with the highest score.
    reciprocal_rank_real  the same over the images with ReaL labels, where r is the rank of the accepted class with the
                          highest score

Confidence intervals of these metrics, and of their paired differences from the clean images, are described in
`statistics.proportions`. Reciprocal ranks require the rank of every label. Imported predictions do not contain ranks,
so reciprocal ranks are not available for them.

Sources: Beyer et al. 2020 for the ReaL labels; Voorhees 1999 for the reciprocal rank, which REFINED-BIAS
(arXiv 2603.10834) applies to image classifiers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ....core.records import UNKNOWN_RANK
from ...statistics import Ints, Mask
from ..base import Available, Display, Estimate, ImageValues, Measure, State, Words, has_labels
from ..predictions import CellOutcomes, Decisions, ImageTruth


def real_right(images: ImageTruth, decisions: Decisions) -> tuple[Ints, Mask]:
    """Return the indices (m,) of the images with ReaL labels, ascending, and whether each prediction is accepted."""
    rows = images.listed_by_real
    answers = (rows << 16) + decisions.predicted[rows]
    # np.isin would build lookup tables, which costs more than a binary search for so few pairs of image and class.
    place = np.searchsorted(images.accepted, answers)
    return rows, images.accepted.take(place, mode="clip") == answers


def _right_values(cell: CellOutcomes) -> ImageValues | None:
    return None if cell.hits is None else ImageValues(cell.hits)


def _agreement_values(cell: CellOutcomes) -> ImageValues | None:
    if cell.hits is None:
        return None
    values = ImageValues(cell.hits, comparable=False)
    return replace(values, judge=_agree_with_itself) if cell.is_clean else values


def _real_values(cell: CellOutcomes) -> ImageValues | None:
    if not len(cell.images.accepted):
        return None
    rows, hits = real_right(cell.images, cell.decisions)
    values, mask = np.zeros((2, len(cell.images)), bool)
    values[rows], mask[rows] = hits, True
    return ImageValues(values, mask)


def _rank_values(cell: CellOutcomes) -> ImageValues | None:
    rank = cell.decisions.known_rank
    return None if rank is None else ImageValues(1 / (1 + rank.astype(np.float64)))


def _real_rank_values(cell: CellOutcomes) -> ImageValues | None:
    rank = cell.decisions.best_rank
    return None if rank is None else ImageValues(1 / (1 + rank.astype(np.float64)), rank != UNKNOWN_RANK)


def _agree_with_itself(estimate: Estimate) -> Estimate:
    note = "agrees with itself by definition"
    return replace(estimate, low=np.nan, high=np.nan, state=State.NO_INTERVAL, note=note)


def _listed_by_real(available: Available) -> bool:
    return "real" in available.schemes


def _measure(
    name: str,
    title: str,
    applies: Callable[[Available], bool],
    values: Callable[[CellOutcomes], ImageValues | None],
    words: Words | None = None,
) -> Measure[CellOutcomes]:
    """Return a metric of single conditions. Only the main accuracy of a cell has `words` that describe its changes."""
    display = Display(title, sense=1, primary=words is not None, words=words or Words())
    return Measure(name, display, applies=applies, values=values)


CELLS = "perturbed cells"
ACCURACY_WORDS = Words(change=("is", "accurate"), clean_change=("is", "accurate without perturbation"), cases=CELLS)
AGREEMENT_WORDS = Words(change=("agrees", "with its clean predictions"), cases=CELLS)
MEASURES = (
    _measure("accuracy", "accuracy", has_labels, _right_values, ACCURACY_WORDS),
    _measure("agreement", "agreement", lambda available: not available.labelled, _agreement_values, AGREEMENT_WORDS),
    _measure("accuracy_real", "accuracy by ReaL", _listed_by_real, _real_values),
)
RANK_MEASURES = (
    _measure("reciprocal_rank", "mean reciprocal rank", has_labels, _rank_values),
    _measure("reciprocal_rank_real", "mean reciprocal rank by ReaL", _listed_by_real, _real_rank_values),
)
