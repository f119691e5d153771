"""The options of packing an image set: what it holds, which images of a source, and how packing goes about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ...core.jobs import Progress, silent

Say = Callable[[str], object]


class Draw(NamedTuple):
    """Some images of a source or set instead of all: see `labels.spread`."""

    limit: int
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a set: its name in results, and the nature of its images."""

    name: str | None = None
    """The set's name; by default that of its folder."""
    benchmark: str | None = None
    """The benchmark that the images belong to in results; by default the set's name."""
    decision_space: str = "all"
    """The classes that labels are of, one of `decision_spaces.NAMES`."""
    clusters: str = "none"
    """The images that are not independent: "none" of them, or those of one "folder"."""
    draw: Draw | None = None
    """The draw of the images that are packed, from each class as evenly as they go; by default all are."""


@dataclass(frozen=True, slots=True)
class How:
    """The manner of packing; none of it matters to what the set holds."""

    skip_broken: bool = False
    """Leave broken files out instead of stopping at the first."""
    stream: bool = False
    """Write no pixels: they are decoded from the source, a folder, whenever a run takes them."""
    workers: int | None = None
    """The number of threads; by default one for each processor."""
    progress: Progress = silent
    """A function that shows how far packing is."""
    say: Say = lambda _text: None
    """A function that is told how much room is needed, before anything is decoded, and what is odd about the set."""


WHOLE_SOURCE, USUAL = Contents(), How()
