"""Packing: photographs decoded once to an image set, one memory-mapped file of planar uint8."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ImageSetError, UsageError
from ...protocol import SIZE
from ...records import Crop, ImageSetInfo
from .decision_spaces import decision_space as find_space
from .decode import cropped, photo_of, planar
from .files import (
    PIXELS,
    Index,
    Lists,
    finish_pixels,
    need_space,
    new_folder,
    refuse_taken,
    write_about,
    write_index,
    writing,
)
from .image_set import ImageSet, digest, open_image_set
from .labels import (
    LARGEST_CLASS,
    clustering,
    folders_that_could_be_labels,
    labels_of_csv,
    labels_of_folders,
    labels_of_names,
    refuse_numbers,
    refuse_outside,
    spread,
)
from .rows import Photograph, Progress, hash_rows, nowhere, rows_of, silent
from .sources import open_source
from .stream import described

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .labels import Clustering
    from .sources import ImageSource

Say = Callable[[str], object]
FOLDERS = Path("folders")
"""Instead of a CSV file: labels are the folders at the top."""
_USUAL = {"decision_space": "all", "corruption": None, "severity": None}
"""What set.json does not mention."""


@dataclass(frozen=True, eq=False)
class Choice:
    """Images of a source that make up a set, in its order."""

    rows: Sequence[int]
    """Their indices among the source's paths."""
    labels: NDArray[np.int32] | None
    """(n,) class indices."""
    schemes: Mapping[str, Lists] = field(default_factory=dict)
    """By name, the classes that count as right for each of the n images."""
    names: Sequence[str] | None = None
    """What the classes are called, where they are the user's own."""


@dataclass(frozen=True, slots=True)
class How:
    """How packing goes about it; none of it matters to what the set holds."""

    skip_broken: bool = False
    """Leave broken files out instead of stopping at the first."""
    stream: bool = False
    """Write no pixels: they are decoded from the source again whenever they are asked for."""
    workers: int | None = None
    """Threads; one a processor by default."""
    progress: Progress = silent
    say: Say = lambda _text: None
    """Told of the room that is needed, before anything is decoded."""


USUAL = How()


def refuse_early(where: Path, out: Path, how: How) -> None:
    """UsageError for what is known before images are listed, which takes long in an archive."""
    if how.stream and where.is_file():
        raise UsageError(f"{where}: an archive cannot be streamed; extract it, and give the folder")
    refuse_taken(out)


def write_set(
    source: ImageSource,
    choice: Choice,
    out: Path,
    crop: Crop,
    info: ImageSetInfo,
    clusters: Clustering,
    how: How,
) -> ImageSet:
    """Decode the chosen images of `source` into the new image set `out`.

    `info` lacks the digest and the count, which are found here. After an error there is no `out`.
    """
    with new_folder(out) as folder:
        need_space(out, len(choice.rows), 0 if how.stream else crop.size)
        place = {row: at for at, row in enumerate(choice.rows)}
        photographs = (
            (place[row], source.paths[row], partial(_cropped, read, crop)) for row, read in source.read(place)
        )
        file = folder / PIXELS
        keeping = nowhere() if how.stream else rows_of(file)
        with keeping as keep, how.progress(f"packing {info.name}", len(place), "images") as advance:
            sha256s, skipped = hash_rows(
                photographs, keep, source.where, workers=how.workers, advance=advance, skip_broken=how.skip_broken
            )
        if len(sha256s) + len(skipped) < len(place):
            raise ImageSetError(f"{source.where}: lost images while it was packed; pack it again")
        index = _index(source, choice, clusters, sha256s)
        more: dict[str, Any] = {"streamed": described(source.where, crop)} if how.stream else {}
        if choice.names is not None:
            more["class_names"] = list(choice.names)
        with writing(out):
            if not how.stream:
                finish_pixels(file, crop.size, sorted(sha256s))
            describe(folder, index, info, skipped=dict(sorted(skipped.items())), ignored=source.ignored, **more)
    return open_image_set(out)


def _cropped(read: Callable[[], bytes], crop: Crop) -> NDArray[np.uint8]:
    return cropped(read(), crop)


def _index(
    source: ImageSource,
    choice: Choice,
    clusters: Clustering,
    sha256s: Mapping[int, str],
) -> Index:
    """The index of the images that were not broken."""
    kept = sorted(sha256s)
    paths = [source.paths[choice.rows[at]] for at in kept]
    labels = None if choice.labels is None else choice.labels[kept]
    schemes = {name: [lists[at] for at in kept] for name, lists in choice.schemes.items()}
    return Index(paths, labels, clusters(paths), [sha256s[at] for at in kept], schemes)


def describe(folder: Path, index: Index, info: ImageSetInfo, **more: Any) -> None:
    """Write index.parquet and set.json; `info` lacks the digest and the count."""
    from PIL import __version__ as pillow

    if not index.paths:
        raise ImageSetError(f"{info.name}: no image is left to pack; {len(more['skipped'])} are broken")
    write_index(folder, index)
    found = digest(index, info.size, info.preprocessing, info.decision_space)
    whole = replace(info, digest=found, count=len(index.paths), labelled=index.labels is not None)
    about = {name: value for name, value in asdict(whole).items() if (name, value) not in _USUAL.items()}
    schemes = {"schemes": sorted(index.schemes)} if index.schemes else {}
    write_about(folder, about | schemes | more | {"pillow": pillow})


def pack(
    source: str | PathLike[str],
    out: str | PathLike[str],
    *,
    size: int = SIZE,
    resize: int = 256,
    interpolation: str = "bilinear",
    squash: bool = False,
    name: str | None = None,
    benchmark: str | None = None,
    labels: str | PathLike[str] | None = None,
    decision_space: str = "all",
    clusters: str = "none",
    limit: int | None = None,
    seed: int = 0,
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
        interpolation: bilinear or bicubic; both are antialiased.
        squash: resize both sides to `resize`.
        name: by default that of `out`.
        benchmark: by default the set's name.
        labels: a CSV file, columns path and class, or the word `folders`: those at the top are the classes. Else they
            come from folders named by WordNet ids, or by the names of the decision space.
        decision_space: the classes that labels are of, one of `decision_spaces.NAMES`.
        clusters: each image is its own cluster ("none"), or those of one "folder" are.
        limit: so many images, drawn by `seed` from each class as evenly as they go.
        fast: resize in a third of the time, to values that differ by 1 here and there.
        stream: write no pixels, and decode `source`, a folder, again whenever they are asked for.
        skip_broken: leave out broken images instead of stopping at the first.
        workers: threads; the set is the same for any number.
        progress: shows how far it is.
        say: told of the room that is needed, before anything is decoded.

    Raises UsageError where `source` is missing or `out` exists, ImageSetError for whatever is wrong with the images or
    their labels. After an error there is no `out`.
    """
    source, out = Path(source), Path(out)
    crop = Crop(size, resize, fast=fast, interpolation=interpolation, squash=squash)
    clusters_of = clustering(clusters)
    space, how = find_space(decision_space), How(skip_broken, stream, workers, progress, say)
    refuse_early(source, out, how)
    images = open_source(source)
    names: list[str] | None = None
    classes: NDArray[np.int32] | None
    if labels and Path(labels) == FOLDERS:
        classes, names = labels_of_names(source, images.paths)
    elif labels:
        classes, names = labels_of_csv(Path(labels), images.paths)
    else:
        classes = labels_of_folders(source, images.paths, space)
    if names is not None and space.name != "all":
        raise UsageError(f"classes of {space.name} have names already; leave --decision-space out, or own labels")
    refuse_numbers(source, images.paths, classes)
    refuse_outside(Path(labels or source), images.paths, classes, space)
    info = _info(name or out.name, benchmark, crop, decision_space)
    if classes is None and (folders := folders_that_could_be_labels(images.paths)):
        how.say(f"{source}: no labels, so agreement is measured; its {folders} folders can be: --labels folders")
    rows: Sequence[int] = range(len(images.paths))
    if limit is not None:
        if not 1 <= limit <= len(rows):
            raise UsageError(f"--limit {limit} must be from 1 to {len(rows)}, the number of images in {source}")
        chosen = spread(classes, images.paths, limit, seed)
        rows, classes = chosen.tolist(), None if classes is None else classes[chosen]
    how.say(f"{out}: {need_space(out, len(rows), 0 if stream else size)}")
    return write_set(images, Choice(rows, classes, names=names), out, crop, info, clusters_of, how)


def pack_arrays(
    items: Iterable[tuple[str, NDArray[np.uint8]]],
    out: Path,
    *,
    size: int = SIZE,
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
    crop, clusters_of, space = Crop(size, resize), clustering(clusters), find_space(decision_space)
    paths: list[str] = []

    def photographs() -> Iterator[Photograph]:
        for row, (path, array) in enumerate(items):
            _check_array(f"{out}: '{path}'", array)
            paths.append(path)
            yield row, path, partial(_planar, array, crop)

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
            describe(folder, index, _info(name or out.name, benchmark, crop, decision_space), skipped={}, ignored=0)
    return open_image_set(out)


def _planar(array: NDArray[np.uint8], crop: Crop) -> NDArray[np.uint8]:
    return planar(photo_of(array), crop)


def _info(name: str, benchmark: str | None, crop: Crop, space: str) -> ImageSetInfo:
    return ImageSetInfo(name, benchmark or name, "", 0, crop.size, str(crop), labelled=False, decision_space=space)


def _check_array(what: str, array: NDArray[Any]) -> None:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageSetError(f"{what} must be a (height, width, 3) uint8 array, received {array.shape} {array.dtype}")


def _checked_labels(out: Path, labels: Sequence[int], count: int) -> NDArray[np.int32]:
    if len(labels) != count or not all(0 <= label <= LARGEST_CLASS for label in labels):
        raise ImageSetError(f"{out}: labels must be {count} integers, one an image, from 0 to {LARGEST_CLASS}")
    return np.array(labels, np.int32)
