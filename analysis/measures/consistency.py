"""Error consistency under one condition, with the clean images and with other models.

    clean_error_consistency   kappa of right and wrong with that of the same model on the clean images
    model_error_consistency   mean kappa with each of the study's other models under the same condition, but attacks

Where cues conflict, right is the first cue. `statistics.consistency` has formulas, sources and intervals. The first has
no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ..statistics.consistency import consistency_with_others, error_consistency
from ..statistics.shares import Share, mean_intervals, share_of
from .base import Available, Display, Estimate, Measure, Options, Scope, State, all_less_clean, has_labels, nothing
from .outcomes import CellOutcomes, PeerOutcomes, Peers

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


@lru_cache(maxsize=2)  # one condition and the clean images
def _mean_kappas(peers: Peers) -> dict[int, Share]:
    """Checkpoint -> its mean kappa with the others; NaN where it is undetermined."""
    clusters = peers.images.clusters[peers.images.judged]
    means = (share_of(row, clusters) for row in consistency_with_others(peers.hits))
    return dict(zip(peers.checkpoints, means, strict=True))


@lru_cache(maxsize=1)
def _model_estimates(peers: Peers) -> dict[int, Estimate]:
    """Checkpoint -> its estimate, compared with that of the clean images if there is one."""
    means = _mean_kappas(peers)
    # Kappas with other models are comparable only where these are the same models.
    same_models = peers.clean is not None and {*peers.clean.checkpoints} == {*peers.checkpoints}
    clean = _mean_kappas(peers.clean) if peers.clean and same_models else {}
    defined = [checkpoint for checkpoint, mean in means.items() if not np.isnan(mean.value)]
    references = [
        reference if (reference := clean.get(checkpoint)) and not np.isnan(reference.value) else None
        for checkpoint in defined
    ]
    note = "all is right, or all wrong, for a model"
    undetermined = {checkpoint: nothing(State.UNDETERMINED, note, mean.images) for checkpoint, mean in means.items()}
    estimates = all_less_clean([means[checkpoint] for checkpoint in defined], references, mean_intervals)
    return undetermined | dict(zip(defined, estimates, strict=True))


def model_estimates(outcomes: PeerOutcomes, _: Options) -> dict[str, Estimate]:
    """The mean kappa of one model with the others; its peers are compared once for all of them."""
    return {MODEL_NAME: _model_estimates(outcomes.peers)[outcomes.checkpoint]}


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
