"""Zero-shot heads: the cosine of an image's embedding with that of each class's prompts, times the logit scale."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UsageError
from ...core.files import sha256_of
from ...core.records import Crop, Head
from ...core.untrusted import first_line, regular
from ..class_names import check_distinct
from ..model_files import MOST_CLASSES
from .linear import LinearHead
from .training import MadeHead

SCALE = 100.0
"""The logit scale where none is given: that of OpenAI's CLIP."""
SCALE_KEY = "logit_scale"
"""The name of the tensor in a safetensors file that holds the scale, as it multiplies: not its logarithm."""
MOST_EMBEDDINGS_BYTES = 1 << 30
"""The most bytes that a file of embeddings may have."""


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
    try:
        if regular(file).stat().st_size > MOST_EMBEDDINGS_BYTES:
            raise ValueError(f"more than {MOST_EMBEDDINGS_BYTES:,} bytes")
        tensors: Mapping[str, Any]
        if file.suffix == ".npy":
            tensors = {"embeddings": np.load(file, allow_pickle=False)}
        else:
            from safetensors.numpy import load_file

            tensors = load_file(file)
        scale = tensors.get(SCALE_KEY)
        (embeddings,) = (tensor for name, tensor in tensors.items() if name != SCALE_KEY)
        factor = SCALE if scale is None else float(np.asarray(scale).item())
    # NumPy and safetensors each fail in ways of their own.
    except Exception as error:
        raise UsageError(
            f"{file} holds no class embeddings ({first_line(error)}); give a .npy file of (classes, d) numbers, or a "
            f".safetensors file of one such tensor and perhaps {SCALE_KEY}"
        ) from error
    return PromptHead(file.name, sha256_of(file), embeddings, factor, class_names)


def prompts_of_array(embeddings: NDArray[np.floating], class_names: list[str] | None = None) -> PromptHead:
    """A head of class embeddings in memory."""
    array = np.ascontiguousarray(embeddings)
    return PromptHead("memory", hashlib.sha256(array.tobytes()).hexdigest(), array, class_names=class_names)
