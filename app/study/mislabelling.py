"""Signs, before and after a run, that labels are numbered otherwise than the classes of the models."""

from __future__ import annotations

import numpy as np

from ...analysis.database.store import Store
from ...analysis.measures.mislabelling import doubt_accuracies, doubt_counts
from ...engine.decision import ALL
from ...probes.family import CLEAN
from .resolve import Work, takes_images


def doubt_numbers(work: Work) -> list[str]:
    """A line for each image set that has labels of another number of classes than a model: see `doubt_counts`."""
    lines = []
    for images in work.image_sets:
        if images.labels is not None and images.info.decision_space == ALL:
            names, labels = len(images.class_names or ()), len(np.unique(images.labels))
            models = [model for model in work.models if takes_images(model, images.info)]
            classes = {model.name: model.classes for model in models}
            lines += doubt_counts(images.info.name, names, labels, classes)
    return lines


def doubt_results(work: Work, store: Store) -> list[str]:
    """A line for each image set that models of the study are right on less often than by chance."""
    clean = [cell for cell in work.cells if cell.condition.probe == CLEAN.name]
    return doubt_accuracies(store, {cell.key: (cell.model.name, cell.image_set.name) for cell in clean})
