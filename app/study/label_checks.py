"""Signs, before and after a run, that the labels of an image set are numbered otherwise than the classes of a model."""

# Either the labels are of another number of classes than the model has, or the 95 % interval of accuracy on the
# unperturbed images lies below 1 / classes. Sets that are decided in a space of ImageNet's classes are left out, whose
# labels are matched by WordNet ids, and accuracies on images whose cues conflict, which are made to mislead models.

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...analysis.database.store import Store
from ...core.errors import plural, some_of
from ...core.protocol import CLASSES
from ...core.records import SEVERAL, Model
from ...engine.decision import ALL_SPACE
from ...probes.images.image_set import ImageSet
from .compatibility import takes_images
from .resolve import Work

ADVICE = "name the classes of both, with --classes FILE of `bandlens export` and folders or a CSV file of names"
BELOW_CHANCE = """
SELECT cell.key, checkpoint.classes, result.top1, result.low, result.high
FROM (SELECT unnest(?::VARCHAR[]) AS key) JOIN cell USING (key)
JOIN cell_detail AS detail ON detail.cell = cell.id
JOIN cell_accuracy AS result ON result.cell = cell.id
JOIN checkpoint ON checkpoint.id = cell.checkpoint
WHERE detail.probe = 'clean' AND detail.scheme = 'single' AND detail.decision_space = 'all'
  AND result.high * checkpoint.classes < 1
"""


def doubt_numbers(models: Sequence[Model], image_sets: Sequence[ImageSet]) -> list[str]:
    """A line for each image set that has labels of another number of classes than a model.

    Models of 1,000 classes count for sets with names alone: labels by WordNet ids have none.
    """
    lines = []
    for images in image_sets:
        if images.labels is None or images.info.decision_space != ALL_SPACE:
            continue
        judged = [model for model in models if takes_images(model, images.info)]
        if not images.class_names:
            judged = [model for model in judged if model.classes != CLASSES]
        count = len(images.class_names or ()) or (_count_classes(images) if judged else 0)
        if differing := [f"{model.name} has {model.classes:,}" for model in judged if model.classes != count]:
            lines.append(
                f"image set {images.info.name} has labels of {plural(count, 'class')} and {some_of(differing)}, so "
                f"that a label may be the number of another class; {ADVICE}"
            )
    return lines


def _count_classes(images: ImageSet) -> int:
    """The number of classes of a set's labels, those of images that were not drawn included."""
    whole = images if images.rows is None else images.packed.select()
    labels = whole.schemes[SEVERAL].classes if SEVERAL in whole.schemes else whole.labels
    return 0 if labels is None else len(np.unique(labels))


def doubt_results(work: Work, store: Store) -> list[str]:
    """A line for each image set that models of the study are right on less often than by chance."""
    return doubt_accuracies(store, {cell.key: (cell.model.name, cell.image_set.name) for cell in work.cells})


def doubt_accuracies(store: Store, cells: Mapping[str, tuple[str, str]]) -> list[str]:
    """A line for each image set that models are right on less often than by chance.

    `cells` are the names of the checkpoint and image set of each cell's key; of those, the unperturbed are looked at.
    """
    by_set: dict[str, list[str]] = {}
    for key, classes, top1, low, high in store.frame(BELOW_CHANCE, [list(cells)]).rows():
        checkpoint, image_set = cells[key]
        by_set.setdefault(image_set, []).append(f"{checkpoint} {top1:.3f} [{low:.3f}, {high:.3f}] of 1/{classes}")
    return [
        f"accuracy without perturbation lies below chance on image set {image_set} ({some_of(sorted(models))}), so "
        f"that a label may be the number of another class; {ADVICE}"
        for image_set, models in sorted(by_set.items())
    ]
