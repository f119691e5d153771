"""Define the options for packing an image set: its content, the selection of images, and how to run the packing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ...core.jobs import Progress, silent

Say = Callable[[str], object]


class Draw(NamedTuple):
    """Select a random sample of the images of a source or image set; see `labels.spread`."""

    limit: int
    """Number of images."""
    seed: int = 0
    """Seed of the sample."""


@dataclass(frozen=True, slots=True)
class Contents:
    """Describe an image set: its name in results, the meaning of its labels, and which images it contains."""

    name: str | None = None
    """Name of the image set in results. Defaults to the name of its folder."""
    benchmark: str | None = None
    """Benchmark that results on these images are assigned to. Defaults to the name of the image set."""
    decision_space: str = "all"
    """Set of classes that the labels refer to, one of `decision_spaces.NAMES`."""
    clusters: str = "none"
    """Which images are not independent: "none", or "folder" if images of the same folder form a cluster."""
    draw: Draw | None = None
    """Random sample of images to pack, balanced between classes. By default all images are packed."""


@dataclass(frozen=True, slots=True)
class How:
    """Control how images are packed. These options do not change the pixels or labels of the image set."""

    skip_broken: bool = False
    """Skip broken files instead of stopping at the first one."""
    stream: bool = False
    """Do not store pixels. Runs decode the images from the source folder whenever they need them."""
    workers: int | None = None
    """Number of threads. Defaults to one per processor."""
    progress: Progress = silent
    """Function that displays the progress."""
    say: Say = lambda _text: None
    """Function that receives messages: the required disk space before packing starts, and warnings about the image set.
    """


WHOLE_SOURCE, USUAL = Contents(), How()
