"""The match of models and image sets: which images a model takes, and which numbers its classes have in the labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from ...core.errors import UsageError, some_of
from ...core.log import log
from ...core.protocol import CLASSES, SPACE_CLASSES
from ...core.records import MULTILABEL, SEVERAL, ImageSetInfo, Model
from ...engine.decision import decides_by_logits
from ...export.class_names import class_names_of
from ...export.model_files import training_keys_of
from ...export.weights.study_checkpoints import checkpoints
from ...probes.images.decision_spaces import decision_space, imagenet_classes, names_of
from ...probes.images.image_set import ImageSet, Scheme

ALL_SPACE = decision_space("all")


def takes_images(model: Model, images: ImageSetInfo) -> bool:
    """Whether the images were made of photographs as the model takes them."""
    return images.size == model.image_size and (model.crop is None or model.crop.gives(images.preprocessing))


def check_fits(models: Sequence[Model], image_sets: Sequence[ImageSetInfo]) -> None:
    """UsageError, which says what to pack, unless every model has an image set and every image set a model."""
    models_by_crop: dict[str, list[str]] = {}
    for model in models:
        if not any(takes_images(model, images) for images in image_sets):
            how = model.crop.options if model.crop else f"--size {model.image_size}"
            models_by_crop.setdefault(how, []).append(model.name)
    if models_by_crop:
        needs = [f"one for {some_of(names)} with {how}" for how, names in models_by_crop.items()]
        raise UsageError(
            f"no image set of the study has the pixels that all of its checkpoints take; pack {', '.join(needs)}"
        )
    for images in image_sets:
        if not any(takes_images(model, images) for model in models):
            raise UsageError(
                f"image set {images.name} ({images.preprocessing}) fits no checkpoint of the study; leave it out"
            )


def check_attackable(images: ImageSetInfo) -> None:
    """UsageError for images whose decision is not the argmax over all classes: an attack has no loss for another."""
    if not decides_by_logits(images.decision_space):
        raise UsageError(
            f"image set {images.name} decides among {images.decision_space}, and attacks need a decision among all "
            "classes; leave it out of studies with attacks"
        )


def match_images(images: ImageSet, models: Sequence[Model]) -> ImageSet:
    """The image set with labels in the numbers of the models, which take its images.

    Raises UsageError where the models decide other labels than the images have, and as `match_labels`.
    """
    check_tasks(images, models)
    images = match_labels(images, models)
    check_labels(images, models)
    return images


def check_tasks(image_set: ImageSet, models: Iterable[Model]) -> None:
    """UsageError where images have several labels each, and a model decides one, or the other way round."""
    multilabel = image_set.info.decision_space == MULTILABEL
    for model in models:
        if image_set.labels is not None and model.multilabel != multilabel:
            raise UsageError(
                f"image set {image_set.info.name} has {'several labels' if multilabel else 'one label'} an image, and "
                f"{model.name} decides {'one' if multilabel else 'several'}; pack it "
                f"{'without' if multilabel else 'with'} --decision-space {MULTILABEL}, or leave one of them out"
            )


def check_labels(image_set: ImageSet, models: Iterable[Model]) -> None:
    """UsageError when a class of an image, or one that ReaL lists for it, is one that a model does not have."""
    if not decides_by_logits(image_set.info.decision_space):
        for model in models:
            if model.classes != CLASSES:
                raise UsageError(
                    f"image set {image_set.info.name} is decided between classes of ImageNet, and {model.name} has "
                    f"{model.classes} classes, not {CLASSES}; leave one of them out"
                )
        return
    schemes = [image_set.schemes[name] for name in ("real", SEVERAL) if name in image_set.schemes]
    if image_set.labels is not None:
        schemes.append(Scheme(np.arange(len(image_set.labels)), image_set.labels))
    for model in models:
        for rows, classes in schemes:
            for beyond in np.flatnonzero(classes >= model.classes)[:1]:
                raise UsageError(
                    f"image set {image_set.info.name}: {image_set.paths[rows[beyond]]} is labelled {classes[beyond]}, "
                    f"but {model.name} has {model.classes} classes; give labels from 0 to {model.classes - 1}"
                )


def match_labels(images: ImageSet, models: Sequence[Model]) -> ImageSet:
    """The image set with the numbers that its classes have in the models, where both have names.

    Where a side has none, the numbers stay as they were packed. Raises UsageError for a class that a model does not
    have, where two models give a class different numbers, and for sets of labels where a model has no names.
    """
    name, space = images.info.name, images.info.decision_space
    if images.class_names is None or space in SPACE_CLASSES:
        return images
    as_packed = tuple(range(len(images.class_names)))
    numberings: dict[tuple[int, ...], Model] = {}
    named_model: Model | None = None
    for model in models:
        numbers = _numbers(name, images.class_names, model)
        if numbers is None and space == MULTILABEL and class_names_of(model) is None:
            raise UsageError(
                f"image set {name} names its labels, and {model.name} does not; export it with --classes, "
                "or number the labels in the CSV file"
            )
        named_model = named_model if numbers is None else model
        numberings.setdefault(as_packed if numbers is None else numbers, model)
    if named_model is None:
        return images
    if len(numberings) > 1:
        (numbers_a, model_a), (numbers_b, model_b), *_ = numberings.items()
        place = next(place for place in as_packed if numbers_a[place] != numbers_b[place])
        raise UsageError(
            f"image set {name}: '{images.class_names[place]}' is class {numbers_a[place]} of "
            f"{model_a.name} and {numbers_b[place]} of {model_b.name}, as far as their names are known; name the "
            "classes of both with `export --classes`, or make a study of each"
        )
    (numbers,) = numberings
    if numbers != as_packed:
        images = images.renumber(numbers)
    return replace(images, class_names=class_names_of(named_model))


def _numbers(image_set: str, set_names: Sequence[str], model: Model) -> tuple[int, ...] | None:
    """The model's number of each of the set's names; None where the names of its classes are not known.

    A model of the user's own with 1000 classes may have others than ImageNet's.
    """
    names = class_names_of(model)
    if names is None and model.classes != CLASSES:
        return None
    number_of = names_of(ALL_SPACE) | imagenet_classes() if names is None else {name: k for k, name in enumerate(names)}
    unknown = [name for name in set_names if name not in number_of]
    if not unknown:
        return tuple(number_of[name] for name in set_names)
    published = model.source.startswith("timm:") or any(model.name == checkpoint.name for checkpoint in checkpoints())
    if names is None and not published:
        return None
    raise UsageError(
        f"image set {image_set}: {some_of(unknown)} are none of the {model.classes} classes of {model.name}, such as "
        f"{some_of(number_of)}; call them what the model does, number them, or pack without labels: --labels none"
    )


def without_training_images(images: ImageSet, models: Sequence[Model], overlap: str) -> ImageSet:
    """The images that no head of the models was trained on; UsageError where there are others, unless to leave out."""
    unlike = [
        model.name
        for model in models
        if model.head and model.head.preprocessing not in (None, images.info.preprocessing)
    ]
    if unlike:
        log.info(
            f"bandlens: {images.info.name} was packed otherwise than the training images of {some_of(unlike)}, so that "
            "images of both are not recognized; pack both with the same options"
        )
    training_masks = {
        model: np.isin(images.keys, np.array(training_keys_of(model), np.uint64)) for model in models if model.head
    }
    model, mask = max(training_masks.items(), key=lambda entry: entry[1].sum(), default=(None, np.zeros(1)))
    if model is None or model.head is None or not mask.any():
        return images
    name, count = images.info.name, images.info.count
    trained_on = f"the head of {model.name} was trained on {mask.sum()} of the {count} images of {name}"
    if overlap != "leave out":
        raise UsageError(
            f"{trained_on}, and accuracy on these says nothing of new ones; pack others, or put "
            'overlap = "leave out" into the study'
        )
    rows = np.flatnonzero(~np.any(list(training_masks.values()), axis=0))
    if not len(rows):
        raise UsageError(f"{trained_on}, and no image remains; pack others")
    log.info(f"bandlens: {trained_on}; {count - len(rows)} images are left out")
    return images.select(rows)
