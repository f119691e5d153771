"""How often a model is right, and how near the label comes to the top, under one condition.

    accuracy              share of images whose label is predicted
    agreement             without labels: share of images predicted as when clean
    accuracy_real         share of the images listed by ReaL for which a class is predicted that ReaL accepts
    reciprocal_rank       mean of 1 / (1 + r)     r: number of classes scored above the label, or the best of several
    reciprocal_rank_real  the same, r that of the best of the classes that ReaL accepts, over the images that it lists

Each, and its paired difference from the clean images, has the interval of `statistics.shares`. Reciprocal ranks take
the ranks of all labels, which imported predictions have not. Sources: Beyer et al. 2020 for the lists of ReaL; Voorhees
1999 for reciprocal ranks, used for classifiers by REFINED-BIAS (arXiv 2603.10834).
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
    """The (m,) images that ReaL lists, ascending, and whether an accepted class is predicted for each."""
    rows = images.listed_by_real
    answers = (rows << 16) + decisions.predicted[rows]
    place = np.searchsorted(images.accepted, answers)  # there are too few of them to be worth the tables of np.isin
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
    """A measure of single conditions; the main accuracy of a cell has words for its changes."""
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
