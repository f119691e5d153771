"""An open image set: one memory-mapped file of planar uint8, with labels and clusters."""

from __future__ import annotations

import hashlib
import mmap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ImageSetError
from ..records import ImageSetInfo, digest_of
from . import image_files as files
from .image_rows import Progress, in_parallel, silent

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ImageSet:
    """An open image set. Hand `folder`, not this, to other processes: pickling would copy the pixels."""

    info: ImageSetInfo
    pixels: NDArray[np.uint8] = field(repr=False)
    """(n, 3, size, size) RGB, 0 to 255: a read-only memory map."""
    labels: NDArray[np.int32] | None = field(repr=False)
    """(n,) class indices."""
    clusters: NDArray[np.int32] = field(repr=False)
    """(n,) cluster indices: images of one cluster, such as crops of one photograph, are not independent."""
    paths: list[str] = field(repr=False)
    """Relative to what was packed, with '/'."""
    folder: Path
    skipped: dict[str, str]
    """Broken files that were left out, and why."""
    ignored: int
    """How many files were no images by their suffix."""

    def take(self, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """(k, 3, size, size): copies of images, whose pages are given back, so that a run's memory stays the same."""
        images = self.pixels.take(rows, axis=0, out=out, mode="clip")
        if isinstance(self.pixels.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self.pixels.base.madvise(mmap.MADV_DONTNEED)
        return images


def open_image_set(path: Path) -> ImageSet:
    """Open a packed set: its files must be there and fit each other; pixels are not read (see `check`).

    Raises UsageError where `path` is no image set, ImageSetError where it is damaged or of another format.
    """
    about = files.read_about(path)
    index = files.read_index(path)
    pixels = files.read_pixels(path)
    try:
        info = ImageSetInfo(**{name: about[name] for name in ImageSetInfo.__dataclass_fields__ if name in about})
        skipped, ignored = dict(about["skipped"]), int(about["ignored"])
    except (KeyError, TypeError, ValueError) as error:
        raise ImageSetError(f"{path / files.ABOUT}: damaged ({error!r}); pack the images again") from error
    shape = (info.count, 3, info.size, info.size)
    if pixels.dtype != np.uint8 or pixels.shape != shape:
        got = f"{pixels.shape} {pixels.dtype}"
        raise ImageSetError(f"{path / files.PIXELS}: expected {shape} uint8, found {got}; pack the images again")
    if len(index.paths) != info.count or (index.labels is not None) != info.labelled:
        raise ImageSetError(f"{path / files.INDEX}: does not fit {files.ABOUT}; pack the images again")
    return ImageSet(info, pixels, index.labels, index.clusters, index.paths, path, skipped, ignored)


def check(path: Path, *, workers: int | None = None, progress: Progress = silent) -> ImageSet:
    """Open a set and hash it again: ImageSetError names the first image whose pixels are not those packed."""
    images = open_image_set(path)
    info, index = images.info, files.read_index(path)
    with progress("checking", info.count, "images") as advance:
        found = in_parallel(lambda row: hashlib.sha256(images.pixels[row].data).hexdigest(), range(info.count), workers)
        for row, (sha256, packed) in enumerate(zip(found, index.sha256s, strict=True)):
            if sha256 != packed:
                raise ImageSetError(f"{path}: image {row} ('{images.paths[row]}') is damaged; pack the images again")
            advance(1)
    if info.digest != digest(index, info.size, info.preprocessing):
        raise ImageSetError(f"{path}: labels, clusters or hashes are not those packed; pack the images again")
    return images


def digest(index: files.Index, size: int, preprocessing: str) -> str:
    """What makes a set what it is: pixels in their order, labels, clusters; not its name nor where it lies."""
    labels = None if index.labels is None else index.labels.tolist()
    return digest_of(size, preprocessing, index.sha256s, labels, index.clusters.tolist())
