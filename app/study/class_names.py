"""Labels of image sets are matched with the classes of models, by name where both have names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ...core.errors import UsageError, some_of
from ...core.protocol import CLASSES, SPACE_CLASSES
from ...core.records import MULTILABEL, Model
from ...export.class_names import class_names_of
from ...export.weights.registry import checkpoints
from ...probes.images.decision_spaces import decision_space, imagenet_classes, names_of
from ...probes.images.image_set import ImageSet, open_image_set

ALL = decision_space("all")


class ModelClasses(NamedTuple):
    """The classes of a model, as far as their names are known."""

    numbers: Mapping[str, int]
    """The number of each name."""
    names: list[str] | None
    """The name of each class; None for ImageNet's, which every database has."""
    certain: bool
    """Whether the model has these classes. One of the user's own with 1000 of them may have others than ImageNet's."""


def match_labels(images: ImageSet, models: Sequence[Model]) -> ImageSet:
    """The image set with the numbers that its classes have in the models, where both have names.

    Where a side has none, the numbers stay as they were packed. Raises UsageError for a class that a model does not
    have, where two models give a class different numbers, and for sets of labels where a model has no names.
    """
    space = images.info.decision_space
    if images.class_names is None or space in SPACE_CLASSES:
        return images
    as_packed = tuple(range(len(images.class_names)))
    numberings: dict[tuple[int, ...], Model] = {}
    matching_classes: ModelClasses | None = None
    for model in models:
        classes = _classes_of(model)
        if classes is None and space == MULTILABEL:
            raise UsageError(
                f"image set {images.info.name} names its labels, and {model.name} does not; export it with --classes, "
                "or number the labels in the CSV file"
            )
        numbers = None if classes is None else _numbers(images.info.name, images.class_names, classes, model)
        matching_classes = matching_classes if numbers is None else classes
        numberings.setdefault(as_packed if numbers is None else numbers, model)
    if matching_classes is None:
        return images
    if len(numberings) > 1:
        (numbers_a, model_a), (numbers_b, model_b), *_ = numberings.items()
        place = next(place for place in as_packed if numbers_a[place] != numbers_b[place])
        raise UsageError(
            f"image set {images.info.name}: '{images.class_names[place]}' is class {numbers_a[place]} of "
            f"{model_a.name} and {numbers_b[place]} of {model_b.name}, as far as their names are known; name the "
            "classes of both with `export --classes`, or make a study of each"
        )
    (numbers,) = numberings
    if numbers != as_packed:
        images = open_image_set(images.folder, images.draw, numbers)
    return replace(images, class_names=matching_classes.names)


def _classes_of(model: Model) -> ModelClasses | None:
    """The names of the model's classes: its own, or ImageNet's; None where they are not known."""
    names = class_names_of(model)
    if names is not None:
        return ModelClasses({name: number for number, name in enumerate(names)}, names, certain=True)
    if model.classes != CLASSES:
        return None
    published = model.source.startswith("timm:") or any(model.name == checkpoint.name for checkpoint in checkpoints())
    return ModelClasses(names_of(ALL) | imagenet_classes(), None, certain=published)


def _numbers(image_set: str, names: Sequence[str], classes: ModelClasses, model: Model) -> tuple[int, ...] | None:
    """The model's number of each of the set's names; None where the model need not have the classes that are known."""
    unknown = [name for name in names if name not in classes.numbers]
    if not unknown:
        return tuple(classes.numbers[name] for name in names)
    if not classes.certain:
        return None
    raise UsageError(
        f"image set {image_set}: {some_of(unknown)} are none of the {model.classes} classes of {model.name}, such as "
        f"{some_of(classes.numbers)}; call the folders what the model calls its classes, or number them in a CSV file"
    )
