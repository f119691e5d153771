"""Warn if the labels of an image set seem to use different class indices than a model."""

# Two signs are checked. Before a run: the labels have a different number of classes than the model. After a run: the
# 95% confidence interval of accuracy on unperturbed images is below the chance level, 1 / classes. Image sets with a
# decision space of ImageNet classes are skipped, because their labels are matched by WordNet ids. So are cue-conflict
# images, because they are designed to mislead models.

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
    """Return a warning for each image set whose labels have a different number of classes than a model.

    A model with 1,000 classes is only checked if the image set has class names, because labels by WordNet ids have
    none.
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
    """Count the distinct labels of an image set, including those of images that were not sampled."""
    whole = images if images.rows is None else images.packed.select()
    labels = whole.schemes[SEVERAL].classes if SEVERAL in whole.schemes else whole.labels
    return 0 if labels is None else len(np.unique(labels))


def doubt_results(work: Work, store: Store) -> list[str]:
    """Return a warning for each image set on which models of the study have an accuracy below chance."""
    return doubt_accuracies(store, {cell.key: (cell.model.name, cell.image_set.name) for cell in work.cells})


def doubt_accuracies(store: Store, cells: Mapping[str, tuple[str, str]]) -> list[str]:
    """Return a warning for each image set on which models have an accuracy below chance.

    Args:
        store: Results database.
        cells: Key of a cell -> names of its checkpoint and its image set. Cells with perturbed images are ignored.
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
