"""Error consistency under one condition, with the clean images and with other models.

    clean_error_consistency   kappa of right and wrong with that of the same model on the clean images
    model_error_consistency   mean kappa with each of the study's other models under the same condition, but attacks

Where cues conflict, right is the first cue. `statistics.consistency` has formulas, sources and intervals. The first has
no difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..statistics.consistency import consistency_with_others, error_consistency
from .base import Available, Estimate, Measure, Options, Scope, State, has_labels, nothing
from .outcomes import CellOutcomes

CLEAN_NAME = "clean_error_consistency"


def _clean_estimates(cell: CellOutcomes, options: Options) -> dict[str, Estimate]:
    clean, images = cell.unperturbed(), cell.images
    if clean is None or clean.right is None or cell.right is None or cell.is_clean or not images.labelled:
        return {}
    consistency = error_consistency(
        clean.right[images.judged],
        cell.right[images.judged],
        images.clusters[images.judged] if images.clustered else None,
        options.resamples,
    )
    if np.isnan(consistency.kappa):
        estimate = nothing(State.UNDETERMINED, "all is right, or all wrong, under one of the two", consistency.n)
    elif np.isnan(consistency.low):
        note = "too few images are right, or wrong, for an interval"
        estimate = Estimate(consistency.kappa, state=State.NO_INTERVAL, note=note, n=consistency.n)
    else:
        estimate = Estimate(consistency.kappa, consistency.low, consistency.high, n=consistency.n)
    return {CLEAN_NAME: estimate}


def _several_models(available: Available) -> bool:
    return available.labelled and available.checkpoints > 1


MEASURES = (
    Measure(
        CLEAN_NAME,
        "error consistency with clean",
        "kappa",
        Scope.CONDITION,
        estimates=_clean_estimates,
        applies=has_labels,
        folded=False,
    ),
)
MODEL_MEASURES: Sequence[Measure[CellOutcomes]] = (
    Measure(
        "model_error_consistency",
        "error consistency with other models",
        "kappa",
        Scope.MODELS,
        among=consistency_with_others,
        undetermined="all is right, or all wrong, for a model",
        applies=_several_models,
        folded=False,
    ),
)
