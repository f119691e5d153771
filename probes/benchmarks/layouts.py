"""The layouts of the benchmarks' files: the part of a path that names the class of its image."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from ...core.errors import UnknownName
from ...core.protocol import BENCHMARKS, STIMULI, Benchmark
from ..images.decision_spaces import DecisionSpace, decision_space, names_of, wnids_of

NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})\.jpe?g", re.IGNORECASE)
"""An image of ImageNet's validation set, by its file number, 1 to 50,000."""
_OUTLINE = re.compile(r"([a-z]+)\d+\.png")
_CUE_CONFLICT = re.compile(r"([a-z]+)\d+-([a-z]+)\d+\.png")


@dataclass(frozen=True, slots=True)
class Layout:
    """The part of a path that names the class of its image."""

    words: str
    class_of: Callable[[str], str]
    """A function that takes a path and gives the name of its class, or "" where the path is not of this layout."""
    classes: Callable[[DecisionSpace], Mapping[str, int]]
    """The names that classes have in paths, and their numbers."""


def _parent(path: str) -> str:
    return PurePosixPath(path).parent.name


def _shape(path: str) -> str:
    cues = _CUE_CONFLICT.fullmatch(PurePosixPath(path).name)
    fits = cues is not None and cues[1] == _parent(path) and cues[2] in decision_space("sixteen").names
    return cues[1] if cues and fits else ""


def texture_of(path: str) -> str:
    """The name of the class whose texture a cue-conflict image has."""
    cues = _CUE_CONFLICT.fullmatch(PurePosixPath(path).name)
    return cues[2] if cues else ""


def _fifth_field(path: str) -> str:
    fields = PurePosixPath(path).stem.split("_")
    return fields[4] if len(fields) > 4 else ""


def _outlined(path: str) -> str:
    name = _OUTLINE.fullmatch(PurePosixPath(path).name)
    return name[1] if name and name[1] == _parent(path) else ""


def _numbers(space: DecisionSpace) -> Mapping[str, int]:
    return {str(index): index for index in space.ids}


WNID = Layout("images lie in folders named by WordNet ids, such as n01440764", _parent, wnids_of)
NUMBER = Layout("images lie in folders named 0 to 999, without leading zeros", _parent, _numbers)
SHAPE = Layout("images are <shape>/<shape>N-<texture>M.png of the 16 classes", _shape, names_of)
OUTLINE = Layout("images are <class>/<class>N.png of the 16 classes", _outlined, names_of)
FIELD = Layout("images name one of the 16 classes in the fifth field between '_'", _fifth_field, names_of)

LAYOUTS: Mapping[str, Layout] = {
    **dict.fromkeys(BENCHMARKS, WNID),
    **dict.fromkeys(STIMULI, FIELD),
    **dict.fromkeys(("edge", "silhouette"), OUTLINE),
    "imagenet-v2": NUMBER,
    "cue-conflict": SHAPE,
}
"""The layout of each benchmark, by its name."""


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of that name; UnknownName where there is none."""
    if name not in BENCHMARKS:
        raise UnknownName("benchmark", name, BENCHMARKS, "see `bandlens benchmarks list`")
    return BENCHMARKS[name]


def classes_of(benchmark: Benchmark, layout: Layout) -> Mapping[str, int]:
    """The names that the benchmark's classes have in paths, and their numbers."""
    return layout.classes(decision_space(benchmark.decision_space))
