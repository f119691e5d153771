"""The records that cross folder borders. Frozen, and free of heavy imports."""

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
    """sha256 (64 hex digits) of the fields' canonical JSON: the identity of a condition, a cell, an image set."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


Value = float | int | str
"""A parameter of a probe."""


def in_words(parameters: Iterable[tuple[str, Value]]) -> str:
    """Parameters as every message, table and chart words them: `noise_sd=0.08, frequency=3`."""
    return ", ".join(
        f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}" for name, value in parameters
    )


MULTILABEL: Final = "multilabel"
"""The task of networks each of whose outputs decides a label by itself; their classes are the sets of labels. The same
is the decision space of images that may have several labels."""
SEVERAL: Final = "several"
"""The label scheme of images any of whose classes is right: predictions are ranked by the best of them."""
MOST_LABELS = 15
"""The most labels of such a network: predictions and ranks of its 2^15 label sets fit into 16 bits."""


def label_set_in_words(labels: Iterable[str]) -> str:
    """The name of the class that stands for a set of labels: `cat + dog`."""
    return " + ".join(sorted(labels)) or "no label"


FREQUENCY_TITLES = {
    "below": "cut: frequencies below it stay (cycles per image)",
    "above": "cut: frequencies above it stay (cycles per image)",
    "at": "centre of the noise (cycles per image)",
}
"""Place of frequencies beside that of a condition -> the title of the axis that such conditions are drawn over."""


def enlarged_in_words(images: str, cycles: float) -> str:
    """The line on an image set many of whose originals were enlarged."""
    return (
        f"{images}: more than a tenth of its images were enlarged, and have nothing of their own above {cycles:.3g} "
        "cycles per image"
    )


def frequency_in_words(series: str, place: str, cycles: float) -> str:
    """A setting as charts, menus, captions and tables word it: `noise_sd=0.08, at 14 cycles/image`."""
    return ", ".join(filter(None, (series, f"{place} {cycles:.4g} cycles/image")))


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts that the family of a probe states about a condition.

    A database keeps them in the condition's row, since code that reads results knows no families.
    """

    setting: str = ""
    """The parameters in words, without those that its family hides; empty where there are none."""
    series: str = ""
    """The same without the parameters of axes: conditions that share it lie on one curve, or on one map."""
    x: float | None = None
    """The number on the axis across; None where the probe has no axis, or the condition no number on it."""
    x_title: str | None = None
    y: float | None = None
    """The number on the axis down, of probes that are drawn as a map."""
    y_title: str | None = None
    mirrored: bool = False
    """Whether (x, y) and (-x, -y) are one condition."""
    cycles_per_pixel: float | None = None
    """The frequency at which the condition acts, in cycles per pixel."""
    cuts: bool = False
    """Whether it filters at that frequency, rounded down to whole cycles per image."""
    attack: bool = False
    """Whether its images are made for one network at a time, with its gradient."""

    def setting_at(self, size: int) -> str:
        """The setting at images of so many pixels a side: filters and bands have cycles per image."""
        if self.cycles_per_pixel is None:
            return self.setting
        return self.setting_of_frequency(
            int(2 * self.cycles_per_pixel * (size // 2)) if self.cuts else self.cycles_per_pixel * size
        )

    def setting_of_frequency(self, cycles: float | None) -> str:
        """The setting, in which filters and bands have their frequency where it is known in cycles per image."""
        places = [place for place, title in FREQUENCY_TITLES.items() if title == self.x_title]
        return frequency_in_words(self.series, places[0], cycles) if places and cycles is not None else self.setting


@dataclass(frozen=True, slots=True)
class Condition:
    """One probe family at one parameter setting."""

    probe: str
    parameters: tuple[tuple[str, Value], ...]
    digest: str
    """Covers family, parameters and implementation: the version of a built-in family, the source of a user's."""
    facts: Facts = field(default=Facts(), compare=False)

    def __getitem__(self, name: str) -> Value:
        return dict(self.parameters)[name]

    def number(self, name: str) -> float | None:
        """The parameter as a number, or None where this condition has no such number."""
        value = dict(self.parameters).get(name)
        return float(value) if isinstance(value, (int, float)) else None

    def __str__(self) -> str:
        return f"{self.probe} {self.facts.setting}".rstrip()

    def at(self, size: int) -> str:
        """The condition in words, at images of so many pixels a side: `lowpass below 22 cycles/image`."""
        return f"{self.probe} {self.facts.setting_at(size)}".rstrip()


INTERPOLATIONS = ("bilinear", "bicubic")
PERCENTILES = "percentiles"
"""The range of each picture by its own samples."""
Range = tuple[float, float] | str
"""Samples that are black and white, in the units of the files; or PERCENTILES."""


@dataclass(frozen=True, slots=True)
class Crop:
    """Photographs to pixels: resized, antialiased, then the central `size` x `size`; UsageError where it cannot be."""

    size: int = 224
    resize: int = 256
    """Pixels that the shorter side gets, or both sides if they are squashed; no fewer than `size`."""
    _: KW_ONLY
    fixed: bool = False
    """Photographs have size x size pixels already: any other is broken."""
    interpolation: str = "bilinear"
    """One of INTERPOLATIONS."""
    squash: bool = False
    """Resize both sides to the same length, whatever shape the photograph has."""
    range: Range | None = None
    """The range of pictures of more than 8 bits; None for photographs."""

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
        """The identity of what is done to the pixels. Digests of image sets hold it, so its text never changes."""
        if self.fixed:
            return f"RGB, {self.size} x {self.size} pixels as they are{self._levels}"
        sides = "both sides" if self.squash else "shorter side"
        how = f"{sides} to {self.resize} ({self.interpolation}, antialiased)"
        return f"RGB, {how}, centre crop {self.size}{self._levels}"

    @property
    def _levels(self) -> str:
        """The range behind a semicolon, so that a model's crop gives such images too."""
        if self.range is None:
            return ""
        levels = self.range if isinstance(self.range, str) else f"{float(self.range[0])} to {float(self.range[1])}"
        return f"; {levels} as black and white"

    @property
    def options(self) -> str:
        """The options of `bandlens images pack` that give this crop."""
        side = f"{self.resize}x{self.resize}" if self.squash else str(self.resize)
        return f"--size {self.size} --resize {side} --interpolation {self.interpolation}"

    def gives(self, preprocessing: str) -> bool:
        """Whether a set with this `preprocessing` has such pixels: by this crop, or right as they are."""
        crops = [self, Crop(self.size, self.size, fixed=True)]
        # A semicolon separates whatever else was done: a benchmark's subset, or a mixture of two images.
        return preprocessing.partition(";")[0] in [crop.key for crop in crops]


PUBLISHED_CROP = Crop()
"""The crop of the published study: the shorter side to 256 pixels, then the central 224 x 224."""


@dataclass(frozen=True, slots=True)
class Head:
    """The head that makes a classifier of a network of features: where it came from."""

    method: str
    """`ridge` or `logistic`, fitted to the features of labelled images; or `prompts`, class embeddings of texts."""
    source: str
    """The name of the image set, or of the file of class embeddings."""
    digest: str
    """The digest of the image set, or the sha256 of the file."""
    images: int | None = None
    """The number of images that it was fitted to."""
    strength: float | None = None
    """The strength of its penalty."""
    accuracy: float | None = None
    """Its accuracy in cross-validation over clusters, a share of the images."""
    preprocessing: str | None = None
    """How these images were made of photographs: those of another set are recognized if it is packed alike."""


@dataclass(frozen=True, slots=True)
class Model:
    """An exported checkpoint: one ONNX file that takes float32 RGB images in [0, 1] and gives logits."""

    name: str
    category: str
    architecture: str
    weights_sha256: str
    source: str
    normalization: str
    path: Path
    sha256: str
    """The digest of the ONNX file, so that what ran is what is named."""
    image_size: int
    classes: int
    crop: Crop | None = None
    """The crop that makes its images of photographs; None where any serves."""
    precision: str = "fp32"
    """The precision that the ONNX file computes in: fp16 or int8 for some that came finished."""
    head: Head | None = None
    """The head that was added to a network of features; None where its classes are the network's own."""
    multilabel: bool = False
    """Whether the classes are sets of labels, each decided by itself: the number of a set has bit l for label l."""

    @property
    def named(self) -> tuple[int, str]:
        """How many labels or classes have names, and which of the two they are."""
        return (self.classes.bit_length() - 1, "labels") if self.multilabel else (self.classes, "classes")


@dataclass(frozen=True, slots=True)
class Variant:
    """A model as an engine runs it at one precision: what a session opens."""

    model: Model
    engine: str
    precision: str
    path: Path
    sha256: str
    """The digest of the ONNX file at `path`: the model's own, or the file made of it for this precision."""

    def __str__(self) -> str:
        return f"{self.model.name} ({self.engine} {self.precision})"


@dataclass(frozen=True, slots=True)
class ImageSetInfo:
    """The description of an image set that a run and a database need, without its pixels."""

    name: str
    benchmark: str
    digest: str
    count: int
    size: int
    preprocessing: str
    labelled: bool
    decision_space: str = "all"
    """The classes that a decision is made between: `all`, or a space of `probes.images.decision_spaces`."""
    corruption: str | None = None
    """The corruption of the images; None where they have none."""
    severity: int | None = None
    """The strength of the corruption, 1 to 5."""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """The device and software that a variant runs on. None of it enters a cell's key."""

    device: str
    batch: int
    threads: int
    versions: str
    card: str | None = field(default=None, compare=False)
    """The state of the GPU at the first commit, as JSON; None on a CPU, and where the card does not say."""


@dataclass(frozen=True)
class Cell:
    """The unit that is asked for, skipped or redone: one variant of a model, one image set, one condition."""

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
"""The rank of a label that is not known: of a wrong imported prediction, or of an image without a right class."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """The part of the logits of n images that is kept."""

    predicted: NDArray[np.uint16]
    """argmax, lowest index first."""
    label_rank: NDArray[np.uint16] | None
    """Classes scored above the label plus equal ones of lower index: 0 is top-1. None without labels."""
    confidence: NDArray[np.float32]
    """Softmax probability of the predicted class; NaN where it is not known, as of some imported predictions."""
    best_rank: NDArray[np.uint16] | None = None
    """The least of the label_ranks of several classes that count as right, UNKNOWN_RANK for an image without any. None
    for images that have one label each."""
    label_probability: NDArray[np.float32] | None = None
    """Softmax probability of the label, among the classes of the decision; NaN where it is not known, as of some
    imported predictions. None without labels."""


PREDICTION_COLUMNS = tuple(column.name for column in fields(Predictions))
"""The columns of predictions, in the table `prediction` too."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A part: a cell's predictions over images [first, first + n)."""

    cell: Cell
    first: int
    predictions: Predictions
    seconds: float


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that was asked for and cannot be given."""

    reason: str
    """The reason, in words that say what to do."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A cell that ended with an error; what was stored of it stays."""

    cell: Cell
    error: str
