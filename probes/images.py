"""Packing: photographs decoded once to an image set, one memory-mapped file of planar uint8."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ImageSetError, UnknownName
from .decode import Frame, decode, photo_of
from .image_files import PIXELS, Index, finish_pixels, write_about, write_index
from .image_folder import need_space, new_folder, writing
from .image_rows import Progress, silent, write_rows
from .image_set import ImageSet, check, digest, open_image_set
from .image_sources import open_source
from .labels import CLUSTERINGS, LARGEST_CLASS, labels_of_csv, labels_of_folders

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image as Photo

__all__ = ["ImageSet", "check", "open_image_set", "pack", "pack_arrays"]


def pack(
    source: Path,
    out: Path,
    *,
    size: int = 224,
    resize: int = 256,
    name: str | None = None,
    benchmark: str | None = None,
    labels: Path | None = None,
    clusters: str = "none",
    skip_broken: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> ImageSet:
    """Decode the images of a folder tree or tar archive into the new image set `out`, sorted by path.

    Classes come from the CSV file `labels` (columns path, class), or else from folders named by WordNet ids. `name`
    is by default that of `out`, `benchmark` that of the set. Each image is its own cluster ("none"), or those of one
    "folder" are. The set is the same for any number of `workers`, threads.
    Raises UsageError where `source` is missing or `out` exists, ImageSetError for whatever is wrong with the images,
    except that broken ones are left out if `skip_broken`. After an error there is no `out`.
    """
    frame, clusters_of = Frame(size, resize), _clustering(clusters)
    with new_folder(out) as folder:
        images = open_source(source)
        paths = images.paths
        need_space(out, len(paths), size)
        classes = labels_of_csv(labels, paths) if labels else labels_of_folders(source, paths)
        photos = ((row, paths[row], partial(_decoded, read)) for row, read in images.read())
        file = folder / PIXELS
        with progress("packing", len(paths), "images") as advance:
            sha256s, skipped = write_rows(
                file, source, photos, frame, workers=workers, advance=advance, skip_broken=skip_broken
            )
        if len(sha256s) + len(skipped) < len(paths):
            raise ImageSetError(f"{source}: lost images while it was packed; pack it again")
        rows = sorted(sha256s)
        kept = [paths[row] for row in rows]
        labels_of_kept = None if classes is None else classes[rows]
        index = Index(kept, labels_of_kept, clusters_of(kept), [sha256s[row] for row in rows])
        with writing(out):
            finish_pixels(file, size, rows)
            _describe(folder, index, frame, name or out.name, benchmark, skipped, images.ignored)
    return open_image_set(out)


def pack_arrays(
    items: Iterable[tuple[str, NDArray[np.uint8]]],
    out: Path,
    *,
    size: int = 224,
    resize: int = 256,
    name: str | None = None,
    benchmark: str | None = None,
    labels: Sequence[int] | None = None,
    clusters: str = "none",
    workers: int | None = None,
    progress: Progress = silent,
) -> ImageSet:
    """As `pack`, for pictures already in memory: pairs of a unique path, with '/', and (height, width, 3) uint8 RGB.

    The order is that of `items`, of which only a few are held at a time; `labels`, if any, has a class for each.
    """
    frame, clusters_of = Frame(size, resize), _clustering(clusters)
    paths: list[str] = []

    def photos() -> Iterator[tuple[int, str, Callable[[], Photo]]]:
        for row, (path, array) in enumerate(items):
            _check_array(f"{out}: '{path}'", array)
            paths.append(path)
            yield row, path, partial(photo_of, array)

    with new_folder(out) as folder:
        file = folder / PIXELS
        with progress("packing", None, "images") as advance:
            sha256s, _ = write_rows(file, out, photos(), frame, workers=workers, advance=advance)
        if len(set(paths)) < len(paths):
            raise ImageSetError(f"{out}: {len(paths)} images have {len(set(paths))} different paths; give each its own")
        classes = None if labels is None else _checked_labels(out, labels, len(paths))
        index = Index(paths, classes, clusters_of(paths), [sha256s[row] for row in range(len(paths))])
        with writing(out):
            finish_pixels(file, size, range(len(paths)))
            _describe(folder, index, frame, name or out.name, benchmark, {}, 0)
    return open_image_set(out)


def _decoded(read: Callable[[], bytes]) -> Photo:
    return decode(read())


def _clustering(name: str) -> Callable[[Sequence[str]], NDArray[np.int32]]:
    if name not in CLUSTERINGS:
        raise UnknownName("clusters", name, CLUSTERINGS)
    return CLUSTERINGS[name]


def _check_array(what: str, array: NDArray[Any]) -> None:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageSetError(f"{what} must be a (height, width, 3) uint8 array, received {array.shape} {array.dtype}")


def _checked_labels(out: Path, labels: Sequence[int], count: int) -> NDArray[np.int32]:
    if len(labels) != count or not all(0 <= label <= LARGEST_CLASS for label in labels):
        raise ImageSetError(f"{out}: labels must be {count} integers, one an image, from 0 to {LARGEST_CLASS}")
    return np.array(labels, np.int32)


def _describe(
    folder: Path, index: Index, frame: Frame, name: str, benchmark: str | None, skipped: dict[str, str], ignored: int
) -> None:
    """Write index.parquet and set.json."""
    from PIL import __version__ as pillow

    if not index.paths:
        raise ImageSetError(f"{name}: no image is left to pack; {len(skipped)} are broken")
    write_index(folder, index)
    about = {
        "name": name,
        "benchmark": benchmark or name,
        "digest": digest(index, frame.size, str(frame)),
        "count": len(index.paths),
        "size": frame.size,
        "preprocessing": str(frame),
        "labelled": index.labels is not None,
        "skipped": dict(sorted(skipped.items())),
        "ignored": ignored,
        "pillow": pillow,
    }
    write_about(folder, about)
