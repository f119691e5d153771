"""Check that models and image sets fit together, and convert labels to the class indices of the models."""

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
    """Return whether the images have the size and the preprocessing that the model requires."""
    return images.size == model.image_size and (model.crop is None or model.crop.gives(images.preprocessing))


def check_fits(models: Sequence[Model], image_sets: Sequence[ImageSetInfo]) -> None:
    """Check that every model has a compatible image set and every image set a compatible model.

    Raises:
        UsageError: One has none. The message states how to pack the images for the model.
    """
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
    """Raise UsageError for images whose predictions are not the argmax over all classes.

    The loss of the adversarial attack is defined for this case only.
    """
    if not decides_by_logits(images.decision_space):
        raise UsageError(
            f"image set {images.name} decides among {images.decision_space}, and attacks need a decision among all "
            "classes; leave it out of studies with attacks"
        )


def match_images(images: ImageSet, models: Sequence[Model]) -> ImageSet:
    """Return the image set with its labels converted to the class indices of the models.

    Args:
        images: The image set.
        models: Models that are compatible with its size and preprocessing.

    Raises:
        UsageError: Images and models differ in being multi-label, a label is not among a model's classes, or
            `match_labels` fails.
    """
    check_tasks(images, models)
    images = match_labels(images, models)
    check_labels(images, models)
    return images


def check_tasks(image_set: ImageSet, models: Iterable[Model]) -> None:
    """Raise UsageError if the images are multi-label and a model is not, or the other way round."""
    multilabel = image_set.info.decision_space == MULTILABEL
    for model in models:
        if image_set.labels is not None and model.multilabel != multilabel:
            raise UsageError(
                f"image set {image_set.info.name} has {'several labels' if multilabel else 'one label'} an image, and "
                f"{model.name} decides {'one' if multilabel else 'several'}; pack it "
                f"{'without' if multilabel else 'with'} --decision-space {MULTILABEL}, or leave one of them out"
            )


def check_labels(image_set: ImageSet, models: Iterable[Model]) -> None:
    """Raise UsageError if a label of an image, in any label scheme, is not among the classes of a model."""
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
    """Convert the labels to the class indices of the models by matching class names.

    If the class names of either the image set or the models are unknown, the labels stay as they were packed.

    Args:
        images: The image set.
        models: The models that will run on it.

    Returns:
        The image set with the class indices and the class names of the models.

    Raises:
        UsageError: A model does not have a class of the image set, two models have different indices for one class, or
            a model has no label names and the images are multi-label.
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
    """Return the model's class index for each class name of an image set.

    Return None if the class names of the model are unknown. This includes a user's model with 1000 classes some of
    which do not match, because its classes need not be those of ImageNet.
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
    """Remove the images on which a classification head of the models was trained.

    Args:
        images: The image set.
        models: The models that will run on it.
        overlap: One of `OVERLAPS` of `file.py`: whether training images are an error or are removed.

    Raises:
        UsageError: There are training images and `overlap` is `refuse`, or no image remains.
    """
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
