"""Read the pixels of an image set, either from one file or by decoding the original images on demand.

Both verify each image with the SHA-256 that was stored when the set was created. Stored pixels are verified when they
are first read, and decoded images every time.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from io import BytesIO, FileIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...core.errors import ImageSetError
from ...core.jobs import in_parallel
from ...core.records import Crop
from ...core.untrusted import regular, words_of
from .decode import BrokenImageError, cropped
from .image_sources import read_file
from .storage import PIXELS, damaged, writing

if TYPE_CHECKING:
    from numpy.typing import NDArray


@cache
def _header(count: int, size: int) -> bytes:
    """Return the .npy header of a (count, 3, size, size) uint8 array.

    NumPy pads it, so its length does not depend on count.
    """
    head = BytesIO()
    shape = (count, 3, size, size)
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return head.getvalue()


def write_row(file: FileIO, row: int, pixels: NDArray[np.uint8]) -> None:
    """Write a (3, size, size) uint8 image to the given row of the file. Can be called from any thread.

    This uses pwrite instead of a memory map, because a full disk then raises an exception instead of killing the
    process.

    Raises:
        ImageSetError: Writing failed.
    """
    start, length = len(_header(0, pixels.shape[-1])), pixels.nbytes
    offset, unwritten = start + row * length, pixels.data.cast("B")
    with writing(str(file.name)):
        while unwritten:
            # pwrite may write only a part of the data.
            count = os.pwrite(file.fileno(), unwritten, offset)
            unwritten, offset = unwritten[count:], offset + count


def finish_pixels(path: Path, size: int, rows: Sequence[int]) -> None:
    """Move the given rows (in ascending order) to the start of the file, write the header and truncate the rest."""
    start, length = len(_header(0, size)), 3 * size * size
    with path.open("r+b", buffering=0) as file:
        for new, old in enumerate(rows):
            if new != old:
                row = np.frombuffer(os.pread(file.fileno(), length, start + old * length), np.uint8)
                write_row(file, new, row.reshape(3, size, size))
        file.write(_header(len(rows), size))
        file.truncate(start + len(rows) * length)


class Pixels(ABC):
    """Pixels of n images, which can be verified with their SHA-256."""

    def __init__(self, paths: Sequence[str], sha256s: Sequence[str], size: int) -> None:
        self.paths, self.sha256s = paths, sha256s
        self.shape = (len(paths), 3, size, size)

    @abstractmethod
    def read(self, row: int) -> NDArray[np.uint8]:
        """Return the pixels of one image, (3, size, size).

        Raises ImageSetError if they differ from those of the original set.
        """

    def take(self, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Return the pixels of several images, (k, 3, size, size), read in parallel.

        Each distinct image is read only once.
        """
        images = np.empty((len(rows), *self.shape[1:]), np.uint8) if out is None else out
        _, places, inverse = np.unique(rows, return_index=True, return_inverse=True)

        def fill(place: int) -> None:
            images[place] = self.read(int(rows[place]))

        for _ in in_parallel(fill, places.tolist()):
            pass
        # Copy repeated images. The last batch of a run is padded with its last image.
        for place, first in enumerate(places[inverse]):
            if place != first:
                images[place] = images[first]
        return images


class PackedPixels(Pixels):
    """Open pixels.npy of an image set.

    Hashing takes seven times as long as reading. An image is therefore only verified when it is read for the first
    time, and again after the size or time of the file has changed. The file is not memory-mapped, because truncating a
    mapped file kills the process, while a failed read raises an exception.
    """

    def __init__(self, folder: Path, size: int, paths: Sequence[str], sha256s: Sequence[str]) -> None:
        """Open the file. Raises ImageSetError if it does not contain n images of this size."""
        super().__init__(paths, sha256s, size)
        self._path = file = folder / PIXELS
        try:
            with regular(file).open("rb") as content:
                np.lib.format.read_magic(content)
                shape, columns_first, dtype = np.lib.format.read_array_header_1_0(content)
                self._start, length = content.tell(), os.fstat(content.fileno()).st_size
                end = self._start + math.prod(self.shape)
                is_fitting = shape == self.shape and dtype == np.uint8 and not columns_first
                if is_fitting and length < end:
                    raise ValueError(f"{length} bytes, where {end} were packed")
                self._file = os.dup(content.fileno())
        # Catch everything, because the header is a Python literal and parsing it can raise many different exceptions.
        except Exception as error:
            raise damaged(file, error) from error
        weakref.finalize(self, os.close, self._file)
        if not is_fitting:
            raise ImageSetError(f"{file}: expected {self.shape} uint8, found {shape} {dtype}; pack the images again")
        self._hashed, self._state = np.zeros(len(paths), np.bool_), self._read_state()

    def map(self) -> NDArray[np.uint8]:
        """Return a read-only memory map of the pixels, (n, 3, size, size), without verifying them."""
        return np.memmap(self._path, np.uint8, "r", self._start, self.shape)

    def take(self, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        # The file has changed since the last call, so all images have to be verified again.
        if (state := self._read_state()) != self._state:
            self._hashed[:], self._state = False, state
        if not self._hashed[rows].all():
            images = super().take(rows, out)
            self._hashed[rows] = True
            return images
        images = np.empty((len(rows), *self.shape[1:]), np.uint8) if out is None else out
        for image, row in zip(images, rows.tolist(), strict=True):
            self._read_into(image, row)
        return images

    def read(self, row: int) -> NDArray[np.uint8]:
        pixels = np.empty(self.shape[1:], np.uint8)
        self._read_into(pixels, row)
        if hashlib.sha256(pixels.data).hexdigest() != self.sha256s[row]:
            raise ImageSetError(f"{self._name(row)} is damaged; pack the images again")
        return pixels

    def _read_state(self) -> tuple[int, int, int]:
        state = os.fstat(self._file)
        return state.st_size, state.st_mtime_ns, state.st_ctime_ns

    def _name(self, row: int) -> str:
        return f"{self._path.parent}: image {row} ('{self.paths[row]}')"

    def _read_into(self, pixels: NDArray[np.uint8], row: int) -> None:
        remainder = pixels.reshape(-1).data
        offset = self._start + row * len(remainder)
        while remainder:
            try:
                count = os.preadv(self._file, [remainder], offset)
            except OSError as error:
                raise ImageSetError(f"{self._name(row)} cannot be read ({words_of(error)}); try again") from error
            if not count:
                raise ImageSetError(f"{self._name(row)} is cut off in {PIXELS}; pack the images again")
            remainder, offset = remainder[count:], offset + count


class Stream(Pixels):
    """Images of a set that are decoded from their original files."""

    def __init__(self, source: Path, crop: Crop, paths: Sequence[str], sha256s: Sequence[str]) -> None:
        """Open the folder. Raises ImageSetError if it does not exist, or if a path leads outside of it."""
        if not source.is_dir():
            raise ImageSetError(
                f"{source}: no such folder, and its images were not packed; bring it back or pack again"
            )
        if outside := next((path for path in paths if path.startswith("/") or ".." in path.split("/")), None):
            raise ImageSetError(f"image '{outside}' of a streamed set lies outside of {source}; pack the images again")
        super().__init__(paths, sha256s, crop.size)
        self.source, self.crop = source, crop
        # Warning filters apply to the whole process, and other threads may be running while images are decoded. Set the
        # filter once, because restoring it later would be a race.
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")

    def read(self, row: int) -> NDArray[np.uint8]:
        file = self.source / self.paths[row]
        try:
            pixels, *_ = cropped(read_file(file), self.crop)
        except BrokenImageError as error:
            raise ImageSetError(
                f"{file}: {error}; restore the file that was indexed, or pack the images again"
            ) from None
        if hashlib.sha256(pixels.data).hexdigest() != self.sha256s[row]:
            raise ImageSetError(
                f"{file}: its pixels are not those that were indexed; restore the file, or pack the images again"
            )
        return pixels
