"""Data classes that are shared between folders. They are frozen, and importing them loads no heavy library."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import cached_property
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .errors import UnknownName, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def digest_of(*fields: object) -> str:
    """Return the SHA-256 digest of the canonical JSON of `fields`, as 64 hexadecimal digits.

    It identifies conditions, cells and image sets.
    """
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


Value = float | int | str
"""Value of a probe parameter."""


def in_words(parameters: Iterable[tuple[str, Value]]) -> str:
    """Format parameters for messages, tables and charts: `noise_sd=0.08, frequency=3`."""
    return ", ".join(
        f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}" for name, value in parameters
    )


MULTILABEL: Final = "multilabel"
"""Task of multi-label models, and decision space of multi-label images.

Each output of a multi-label model decides about one label independently. Its classes are the sets of labels.
"""
SEVERAL: Final = "several"
"""Label scheme of images with several correct classes, any of which counts.

The rank of an image is the best rank among its correct classes.
"""
MOST_LABELS = 15
"""Maximum number of labels of a multi-label model: predictions and ranks of its 2^15 label sets fit into 16 bits."""


def label_set_in_words(labels: Iterable[str]) -> str:
    """Return the name of the class that represents a set of labels: `cat + dog`."""
    return " + ".join(sorted(labels)) or "no label"


FREQUENCY_TITLES = {
    "below": "cut: frequencies below it stay (cycles per image)",
    "above": "cut: frequencies above it stay (cycles per image)",
    "at": "centre of the noise (cycles per image)",
}
"""Meaning of a condition's frequency -> title of the frequency axis.

`below`: frequencies below it are kept. `above`: frequencies above it are kept. `at`: noise is centered on it.
"""


def enlarged_in_words(images: str, cycles: float) -> str:
    """Return the warning about an image set in which many images were upsampled.

    Args:
        images: Name of the image set.
        cycles: Native Nyquist limit of the upsampled images, in cycles/image.
    """
    return (
        f"{images}: more than a tenth of its images were enlarged, and have nothing of their own above {cycles:.3g} "
        "cycles per image"
    )


def frequency_in_words(series: str, place: str, cycles: float) -> str:
    """Format a setting with its frequency for charts, menus and tables: `noise_sd=0.08, at 14 cycles/image`.

    Args:
        series: Text of the other parameters, or empty.
        place: A key of `FREQUENCY_TITLES`.
        cycles: Frequency in cycles/image.
    """
    return ", ".join(filter(None, (series, f"{place} {cycles:.4g} cycles/image")))


@dataclass(frozen=True, slots=True)
class Facts:
    """Properties of a condition that its probe family declares.

    They are stored in the database with the condition, because the code that reads results does not load the probe
    families.
    """

    setting: str = ""
    """Text of the parameters, except for those that the family hides. Empty without parameters."""
    series: str = ""
    """The same text without the parameters on the axes. Conditions with an equal series form one curve or one map."""
    x: float | None = None
    """Position on the horizontal axis. None if the probe has no axis or the condition has no position on it."""
    x_title: str | None = None
    y: float | None = None
    """Position on the vertical axis, for probes that are drawn as a map."""
    y_title: str | None = None
    mirrored: bool = False
    """Whether (x, y) and (-x, -y) are the same condition."""
    cycles_per_pixel: float | None = None
    """Frequency of the condition in cycles/pixel: a cutoff, or the center of a band."""
    cuts: bool = False
    """Whether that frequency is the cutoff of a filter. A cutoff is rounded down to whole cycles/image."""
    attack: bool = False
    """Whether it is an adversarial attack, whose images are computed from the gradient of one model."""

    def setting_at(self, size: int) -> str:
        """Return the setting for images with a side of `size` pixels. Filters and bands are given in cycles/image."""
        if self.cycles_per_pixel is None:
            return self.setting
        return self.setting_of_frequency(
            int(2 * self.cycles_per_pixel * (size // 2)) if self.cuts else self.cycles_per_pixel * size
        )

    def setting_of_frequency(self, cycles: float | None) -> str:
        """Return the setting for a frequency in cycles/image.

        Without a frequency, or for a probe that is neither a filter nor a band, it is the plain `setting`.
        """
        places = [place for place, title in FREQUENCY_TITLES.items() if title == self.x_title]
        return frequency_in_words(self.series, places[0], cycles) if places and cycles is not None else self.setting


@dataclass(frozen=True, slots=True)
class Condition:
    """A probe with one setting of its parameters."""

    probe: str
    parameters: tuple[tuple[str, Value], ...]
    digest: str
    """Digest of the family, the parameters and the implementation.

    The implementation is identified by a version for a built-in family, and by the source for a custom one.
    """
    facts: Facts = field(default=Facts(), compare=False)

    def __getitem__(self, name: str) -> Value:
        return dict(self.parameters)[name]

    def number(self, name: str) -> float | None:
        """Return a parameter as a number. None if the condition has no such parameter or if it is not a number."""
        value = dict(self.parameters).get(name)
        return float(value) if isinstance(value, (int, float)) else None

    def __str__(self) -> str:
        return f"{self.probe} {self.facts.setting}".rstrip()

    def at(self, size: int) -> str:
        """Describe the condition for images with a side of `size` pixels: `lowpass below 22 cycles/image`."""
        return f"{self.probe} {self.facts.setting_at(size)}".rstrip()


INTERPOLATIONS = ("bilinear", "bicubic")
PERCENTILES = "percentiles"
"""Intensity range that is computed for each image from percentiles of its own samples."""
Range = tuple[float, float] | str
"""Intensity range of images with more than 8 bits: the samples that become black and white, or `PERCENTILES`.

The samples are in the units of the files.
"""


@dataclass(frozen=True, slots=True)
class Crop:
    """Preprocessing of images: an antialiased resize, followed by a center crop of `size` x `size` pixels.

    Raises:
        UsageError: The settings are invalid or contradict each other.
    """

    size: int = 224
    """Side length of the crop in pixels."""
    resize: int = 256
    """Length of the shorter side after resizing, in pixels; of both sides with `squash`. At least `size`."""
    _: KW_ONLY
    fixed: bool = False
    """Whether the images already have size x size pixels. Any other size is then an error."""
    interpolation: str = "bilinear"
    """One of `INTERPOLATIONS`."""
    squash: bool = False
    """Whether to resize both sides to the same length, ignoring the aspect ratio."""
    range: Range | None = None
    """Intensity range of images with more than 8 bits per sample. None for ordinary photographs."""

    def __post_init__(self) -> None:
        if isinstance(self.range, tuple) and not 0 < self.range[1] - self.range[0] < inf:
            low, high = self.range
            raise UsageError(
                f"the range from {low:g} to {high:g} is upside down or endless; write black first, then white"
            )
        if isinstance(self.range, str) and self.range != PERCENTILES:
            raise UnknownName("range", self.range, [PERCENTILES])
        if not 1 <= self.size <= self.resize:
            raise UsageError(
                f"size {self.size} must be from 1 to resize, {self.resize}, as crops come after it; choose a smaller "
                "size or a larger resize"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise UnknownName("interpolation", self.interpolation, INTERPOLATIONS)

    @property
    def key(self) -> str:
        """Text that identifies the preprocessing. It is part of the digests of image sets, so it must never change."""
        if self.fixed:
            return f"RGB, {self.size} x {self.size} pixels as they are{self._levels}"
        sides = "both sides" if self.squash else "shorter side"
        how = f"{sides} to {self.resize} ({self.interpolation}, antialiased)"
        return f"RGB, {how}, centre crop {self.size}{self._levels}"

    @property
    def _levels(self) -> str:
        """The intensity range, after a semicolon. `gives` ignores this part, as it does not depend on the model."""
        if self.range is None:
            return ""
        levels = self.range if isinstance(self.range, str) else f"{float(self.range[0])} to {float(self.range[1])}"
        return f"; {levels} as black and white"

    @property
    def options(self) -> str:
        """Options of `bandlens images pack` for this crop."""
        side = f"{self.resize}x{self.resize}" if self.squash else str(self.resize)
        return f"--size {self.size} --resize {side} --interpolation {self.interpolation}"

    def gives(self, preprocessing: str) -> bool:
        """Return whether an image set with this `preprocessing` matches the crop.

        It matches if the images were packed with this crop, or if the originals already had the size of the crop.
        """
        crops = [self, Crop(self.size, self.size, fixed=True)]
        # Other processing follows after a semicolon, such as the subset of a benchmark or a mixture of two images.
        return preprocessing.partition(";")[0] in [crop.key for crop in crops]


PUBLISHED_CROP = Crop()
"""Crop of the published study: resize the shorter side to 256 pixels, then crop the central 224 x 224 pixels."""


@dataclass(frozen=True, slots=True)
class Head:
    """Provenance of a classification head that was added to a feature extractor."""

    method: str
    """`ridge` or `logistic` for a head fitted to labeled images, `prompts` for class embeddings of text prompts."""
    source: str
    """Name of the image set, or of the file with the class embeddings."""
    digest: str
    """Digest of the image set, or SHA-256 digest of the file."""
    images: int | None = None
    """Number of images that the head was fitted to."""
    strength: float | None = None
    """Strength of the regularization penalty."""
    accuracy: float | None = None
    """Accuracy in cross-validation over clusters, in [0, 1]."""
    preprocessing: str | None = None
    """Preprocessing of the training images.

    Images of another set can be recognized as training images only if that set was packed with the same preprocessing.
    """


@dataclass(frozen=True, slots=True)
class Model:
    """An exported checkpoint: one ONNX file that maps float32 RGB images in [0, 1] to logits."""

    name: str
    category: str
    architecture: str
    weights_sha256: str
    source: str
    normalization: str
    path: Path
    sha256: str
    """SHA-256 digest of the ONNX file. It guarantees that the results belong to this file."""
    image_size: int
    classes: int
    crop: Crop | None = None
    """Preprocessing that the model requires. None if any preprocessing is accepted."""
    precision: str = "fp32"
    """Precision of the ONNX file. Some imported ONNX files use fp16 or int8."""
    head: Head | None = None
    """Classification head that was added to a feature extractor. None if the model has its own classes."""
    multilabel: bool = False
    """Whether the model is multi-label. Its classes are then sets of labels: bit l of a class index is label l."""

    @property
    def named(self) -> tuple[int, str]:
        """Number of names that the model needs, and what they name: `labels` if it is multi-label, else `classes`."""
        return (self.classes.bit_length() - 1, "labels") if self.multilabel else (self.classes, "classes")


@dataclass(frozen=True, slots=True)
class Variant:
    """A model prepared for one engine and one precision. A session opens a variant."""

    model: Model
    engine: str
    precision: str
    path: Path
    sha256: str
    """SHA-256 digest of the ONNX file at `path`: the model's file, or one derived from it for this precision."""

    def __str__(self) -> str:
        return f"{self.model.name} ({self.engine} {self.precision})"


@dataclass(frozen=True, slots=True)
class ImageSetInfo:
    """Metadata of an image set, as needed by a run and stored in the database. It contains no pixels."""

    name: str
    benchmark: str
    digest: str
    count: int
    size: int
    preprocessing: str
    labelled: bool
    decision_space: str = "all"
    """Classes that predictions are restricted to: `all`, or a decision space of `probes.images.decision_spaces`."""
    corruption: str | None = None
    """Corruption of the images. None without corruption."""
    severity: int | None = None
    """Severity of the corruption, 1 to 5."""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """Device and software versions of a session. None of them is part of a cell's key."""

    device: str
    batch: int
    threads: int
    versions: str
    card: str | None = field(default=None, compare=False)
    """State of the GPU at the first commit, as JSON. None on a CPU, and if the GPU does not report its state."""


@dataclass(frozen=True)
class Cell:
    """One variant of a model on one image set under one condition.

    The cell is the unit of a run: whole cells are requested, skipped because they are complete, or recomputed.
    """

    variant: Variant
    image_set: ImageSetInfo
    condition: Condition
    seed: int

    @property
    def model(self) -> Model:
        return self.variant.model

    @property
    def decision_space(self) -> str:
        return self.image_set.decision_space

    @cached_property
    def key(self) -> str:
        """Digest of everything that determines the predictions. It identifies the cell in the database."""
        return digest_of(
            self.variant.sha256,
            self.variant.engine,
            self.variant.precision,
            self.image_set.digest,
            self.condition.digest,
            self.decision_space,
            self.seed,
        )

    def __str__(self) -> str:
        return f"{self.model.name}, {self.image_set.name}, {self.condition.at(self.image_set.size)}"


UNKNOWN_RANK = 65535
"""Rank of a label if it is unknown: for an incorrect imported prediction, or an image without a correct class."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions on n images: the quantities that are stored instead of the logits. All arrays have shape (n,)."""

    predicted: NDArray[np.uint16]
    """Predicted class: the index of the largest logit, and of equal ones the lowest index."""
    label_rank: NDArray[np.uint16] | None
    """Rank of the label, where 0 means that the label is predicted. None without labels.

    The rank is the number of classes with a larger logit, plus those with an equal logit and a lower index.
    """
    confidence: NDArray[np.float32]
    """Softmax probability of the predicted class. NaN if it is unknown, as in some imported predictions."""
    best_rank: NDArray[np.uint16] | None = None
    """Lowest rank among the correct classes of an image with several. None if each image has a single label.

    `UNKNOWN_RANK` for an image without any correct class.
    """
    label_probability: NDArray[np.float32] | None = None
    """Softmax probability of the label, over the classes of the decision space. None without labels.

    NaN if it is unknown, as in some imported predictions.
    """


PREDICTION_COLUMNS = tuple(column.name for column in fields(Predictions))
"""Names of the fields of `Predictions`, which are also columns of the table `prediction`."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Predictions of a cell for a contiguous range of images, [first, first + n)."""

    cell: Cell
    first: int
    predictions: Predictions
    seconds: float


@dataclass(frozen=True, slots=True)
class Missing:
    """A requested result that is not available."""

    reason: str
    """Why it is not available, and what to do."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A cell that failed with an error. Its predictions that are already stored are kept."""

    cell: Cell
    error: str
