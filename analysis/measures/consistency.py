"""Error consistency under one condition, with the clean images and with other models.

    clean_error_consistency   kappa of right and wrong with that of the same model on the clean images
    model_error_consistency   mean kappa with each of the study's other models under the same condition, but attacks

Where cues conflict, right is the first cue. `statistics.consistency` has formulas, sources and intervals. The first has
no difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..statistics.consistency import error_consistency
from ..statistics.shares import mean_interval
from .base import Available, Display, Estimate, Measure, Options, Scope, State, has_labels, less_clean, nothing
from .outcomes import CellOutcomes, PeerOutcomes

CLEAN_NAME, MODEL_NAME = "clean_error_consistency", "model_error_consistency"


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


def model_estimates(outcomes: PeerOutcomes, _: Options) -> dict[str, Estimate]:
    """The mean kappa of one model with the others."""
    peers, checkpoint = outcomes.peers, outcomes.checkpoint
    mean, clean = peers.kappas[checkpoint], peers.clean_kappas.get(checkpoint)
    if np.isnan(mean.value):
        note = "all is right, or all wrong, for a model"
        return {MODEL_NAME: nothing(State.UNDETERMINED, note, mean.images)}
    reference = None if clean is None or np.isnan(clean.value) else clean
    return {MODEL_NAME: less_clean(mean, reference, mean_interval)}


def _several_models(available: Available) -> bool:
    return available.labelled and available.checkpoints > 1


MEASURES = (
    Measure(
        CLEAN_NAME,
        Scope.CONDITION,
        Display("error consistency with clean", "kappa", folded=False),
        applies=has_labels,
        estimates=_clean_estimates,
    ),
)
MODEL_MEASURES: Sequence[Measure[PeerOutcomes]] = (
    Measure(
        MODEL_NAME,
        Scope.MODELS,
        Display("error consistency with other models", "kappa", folded=False),
        applies=_several_models,
        estimates=model_estimates,
    ),
)
