"""Photographs of a set that keeps no pixels: decoded from their files whenever they are asked for."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...core.errors import ImageSetError
from ...core.records import Crop
from ...core.threads import in_parallel
from .broken import BrokenImageError
from .decode import cropped
from .sources import read_file

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Stream:
    """The files of a set, and what their pixels were when they were indexed."""

    source: Path
    paths: Sequence[str]
    sha256s: Sequence[str]
    crop: Crop

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """(3, size, size) of one image; ImageSetError unless they are those that were indexed."""
        file = self.source / self.paths[row]
        try:
            pixels = cropped(read_file(file), self.crop)
        except BrokenImageError as error:
            raise ImageSetError(
                f"{file}: {error}; restore the file that was indexed, or pack the images again"
            ) from None
        if hashlib.sha256(pixels.data).hexdigest() != self.sha256s[row]:
            raise ImageSetError(
                f"{file}: its pixels are not those that were indexed; restore the file, or pack the images again"
            )
        return pixels

    def take(self, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """(k, 3, size, size): each file is read once, in as many threads as there are processors."""
        images = np.empty((len(rows), 3, self.crop.size, self.crop.size), np.uint8) if out is None else out
        places: dict[int, int] = {}
        for place, row in enumerate(rows.tolist()):
            places.setdefault(row, place)

        def fill(row: int) -> None:
            images[places[row]] = self.pixels(row)

        for _ in in_parallel(fill, places):
            pass
        for place, row in enumerate(rows.tolist()):  # a last batch is padded with its last image
            if place != places[row]:
                images[place] = images[places[row]]
        return images


def open_stream(source: Path, crop: Crop, paths: Sequence[str], sha256s: Sequence[str]) -> Stream:
    """The stream of a folder; ImageSetError where it is gone."""
    if not source.is_dir():
        raise ImageSetError(f"{source}: no such folder, and its images were not packed; bring it back or pack again")
    # Filters belong to the process, and batches are decoded beside other threads: set once, and never taken back.
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
    return Stream(source, paths, sha256s, crop)
