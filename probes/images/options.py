"""The options of packing an image set: what it holds, which images of a source, and how packing goes about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ...advance import Progress, silent

Say = Callable[[str], object]


class Draw(NamedTuple):
    """Some images of a source or set instead of all: see `labels.spread`."""

    limit: int
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Contents:
    """What a set is called in results, and what its images are."""

    name: str | None = None
    """The set's name; by default that of its folder."""
    benchmark: str | None = None
    """What the images are; by default the set's name."""
    decision_space: str = "all"
    """The classes that labels are of, one of `decision_spaces.NAMES`."""
    clusters: str = "none"
    """Which images are not independent: "none" of them, or those of one "folder"."""
    draw: Draw | None = None
    """Which images of the source are packed, drawn from each class as evenly as they go; by default all."""


@dataclass(frozen=True, slots=True)
class How:
    """How packing goes about it; none of it matters to what the set holds."""

    skip_broken: bool = False
    """Leave broken files out instead of stopping at the first."""
    stream: bool = False
    """Write no pixels: they are decoded from the source, a folder, whenever they are asked for."""
    workers: int | None = None
    """The number of threads; by default one a processor."""
    progress: Progress = silent
    """Shows how far it is."""
    say: Say = lambda _text: None
    """Hears how much room is needed, before anything is decoded."""


WHOLE_SOURCE, USUAL = Contents(), How()
