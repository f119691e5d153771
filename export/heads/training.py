"""A head that is trained: features of labelled images by ONNX Runtime on the CPU, and a linear head on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UnknownName, UsageError
from ...core.jobs import Progress, processors, silent
from ...core.records import Crop, Head
from ..class_names import check_distinct
from ..onnx.parity import check_finite, run_in_batches
from .linear import METHODS, LinearHead, fit_head

BATCH, AHEAD = 4, 8
"""Images of a batch, and the most batches that are at work while the next ones are read: they take little memory."""


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """The labelled images that a head is trained on."""

    name: str
    """The name of the image set."""
    digest: str
    size: int
    preprocessing: str
    labels: NDArray[np.int32] = field(repr=False)
    """(n,) classes from 0."""
    clusters: NDArray[np.int32] = field(repr=False)
    """(n,) cluster indices."""
    keys: NDArray[np.uint64] = field(repr=False)
    """(n,) the keys of the images, by which they are recognized in other sets."""
    class_names: list[str] | None = field(repr=False)
    take: Callable[[NDArray[np.int64]], NDArray[np.uint8]] = field(repr=False)
    """(k, 3, size, size) pixels of k images by their rows."""


@dataclass(frozen=True, eq=False)
class MadeHead:
    """A head, and what is recorded of it."""

    linear: LinearHead
    record: Head
    class_names: list[str] | None
    keys: NDArray[np.uint64]
    """(n,) the keys of the images that it was trained on."""


@dataclass(frozen=True, eq=False)
class TrainedHead:
    """A head to be trained on images, whose labels are checked when this is made.

    Raises UsageError for images of one class or one cluster, or where a class has none; and UnknownName for an unknown
    method.
    """

    images: TrainingImages
    method: str = "ridge"
    seed: int = 0
    """The seed of the folds of cross-validation."""
    progress: Progress = silent

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UnknownName("method of a head", self.method, METHODS)
        images, labels = self.images, self.images.labels
        classes = int(labels.max()) + 1
        if images.class_names is not None and len(images.class_names) != classes:
            raise UsageError(
                f"{images.name} has {classes} classes, and {len(images.class_names)} names were given; give each one"
            )
        check_distinct(images.class_names or (), f"classes of {images.name}")
        if len(np.unique(labels)) < 2:
            raise UsageError(f"all images of {images.name} are of one class; a head needs two at least")
        if len(labels) < classes:
            raise UsageError(f"image set {images.name} has {len(labels)} images of {classes} classes; give it more")
        if len(missing := np.flatnonzero(np.bincount(labels, minlength=classes) == 0)):
            raise UsageError(
                f"image set {images.name} has no image of {len(missing)} of {classes} classes, the first number "
                f"{missing[0]}; pack it with --labels folders, which numbers the classes that are there"
            )
        if len(np.unique(images.clusters)) < 2:
            raise UsageError(f"all images of {images.name} are one cluster; cross-validation needs two at least")

    @property
    def source(self) -> str:
        """The name of the training set."""
        return self.images.name

    def check_network(self, name: str, image_size: int, crop: Crop | None) -> None:
        """UsageError, which says how to pack, unless the images are made as the network takes them."""
        if self.images.size != image_size or not (crop is None or crop.gives(self.images.preprocessing)):
            options = crop.options if crop else f"--size {image_size}"
            raise UsageError(
                f"image set {self.images.name} ({self.images.preprocessing}) is not what {name} takes; pack it with "
                f"{options}"
            )

    def make(self, content: bytes, width: int, name: str) -> MadeHead:  # noqa: ARG002
        """The head that is fitted to the features that an ONNX file gives of the images; ExportError unless finite.

        `name` is that of the model.
        """
        images, labels = self.images, self.images.labels
        features = check_finite(compute_features(content, images, self.progress), name, "features")
        fitted = fit_head(features, labels, images.clusters, self.method, self.seed)
        record = Head(
            self.method,
            images.name,
            images.digest,
            len(labels),
            fitted.strength,
            fitted.accuracy,
            images.preprocessing,
        )
        return MadeHead(fitted.head, record, images.class_names, images.keys)


def compute_features(content: bytes, images: TrainingImages, progress: Progress = silent) -> NDArray[np.float32]:
    """(n, d) features that an ONNX file gives of (n, 3, S, S) images; ExportError where ONNX Runtime fails."""
    count, ahead = len(images.keys), min(processors(), AHEAD)
    parts = []
    with progress("computing features", count, "images") as advance:
        for features in run_in_batches(content, _batches(images, count), images.name, ahead):
            parts.append(features)
            advance(len(features))
    return np.concatenate(parts)


def _batches(images: TrainingImages, count: int) -> Iterator[NDArray[np.float32]]:
    """Images in [0, 1], BATCH at once."""
    for start in range(0, count, BATCH):
        pixels = images.take(np.arange(start, min(start + BATCH, count)))
        yield np.divide(pixels, np.float32(255), dtype=np.float32)
