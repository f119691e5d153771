"""Pictures in memory as packing takes them: an array, a list of PIL images or arrays, or a dataset of torch."""

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
    """Pairs of a path and (height, width, 3) uint8 for `pack_arrays`, in the order of a draw, their labels, and names.

    Args:
        images: an array, (n, height, width, 3) or (n, 3, height, width), uint8 or in [0, 1]; or a sequence with a
            length, of PIL images, arrays or tensors, or of pairs of these and a class, as datasets of torch are.
        labels: a class for each, or the word `none`; by default those of the pairs.
        limit: the most images that are taken.

    The list has the labels of pairs once the pictures are read: a dataset decodes both. Names are of its classes.
    Raises UsageError for images without a length, for none, and for labels of another number.
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
    """The names of a dataset's classes, WordNet ids where it has these; None without, or where labels are changed."""
    dataset = getattr(images, "dataset", images)  # a part of a dataset has it
    names = getattr(dataset, "wnids", None) or getattr(dataset, "classes", None)
    if not isinstance(names, list) or getattr(dataset, "target_transform", None) is not None:
        return None
    return names if names and all(isinstance(name, str) for name in names) else None


def _as_class(label: Any) -> int:
    try:
        number = index(label)  # a float and a text have none
    except TypeError:
        number = -1
    if not 0 <= number <= LARGEST_CLASS:
        raise UsageError(
            f"labels are numbers of classes, from 0 to {LARGEST_CLASS}, not {label!r}; number them as the model does"
        )
    return number


def _as_pixels(picture: Any, name: str) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 of a PIL image, or of an array or tensor whose colours or grey come first or last."""
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
