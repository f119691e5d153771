"""The generalization benchmarks: how each is laid out, what it must hold, and how it is judged."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import UnknownName
from .decision_spaces import DecisionSpace, decision_space, names_of, wnids_of

SEVERITIES = (1, 2, 3, 4, 5)
VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})\.jpe?g", re.IGNORECASE)
"""An image of ImageNet's validation set, by its file number, 1 to 50,000."""
_CUE_CONFLICT = re.compile(r"([a-z]+)\d+-([a-z]+)\d+\.png")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a path says which class its image shows."""

    words: str
    class_of: Callable[[str], str]
    """path -> the name of its class, or "" where the path is not of this layout."""
    classes: Callable[[DecisionSpace], Mapping[str, int]]
    """The names that classes have in paths, and their numbers."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A benchmark, or for corruptions each set of it."""

    name: str
    layout: Layout
    count: int
    """Images, of each corruption and severity."""
    per_class: int | None = None
    """Images of each class; None where classes differ."""
    decision_space: str = "all"
    """Its classes are those that the images show."""
    fixed: bool = False
    """The images have their final size: nothing is resized or cropped."""
    corruptions: tuple[str, ...] = ()
    scheme: str | None = None
    """A label scheme beside the label: `real` or `texture`."""
    numbered: bool = False
    """Files are named by number, so that labels may come in a file: see `VALIDATION`."""

    @property
    def classes(self) -> Mapping[str, int]:
        """The names that its classes have in paths, and their numbers."""
        return self.layout.classes(decision_space(self.decision_space))


def _parent(path: str) -> str:
    return PurePosixPath(path).parent.name


def _shape(path: str) -> str:
    found = _CUE_CONFLICT.fullmatch(PurePosixPath(path).name)
    known = found is not None and found[1] == _parent(path) and found[2] in decision_space("sixteen").names
    return found[1] if found and known else ""


def texture_of(path: str) -> str:
    """The name of the class whose texture a cue-conflict image has."""
    found = _CUE_CONFLICT.fullmatch(PurePosixPath(path).name)
    return found[2] if found else ""


def _fifth_field(path: str) -> str:
    fields = PurePosixPath(path).stem.split("_")
    return fields[4] if len(fields) > 4 else ""


def _numbers(space: DecisionSpace) -> Mapping[str, int]:
    return {str(index): index for index in space.ids}


WNID = Layout("images lie in folders named by WordNet ids, such as n01440764", _parent, wnids_of)
NUMBER = Layout("images lie in folders named 0 to 999, without leading zeros", _parent, _numbers)
SHAPE = Layout("images are <shape>/<shape>N-<texture>M.png of the 16 classes", _shape, names_of)
FIELD = Layout("images name one of the 16 classes in the fifth field between '_'", _fifth_field, names_of)

IMAGENET_C = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    *("speckle_noise", "gaussian_blur", "spatter", "saturate"),
)
IMAGENET_CBAR = (
    *("blue_noise_sample", "brownish_noise", "caustic_refraction", "checkerboard_cutout", "cocentric_sine_waves"),
    *("inverse_sparkles", "perlin_noise", "plasma_noise", "single_frequency_greyscale", "sparkles"),
)

KINDS = {
    kind.name: kind
    for kind in (
        Kind("imagenet", WNID, 50_000, 50, numbered=True),
        Kind("imagenet-real", WNID, 50_000, 50, numbered=True, scheme="real"),
        Kind("imagenet-v2", NUMBER, 10_000, 10),
        Kind("imagenet-a", WNID, 7_500, decision_space="imagenet-a"),
        Kind("imagenet-r", WNID, 30_000, decision_space="imagenet-r"),
        Kind("imagenet-sketch", WNID, 50_889),
        Kind("imagenet-c", WNID, 50_000, 50, fixed=True, corruptions=IMAGENET_C),
        Kind("imagenet-cbar", WNID, 50_000, 50, fixed=True, corruptions=IMAGENET_CBAR),
        Kind("cue-conflict", SHAPE, 1_280, 80, decision_space="sixteen", fixed=True, scheme="texture"),
        Kind("stylized", FIELD, 800, 50, decision_space="sixteen", fixed=True),
    )
}


def find_kind(name: str) -> Kind:
    """The kind of that name; UnknownName where there is none."""
    if name not in KINDS:
        raise UnknownName("kind", name, KINDS)
    return KINDS[name]
