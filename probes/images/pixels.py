"""The pixels of a set: packed in one file, or decoded from photographs whenever they are asked for.

Both compare an image with the sha256 that it had when the set was made: packed ones the first time, others always.
"""

from __future__ import annotations

import hashlib
import os
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...core.errors import ImageSetError
from ...core.records import Crop
from ...core.threads import in_parallel
from ...core.untrusted import words_of
from . import files
from .decode import cropped
from .samples import BrokenImageError
from .sources import read_file

if TYPE_CHECKING:
    from numpy.typing import NDArray


class PackedPixels:
    """The open pixels.npy of a set, and what its pixels were when they were packed.

    An image is hashed when it is first read, and again when the file's time or length has changed since. The file is
    read and not mapped: a file that is cut off meanwhile is then an error, where a map would end the process.
    """

    def __init__(self, folder: Path, size: int, paths: Sequence[str], sha256s: Sequence[str]) -> None:
        """Open the file of n = len(paths) images; ImageSetError where it does not hold so many."""
        self.shape = (len(paths), 3, size, size)
        self.paths = paths
        self._folder, self._sha256s = folder, sha256s
        self._file, self._start = files.open_pixels(folder, self.shape)
        weakref.finalize(self, os.close, self._file)
        self._checked = np.zeros(len(paths), bool)
        self._state = self._read_state()

    def map(self) -> NDArray[np.uint8]:
        """(n, 3, size, size): a read-only memory map, of which nothing is checked."""
        return np.memmap(self._folder / files.PIXELS, np.uint8, "r", self._start, self.shape)

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """(3, size, size) of one image; ImageSetError unless they are those that were packed."""
        pixels = np.empty(self.shape[1:], np.uint8)
        self._read(row, pixels)
        self._check(row, pixels)
        return pixels

    def take(self, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """(k, 3, size, size): copies of images; ImageSetError where one is not the image that was packed."""
        images = np.empty((len(rows), *self.shape[1:]), np.uint8) if out is None else out
        if (state := self._read_state()) != self._state:
            self._checked[:] = False
            self._state = state
        unchecked = ~self._checked[rows]
        for row, image in zip(rows[~unchecked].tolist(), np.flatnonzero(~unchecked).tolist(), strict=True):
            self._read(row, images[image])

        def read_and_check(place: int) -> None:
            row = int(rows[place])
            self._read(row, images[place])
            self._check(row, images[place])
            self._checked[row] = True

        if unchecked.any():
            for _ in in_parallel(read_and_check, np.flatnonzero(unchecked).tolist()):
                pass
        return images

    def _read_state(self) -> tuple[int, int, int]:
        state = os.fstat(self._file)
        return state.st_size, state.st_mtime_ns, state.st_ctime_ns

    def _read(self, row: int, pixels: NDArray[np.uint8]) -> None:
        remainder = pixels.reshape(-1).data
        offset = self._start + row * len(remainder)
        while remainder:
            try:
                count = os.preadv(self._file, [remainder], offset)
            except OSError as error:
                raise ImageSetError(f"{self._name(row)} cannot be read ({words_of(error)}); try again") from error
            if not count:
                raise ImageSetError(f"{self._name(row)} is cut off in {files.PIXELS}; pack the images again")
            remainder, offset = remainder[count:], offset + count

    def _check(self, row: int, pixels: NDArray[np.uint8]) -> None:
        if hashlib.sha256(pixels.data).hexdigest() != self._sha256s[row]:
            raise ImageSetError(f"{self._name(row)} is damaged; pack the images again")

    def _name(self, row: int) -> str:
        return f"{self._folder}: image {row} ('{self.paths[row]}')"


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
