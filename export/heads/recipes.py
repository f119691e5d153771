"""Create classification heads by training on labeled images or from embeddings of class prompts.

A trained head is a linear classifier on features of the images, which ONNX Runtime computes on the CPU. A zero-shot
head multiplies the cosine similarity of image and class embeddings by the logit scale, as CLIP does.
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
"""Images per batch, and maximum number of batches computed concurrently.

Small values limit memory.
"""
SCALE = 100.0
"""Default logit scale, which is that of OpenAI's CLIP."""
SCALE_KEY = "logit_scale"
"""Name of the tensor in a safetensors file that contains the logit scale itself, not its logarithm."""


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """Labeled images for training a head."""

    name: str
    """Name of the image set."""
    digest: str
    size: int
    preprocessing: str
    labels: NDArray[np.int32] = field(repr=False)
    """(n,) class indices from 0."""
    clusters: NDArray[np.int32] = field(repr=False)
    """(n,) cluster indices."""
    keys: NDArray[np.uint64] = field(repr=False)
    """(n,) keys that identify the same images in other image sets."""
    class_names: list[str] | None = field(repr=False)
    take: Callable[[NDArray[np.int64]], NDArray[np.uint8]] = field(repr=False)
    """Function that returns the (k, 3, size, size) uint8 pixels of k images, given their indices."""


@dataclass(frozen=True, eq=False)
class MadeHead:
    """A head, and the metadata to store with the model."""

    linear: LinearHead
    record: Head
    class_names: list[str] | None
    keys: NDArray[np.uint64]
    """(n,) keys of the training images."""


@dataclass(frozen=True, eq=False)
class TrainedHead:
    """Recipe for training a head on labeled images. The labels are checked at construction.

    Raises:
        UsageError: There are fewer than two classes or clusters, or a class has no image.
        UnknownName: There is no such method.
    """

    images: TrainingImages
    method: str = "ridge"
    seed: int = 0
    """Random seed for the folds of cross-validation."""
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
        """Name of the training set."""
        return self.images.name

    def check_network(self, name: str, image_size: int, crop: Crop | None) -> None:
        """Check that the training images have the size and preprocessing that the network expects.

        Raises:
            UsageError: They do not. The message states how to pack the images.
        """
        if self.images.size != image_size or not (crop is None or crop.gives(self.images.preprocessing)):
            options = crop.options if crop else f"--size {image_size}"
            raise UsageError(
                f"image set {self.images.name} ({self.images.preprocessing}) is not what {name} takes; pack it with "
                f"{options}"
            )

    def make(self, content: bytes, width: int, name: str) -> MadeHead:  # noqa: ARG002
        """Compute features with an ONNX model, and fit the head to them.

        Args:
            content: The ONNX model.
            width: Number of features per image.
            name: Name of the model, for error messages.

        Raises:
            ExportError: A feature is not finite, or ONNX Runtime failed.
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
    """Compute the features of all training images with an ONNX model.

    Args:
        content: The ONNX model.
        images: The training images.
        progress: Progress display.

    Returns:
        (n, d) features.

    Raises:
        ExportError: ONNX Runtime failed.
    """
    count, at_once = len(images.keys), min(processors(), AT_ONCE)
    parts = []
    with progress("computing features", count, "images") as advance:
        for features in run_in_batches(content, _batches(images, count), images.name, at_once):
            parts.append(features)
            advance(len(features))
    return np.concatenate(parts)


def _batches(images: TrainingImages, count: int) -> Iterator[NDArray[np.float32]]:
    """Yield batches of `BATCH` images as float32 in [0, 1]."""
    for start in range(0, count, BATCH):
        pixels = images.take(np.arange(start, min(start + BATCH, count)))
        yield np.divide(pixels, np.float32(255), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class PromptHead:
    """Recipe for a zero-shot head from class embeddings.

    Raises:
        UsageError: The embeddings are not finite or all 0 for a class, there are fewer than two classes, the scale is
            not positive, or the number of names differs.
    """

    source: str
    """Name of the file that contains the embeddings."""
    sha256: str
    embeddings: NDArray[np.floating] = field(repr=False)
    """(classes, d) embeddings of any length; they are divided by their L2 norms."""
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
        """Accept any network: class embeddings do not depend on the preprocessing of images."""

    def make(self, content: bytes, width: int, name: str) -> MadeHead:  # noqa: ARG002
        """Create the head.

        Args:
            content: The ONNX model, which is not used.
            width: Number of dimensions of the model's embeddings.
            name: Name of the model, for error messages.

        Raises:
            UsageError: The class embeddings have another number of dimensions.
        """
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
    """Read class embeddings from a file.

    Args:
        file: A .npy file with one array, or a .safetensors file with one tensor and optionally the logit scale.
        class_names: Class names in the order of the embeddings.

    Raises:
        UsageError: The file cannot be read or has other contents.
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
    # NumPy and safetensors raise many types of exceptions for damaged files.
    except Exception as error:
        raise UsageError(
            f"{file} holds no class embeddings ({words_of(error)}); give a .npy file of (classes, d) numbers, or a "
            f".safetensors file of one such tensor and perhaps {SCALE_KEY}"
        ) from error
    return PromptHead(file.name, sha256_of(file), embeddings, factor, class_names)


def prompts_of_array(embeddings: NDArray[np.floating], class_names: list[str] | None = None) -> PromptHead:
    """Create a head from class embeddings in memory."""
    array = np.ascontiguousarray(embeddings)
    return PromptHead("memory", hashlib.sha256(array.tobytes()).hexdigest(), array, class_names=class_names)
