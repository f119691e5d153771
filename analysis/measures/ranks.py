"""Mean reciprocal rank: how near the label comes to the top, also where it is not the prediction.

    reciprocal_rank = mean of 1 / (1 + r)      r: number of classes scored above the label

It is a share, 1 where every label is predicted, and takes the ranks of all labels; those of wrong imported predictions
are not known. Source: Voorhees 1999 (the TREC-8 question answering track), used for classifiers by REFINED-BIAS (arXiv
2603.10834).
"""

from __future__ import annotations

import numpy as np

from .base import ImageValues, Measure, Scope, has_labels
from .outcomes import CellOutcomes


def _values(cell: CellOutcomes) -> ImageValues | None:
    rank = cell.decisions.known_rank
    return None if rank is None else ImageValues(1 / (1 + rank.astype(np.float64)))


MEASURES = (
    Measure(
        "reciprocal_rank",
        "mean reciprocal rank",
        "share",
        Scope.CONDITION,
        values=_values,
        applies=has_labels,
        sense=1,
    ),
)
