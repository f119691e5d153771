"""Mean reciprocal rank: how near the label comes to the top.

    reciprocal_rank      = mean of 1 / (1 + r)     r: number of classes scored above the label
    reciprocal_rank_real = the same, r that of the best of the classes that ReaL accepts, over the images that it lists

They take the ranks of all labels, which imported predictions have not. Source: Voorhees 1999, used for classifiers by
REFINED-BIAS (arXiv 2603.10834).
"""

from __future__ import annotations

import numpy as np

from ...core.records import UNKNOWN_RANK
from .accuracy import listed_by_real
from .base import Display, ImageValues, Measure, Scope, has_labels
from .outcomes import CellOutcomes


def _values(cell: CellOutcomes) -> ImageValues | None:
    rank = cell.decisions.known_rank
    return None if rank is None else ImageValues(1 / (1 + rank.astype(np.float64)))


def _real_values(cell: CellOutcomes) -> ImageValues | None:
    rank = cell.decisions.best_rank
    return None if rank is None else ImageValues(1 / (1 + rank.astype(np.float64)), rank != UNKNOWN_RANK)


MEASURES = (
    Measure(
        "reciprocal_rank",
        Scope.CONDITION,
        Display("mean reciprocal rank", sense=1),
        applies=has_labels,
        values=_values,
    ),
    Measure(
        "reciprocal_rank_real",
        Scope.CONDITION,
        Display("mean reciprocal rank by ReaL", sense=1),
        applies=listed_by_real,
        values=_real_values,
    ),
)
