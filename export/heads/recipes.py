"""Recipes of heads: training on labelled images, and the embeddings of each class's prompts.

A trained head is a linear one on features of the images, which ONNX Runtime computes on the CPU. A zero-shot head gives
the cosine of an image's embedding with that of each class, times the logit scale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UnknownName, UsageError
from ...core.extras import naming_extras
from ...core.files import sha256_of
from ...core.jobs import Progress, processors, silent
from ...core.records import Crop, Head
from ...core.untrusted import regular, words_of
from ..class_names import check_distinct
from ..model_files import MOST_CLASSES
from ..onnx.parity import check_finite, run_in_batches
from .linear import METHODS, LinearHead, fit_head

BATCH, AT_ONCE = 4, 8
"""Images of a batch, and the most batches that are at work while the next ones are read: they take little memory."""
SCALE = 100.0
"""The logit scale where none is given: that of OpenAI's CLIP."""
SCALE_KEY = "logit_scale"
"""The name of the tensor in a safetensors file that holds the scale, as it multiplies: not its logarithm."""


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
    count, at_once = len(images.keys), min(processors(), AT_ONCE)
    parts = []
    with progress("computing features", count, "images") as advance:
        for features in run_in_batches(content, _batches(images, count), images.name, at_once):
            parts.append(features)
            advance(len(features))
    return np.concatenate(parts)


def _batches(images: TrainingImages, count: int) -> Iterator[NDArray[np.float32]]:
    """Images in [0, 1], BATCH at once."""
    for start in range(0, count, BATCH):
        pixels = images.take(np.arange(start, min(start + BATCH, count)))
        yield np.divide(pixels, np.float32(255), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class PromptHead:
    """A head of class embeddings; UsageError unless they are finite numbers of two classes or more, none all 0."""

    source: str
    """The name of the file that holds the embeddings."""
    sha256: str
    embeddings: NDArray[np.floating] = field(repr=False)
    """(classes, d), of any length: they are divided by their L2 norms."""
    scale: float = SCALE
    class_names: list[str] | None = None

    def __post_init__(self) -> None:
        array, scale = self.embeddings, self.scale
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating) or not 2 <= len(array) <= MOST_CLASSES:
            raise UsageError(
                f"{self.source} holds {array.shape} {array.dtype}; class embeddings are (classes, d) floating-point "
                f"numbers of 2 to {MOST_CLASSES:,} classes"
            )
        if bad_classes := np.flatnonzero(~(np.isfinite(array).all(axis=1) & array.any(axis=1))).tolist():
            raise UsageError(
                f"{self.source}: the embedding of class {bad_classes[0]} (from 0) is not finite or all 0; embed its "
                "prompts again"
            )
        if not (np.isfinite(scale) and scale > 0):
            raise UsageError(f"{self.source}: {SCALE_KEY} is {scale:g}; give the factor of the cosines, above 0")
        if self.class_names is not None and len(self.class_names) != len(array):
            raise UsageError(
                f"{self.source} has {len(array)} classes, and --classes names {len(self.class_names)}; give one name "
                "for each, in the order of the embeddings"
            )
        check_distinct(self.class_names or (), f"classes of {self.source}")

    def check_network(self, name: str, image_size: int, crop: Crop | None) -> None:
        """Prompts are for networks of any images."""

    def make(self, content: bytes, width: int, name: str) -> MadeHead:  # noqa: ARG002
        """The head for embeddings of `width` numbers; UsageError where the class embeddings have others."""
        if width != self.embeddings.shape[1]:
            raise UsageError(
                f"{name} gives embeddings of {width} numbers, and those of {self.source} have "
                f"{self.embeddings.shape[1]}; embed the prompts with the text tower of the same model"
            )
        embeddings = self.embeddings.astype(np.float64)
        weight = self.scale * embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        record = Head("prompts", self.source, self.sha256)
        return MadeHead(
            LinearHead(weight, np.zeros(len(weight)), unit=True), record, self.class_names, np.empty(0, np.uint64)
        )


def read_prompts(file: Path, class_names: list[str] | None = None) -> PromptHead:
    """Class embeddings of a .npy file of an array, or of a .safetensors file of one and perhaps of the logit scale.

    Raises UsageError where the file cannot be read, or holds something else.
    """
    with naming_extras(f"a {file.suffix} file"):
        from safetensors.numpy import load_file
    try:
        tensors: Mapping[str, Any]
        if file.suffix == ".npy":
            tensors = {"embeddings": np.load(regular(file), allow_pickle=False)}
        else:
            tensors = load_file(regular(file))
        scale = tensors.get(SCALE_KEY)
        (embeddings,) = (tensor for name, tensor in tensors.items() if name != SCALE_KEY)
        factor = SCALE if scale is None else float(np.asarray(scale).item())
    # NumPy and safetensors each fail in ways of their own.
    except Exception as error:
        raise UsageError(
            f"{file} holds no class embeddings ({words_of(error)}); give a .npy file of (classes, d) numbers, or a "
            f".safetensors file of one such tensor and perhaps {SCALE_KEY}"
        ) from error
    return PromptHead(file.name, sha256_of(file), embeddings, factor, class_names)


def prompts_of_array(embeddings: NDArray[np.floating], class_names: list[str] | None = None) -> PromptHead:
    """A head of class embeddings in memory."""
    array = np.ascontiguousarray(embeddings)
    return PromptHead("memory", hashlib.sha256(array.tobytes()).hexdigest(), array, class_names=class_names)
