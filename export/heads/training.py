"""A head that is trained: features of labelled images by ONNX Runtime on the CPU, and a linear head on them.

Features are written to a hidden file beside the model as they are computed. A command that was interrupted, or whose
head could not be fitted, leaves it, and the next one that needs the same features goes on there.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...core.errors import ExportError, UnknownName, UsageError, advice_on
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

    def make(self, content: bytes, width: int, name: str, folder: Path) -> MadeHead:
        """The head that is fitted to the features, (n, width), that an ONNX file gives of the images.

        `name` is that of the model, which will lie in `folder`. Raises ExportError for features that are not finite.
        """
        labels = self.images.labels
        digest = hashlib.sha256(content + self.images.digest.encode()).hexdigest()
        file = folder / f".{name}.features-{digest[:16]}"
        features = compute_features(content, width, self.images, file, self.progress)
        if not np.isfinite(features).all():  # the next command would take them from the file
            file.unlink(missing_ok=True)
        check_finite(features, name, "features")
        fitted = fit_head(features, labels, self.images.clusters, self.method, self.seed)
        file.unlink(missing_ok=True)
        images = self.images
        record = Head(
            self.method,
            images.name,
            images.digest,
            len(labels),
            fitted.strength,
            fitted.accuracy,
            images.preprocessing,
        )
        return MadeHead(fitted.head, record, self.images.class_names, self.images.keys)


def compute_features(
    content: bytes, width: int, images: TrainingImages, file: Path, progress: Progress = silent
) -> NDArray[np.float32]:
    """(n, width) features that an ONNX file gives of (n, 3, S, S) images in [0, 1]; `file` keeps them meanwhile.

    Rows that the file already has are not computed again. Raises ExportError where ONNX Runtime fails, the file cannot
    be written, or another process writes it.
    """
    count, length = len(images.keys), 4 * width
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a+b") as rows:
            _lock(rows, file)
            first = min(rows.seek(0, 2) // length, count)
            rows.truncate(first * length)  # a row may have been cut off
            with progress("computing features", count, "images") as advance:
                advance(first)
                ahead = min(processors(), AHEAD)
                for features in run_in_batches(content, _batches(images, first, count), images.name, ahead):
                    rows.write(features.astype(np.float32).tobytes())
                    advance(len(features))
            rows.seek(0)
            return np.frombuffer(rows.read(), np.float32).reshape(count, width)
    except OSError as error:
        advice = advice_on(error, "make room or choose another folder")
        raise ExportError(f"cannot write {file}: {error.strerror}; {advice}") from error


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ExportError(f"another process writes {path}; wait for it, or give the model another name") from None


def _batches(images: TrainingImages, first: int, count: int) -> Iterator[NDArray[np.float32]]:
    """Images in [0, 1], BATCH at once."""
    for start in range(first, count, BATCH):
        pixels = images.take(np.arange(start, min(start + BATCH, count)))
        yield np.divide(pixels, np.float32(255), dtype=np.float32)
