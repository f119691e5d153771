"""Packing: photographs decoded once to an image set, one memory-mapped file of planar uint8."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ImageSetError
from ..records import ImageSetInfo
from .decision_spaces import decision_space as find_space
from .decode import Frame, photo_of, planar
from .image_files import PIXELS, Index, finish_pixels
from .image_folder import need_space, new_folder, writing
from .image_kinds import pack_kind
from .image_pack import Choice, How, Say, describe, refuse_early, write_set
from .image_rows import Photograph, Progress, hash_rows, rows_of, silent
from .image_set import ImageSet, Scheme, check, open_image_set
from .image_sources import open_source
from .labels import LARGEST_CLASS, clustering, labels_of_csv, labels_of_folders, refuse_numbers, refuse_outside

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ImageSet", "Scheme", "check", "open_image_set", "pack", "pack_arrays", "pack_kind"]


def pack(
    source: Path,
    out: Path,
    *,
    size: int = 224,
    resize: int = 256,
    name: str | None = None,
    benchmark: str | None = None,
    labels: Path | None = None,
    decision_space: str = "all",
    clusters: str = "none",
    fast: bool = False,
    stream: bool = False,
    skip_broken: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
    say: Say = lambda _text: None,
) -> ImageSet:
    """Decode the images of a folder tree or tar archive into the new image set `out`, sorted by path.

    Args:
        source: the folder or archive.
        out: the new folder of the set.
        size: side of the central crop, in pixels.
        resize: shorter side before the crop, in pixels.
        name: by default that of `out`.
        benchmark: by default the set's name.
        labels: a CSV file, columns path and class; else classes come from folders named by WordNet ids, or by the names
            of the decision space.
        decision_space: the classes that labels are of, one of `decision_spaces.NAMES`.
        clusters: each image is its own cluster ("none"), or those of one "folder" are.
        fast: resize in a third of the time, to values that differ by 1 here and there.
        stream: write no pixels, and decode `source`, a folder, again whenever they are asked for.
        skip_broken: leave out broken images instead of stopping at the first.
        workers: threads; the set is the same for any number.
        progress: shows how far it is.
        say: told of the room that is needed, before anything is decoded.

    Raises UsageError where `source` is missing or `out` exists, ImageSetError for whatever is wrong with the images or
    their labels. After an error there is no `out`.
    """
    frame, clusters_of = Frame(size, resize, fast=fast), clustering(clusters)
    space, how = find_space(decision_space), How(skip_broken, stream, workers, progress, say)
    refuse_early(source, out, how)
    images = open_source(source)
    classes = labels_of_csv(labels, images.paths) if labels else labels_of_folders(source, images.paths, space)
    refuse_numbers(source, images.paths, classes)
    refuse_outside(labels or source, images.paths, classes, space)
    info = _info(name or out.name, benchmark, frame, decision_space)
    how.say(f"{out}: {need_space(out, len(images.paths), 0 if stream else size)}")
    return write_set(images, Choice(range(len(images.paths)), classes), out, frame, info, clusters_of, how)


def pack_arrays(
    items: Iterable[tuple[str, NDArray[np.uint8]]],
    out: Path,
    *,
    size: int = 224,
    resize: int = 256,
    name: str | None = None,
    benchmark: str | None = None,
    labels: Sequence[int] | None = None,
    decision_space: str = "all",
    clusters: str = "none",
    workers: int | None = None,
    progress: Progress = silent,
) -> ImageSet:
    """As `pack`, for pictures already in memory: pairs of a unique path, with '/', and (height, width, 3) uint8 RGB.

    The order is that of `items`, of which only a few are held at a time; `labels`, if any, has a class for each.
    """
    frame, clusters_of, space = Frame(size, resize), clustering(clusters), find_space(decision_space)
    paths: list[str] = []

    def photographs() -> Iterator[Photograph]:
        for row, (path, array) in enumerate(items):
            _check_array(f"{out}: '{path}'", array)
            paths.append(path)
            yield row, path, partial(_planar, array, frame)

    with new_folder(out) as folder:
        file = folder / PIXELS
        with rows_of(file) as keep, progress("packing", None, "images") as advance:
            sha256s, _ = hash_rows(photographs(), keep, out, workers=workers, advance=advance)
        if len(set(paths)) < len(paths):
            raise ImageSetError(f"{out}: {len(paths)} images have {len(set(paths))} different paths; give each its own")
        classes = None if labels is None else _checked_labels(out, labels, len(paths))
        refuse_outside(out, paths, classes, space)
        index = Index(paths, classes, clusters_of(paths), [sha256s[row] for row in range(len(paths))])
        with writing(out):
            finish_pixels(file, size, range(len(paths)))
            describe(folder, index, _info(name or out.name, benchmark, frame, decision_space), skipped={}, ignored=0)
    return open_image_set(out)


def _planar(array: NDArray[np.uint8], frame: Frame) -> NDArray[np.uint8]:
    return planar(photo_of(array), frame)


def _info(name: str, benchmark: str | None, frame: Frame, space: str) -> ImageSetInfo:
    return ImageSetInfo(name, benchmark or name, "", 0, frame.size, str(frame), labelled=False, decision_space=space)


def _check_array(what: str, array: NDArray[Any]) -> None:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageSetError(f"{what} must be a (height, width, 3) uint8 array, received {array.shape} {array.dtype}")


def _checked_labels(out: Path, labels: Sequence[int], count: int) -> NDArray[np.int32]:
    if len(labels) != count or not all(0 <= label <= LARGEST_CLASS for label in labels):
        raise ImageSetError(f"{out}: labels must be {count} integers, one an image, from 0 to {LARGEST_CLASS}")
    return np.array(labels, np.int32)
