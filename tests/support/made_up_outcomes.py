"""Outcomes of a model that never ran, for tests of measures without a database."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from made_up_results import condition
from numpy.typing import ArrayLike, NDArray

from bandlens.analysis.metrics.base import Available
from bandlens.analysis.metrics.predictions import (
    CellOutcomes,
    CleanPairs,
    ConditionKey,
    Decisions,
    ImageTruth,
    Outcomes,
    Subject,
)
from bandlens.core.records import Condition

CLEAN = condition()


def images_of(
    count: int, clusters: ArrayLike | None = None, cues: tuple[ArrayLike, ArrayLike] | None = None
) -> ImageTruth:
    """Labelled images whose label is 0 or the first of two cues."""
    no_cue = np.full(count, -1)
    first, second = (no_cue, no_cue) if cues is None else (np.asarray(cue, np.int64) for cue in cues)
    ids = np.arange(count) if clusters is None else np.asarray(clusters, np.int64)
    return ImageTruth(
        digest="made up",
        clusters=ids,
        photographs=ids,
        labelled=True,
        label=np.zeros(count, np.int64) if cues is None else first,
        several=np.zeros(0, np.int64),
        accepted=np.zeros(0, np.int64),
        first_cue=first,
        second_cue=second,
        schemes=frozenset(["shape", "texture"] if cues else ["single"]),
    )


def outcomes_of(
    predicted: Mapping[Condition, ArrayLike],
    images: ImageTruth,
    names: Mapping[int, str] | None = None,
    classes: int = 10,
) -> Outcomes:
    """Outcomes of the predictions under each condition; CLEAN is among them, or not."""
    label = images.label if images.labelled else None
    decisions = {setting: _decisions(np.asarray(answer), label) for setting, answer in predicted.items()}
    clean = decisions.get(CLEAN)
    subject = Subject(1, "s@1", 2, "net", 3, "set", classes, 224, images.labelled)
    pairs = CleanPairs(images, clean, [*decisions.values()]) if clean and images.labelled else None
    cells = {
        ConditionKey(number, setting.probe, str(setting)): CellOutcomes(
            images, decided, clean, names or {}, subject.floor, pairs
        )
        for number, (setting, decided) in enumerate(decisions.items())
    }
    return Outcomes(subject, Available(list(predicted), images.schemes, images.labelled, classes), cells)


def right_outcomes(
    hits: Mapping[Condition, NDArray[np.bool_]], clusters: ArrayLike | None = None, classes: int = 1000
) -> Outcomes:
    """Outcomes of images of class 0 that are right or wrong under each condition."""
    images = images_of(len(next(iter(hits.values()))), clusters)
    return outcomes_of({setting: ~answer for setting, answer in hits.items()}, images, classes=classes)


def _decisions(predicted: NDArray[np.integer], label: NDArray[np.int64] | None) -> Decisions:
    rank = None if label is None else (predicted != label).astype(np.uint16)
    return Decisions(predicted.astype(np.uint16), rank, np.full(len(predicted), 0.5, np.float32))
