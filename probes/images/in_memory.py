"""Prepare images in memory for packing: an array, a list of PIL images or arrays, or a PyTorch dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UsageError
from .labels import LARGEST_CLASS, spread


def pictures_of(
    images: Any, labels: Iterable[int] | str | None, limit: int
) -> tuple[Iterator[tuple[str, NDArray[np.uint8]]], list[int] | None, list[str] | None]:
    """Select images and return them in the form that `pack_arrays` takes, with their labels and class names.

    The list of labels is only complete after all images have been read if the labels come from pairs, because a dataset
    decodes an image and its label together.

    Args:
        images: An array, (n, height, width, 3) or (n, 3, height, width), uint8 or float in [0, 1]. Or a sequence with a
            length whose items are PIL images, arrays or tensors, or pairs of one of these and a class index, as in
            PyTorch datasets.
        labels: A class index for each image, or `none`. By default the labels of the pairs are used.
        limit: Maximum number of images. If there are more, a sample balanced between classes is selected.

    Returns:
        Pairs of a path and a (height, width, 3) uint8 array, in the order of the sample; their labels; the names of the
        classes.

    Raises:
        UsageError: The images have no length, there are none, or the number of labels differs from the number of
            images.
    """
    try:
        count = len(images)
        first = images[0] if count else None
    except (TypeError, KeyError, IndexError):
        raise UsageError(
            f"images are of {type(images).__name__}; give a folder, an archive, a packed set, an array, a list of "
            "pictures, or a dataset with a length"
        ) from None
    if not count:
        raise UsageError("there are no images; give at least two")
    classes = None if labels is None or isinstance(labels, str) else np.array([*map(_as_class, labels)], np.int32)
    if classes is not None and len(classes) != count:
        raise UsageError(f"there must be {count:,} labels, one for each image, not {len(classes):,}")
    paths = [f"{row:0{len(str(count - 1))}}.png" for row in range(count)]
    rows = spread(classes, paths, min(limit, count), 0).tolist()
    is_paired = labels is None and isinstance(first, (tuple, list)) and len(first) == 2
    taken = [] if is_paired else None if classes is None else classes[rows].tolist()

    def read() -> Iterator[tuple[str, NDArray[np.uint8]]]:
        for row in rows:
            picture = images[row]
            if isinstance(picture, (tuple, list)) and len(picture) == 2:
                picture, label = picture
                if is_paired and taken is not None:
                    taken.append(_as_class(label))
            yield paths[row], _as_pixels(picture, f"image {row}")

    return read(), taken, _class_names(images) if is_paired else None


def _class_names(images: Any) -> list[str] | None:
    """Return the class names (or WordNet IDs) of a dataset, or None if it has none or transforms its labels."""
    dataset = getattr(images, "dataset", images)  # torch.utils.data.Subset wraps the dataset
    names = getattr(dataset, "wnids", None) or getattr(dataset, "classes", None)
    if not isinstance(names, list) or getattr(dataset, "target_transform", None) is not None:
        return None
    return names if names and all(isinstance(name, str) for name in names) else None


def _as_class(label: Any) -> int:
    """Convert a label to a class index."""
    try:
        number = index(label)  # raises TypeError for floats and text
    except TypeError:
        number = -1
    if not 0 <= number <= LARGEST_CLASS:
        raise UsageError(
            f"labels are numbers of classes, from 0 to {LARGEST_CLASS}, not {label!r}; number them as the model does"
        )
    return number


def _as_pixels(picture: Any, name: str) -> NDArray[np.uint8]:
    """Convert a PIL image, or an array or tensor with 1 or 3 channels first or last, to (height, width, 3) uint8."""
    pixels = np.asarray(picture.convert("RGB") if hasattr(picture, "convert") else picture)
    if pixels.ndim == 0:
        kind = type(picture).__name__
        raise UsageError(f"{name} is of {kind}; give pictures of PIL or arrays, or the path of a folder")
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3) and pixels.shape[2] not in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or not pixels.size:
        advice = "; of one image, give images[None]" if pixels.ndim == 2 else ""
        raise UsageError(f"{name} has shape {pixels.shape}; give RGB, (height, width, 3) or (3, height, width){advice}")
    if pixels.dtype.kind == "f":
        low, high = float(pixels.min()), float(pixels.max())
        if not 0 <= low <= high <= 1:
            raise UsageError(
                f"{name} has numbers from {low:.3g} to {high:.3g}; give images in [0, 1], before they are "
                "normalized, or of uint8"
            )
        pixels = np.round(pixels * 255)
    elif pixels.dtype != np.uint8:
        raise UsageError(f"{name} is of {pixels.dtype}; give images of uint8, or in [0, 1]")
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3)).astype(np.uint8)
