"""Pack image sets: decode images once and store them in one file of (n, 3, size, size) uint8 pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from io import FileIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.errors import ImageSetError, UsageError
from ...core.jobs import in_parallel
from ...core.protocol import SPACE_CLASSES
from ...core.records import MULTILABEL, PERCENTILES, PUBLISHED_CROP, SEVERAL, Crop, ImageSetInfo
from .decision_spaces import decision_space
from .decode import BrokenImageError, Clipping, cropped, photo_of, pillow_warnings, planar, scale
from .image_set import ImageSet, digest, open_image_set
from .image_sources import open_source
from .labels import (
    LARGEST_CLASS,
    Slices,
    Values,
    attributes_of_csv,
    check_clustering,
    clusters_of,
    folders_that_could_be_labels,
    labels_of_csv,
    labels_of_folders,
    labels_of_names,
    make_slices,
    refuse_numbers,
    refuse_outside,
    spread,
    write_attributes,
)
from .pack_options import USUAL, WHOLE_SOURCE, Contents, How
from .pixels import finish_pixels, write_row
from .storage import (
    PIXELS,
    Index,
    Lists,
    need_space,
    new_folder,
    refuse_taken,
    write_description,
    write_index,
    writing,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .decision_spaces import DecisionSpace
    from .image_sources import ImageSource

FOLDERS, NO_LABELS = Path("folders"), Path("none")
"""Values of `labels` that are not the path of a CSV file: `folders` uses the top-level folders as classes, and `none`
ignores all labels."""
MOST_CLIPPED = 0.1
"""Proportion of samples outside of the range above which a warning is issued."""
Photograph = tuple[int, str, "Callable[[], NDArray[np.uint8]]"]
"""Row of an image, its path, and a function that returns its pixels, (3, size, size) uint8."""


@dataclass(frozen=True, eq=False)
class Choice:
    """Selection of images from a source, in the order of the image set."""

    rows: Sequence[int]
    """Indices of the selected images among the paths of the source."""
    labels: NDArray[np.int32] | None
    """Class indices, (n,), or None for unlabeled images."""
    schemes: Mapping[str, Lists] = field(default_factory=dict)
    """Label schemes by name: for each of the n images, the classes that count as correct."""
    names: Sequence[str] | None = None
    """Names of custom classes."""
    clusters: str = "none"
    """Which images are not independent; see `Contents`."""
    attributes: Values = field(default_factory=dict)
    """Attributes of the images of the source."""


def refuse_early(where: Path, out: Path, how: How) -> None:
    """Raise UsageError for problems that can be found before listing the images, which takes long for an archive."""
    if how.stream and where.is_file():
        raise UsageError(f"{where}: an archive cannot be streamed; extract it, and give the folder")
    refuse_taken(out)


def write_set(source: ImageSource, choice: Choice, out: Path, crop: Crop, info: ImageSetInfo, how: How) -> ImageSet:
    """Decode the selected images of a source and write a new image set.

    If an error occurs, the folder `out` is not created.

    Args:
        source: Source of the images.
        choice: Selected images with their labels.
        out: Folder to create.
        crop: How images are resized and cropped.
        info: Properties of the set. Its digest and count are replaced by the actual values.
        how: Packing options.
    """
    with new_folder(out) as folder:
        file = None if how.stream else folder / PIXELS
        sha256s, skipped, sides = hash_photographs(source, choice.rows, file, crop, info.name, how)
        places = sorted(sha256s)
        paths = [source.paths[choice.rows[at]] for at in places]
        index = Index(
            paths,
            None if choice.labels is None else choice.labels[places],
            clusters_of(choice.clusters, paths),
            [sha256s[at] for at in places],
            {name: [lists[at] for at in places] for name, lists in choice.schemes.items()},
            np.array([sides[at] for at in places], np.int32).reshape(-1, 2),
        )
        _tell_classes_that_are_clusters(out, index, how)
        entries: dict[str, Any] = {"skipped": dict(sorted(skipped.items())), "ignored": source.ignored}
        if how.stream:
            entries["streamed"] = str(source.where.resolve())
        entries["crop"] = asdict(crop)
        if choice.clusters == "folder":
            entries["clusters"] = "folder"
        if choice.names is not None:
            entries["class_names"] = list(choice.names)
        finish_set(folder, out, index, info, places, make_slices(choice.attributes, paths), **entries)
    return open_image_set(out)


def hash_rows(
    photographs: Iterable[Photograph], count: int | None, file: Path | None, source: Path, title: str, how: How
) -> tuple[dict[int, str], dict[str, str]]:
    """Decode images, compute the SHA-256 of their pixels, and write the pixels to `file` unless it is None.

    Args:
        photographs: Images to decode.
        count: Number of images for the progress display, or None if unknown.
        file: File that the pixels are written to, one row per image.
        source: Source of the images, for error messages.
        title: Title of the progress display.
        how: Packing options.

    Returns:
        Row -> SHA-256 of the pixels, and path -> reason for skipped images.

    Raises:
        ImageSetError: An image is broken and `how.skip_broken` is not set.
    """
    sha256s, skipped = dict[int, str](), dict[str, str]()
    pixels_file: FileIO | None = None

    def hash_row(photograph: Photograph) -> tuple[int, str, str | BrokenImageError]:
        row, path, pixels_of = photograph
        try:
            pixels = pixels_of()
        except BrokenImageError as broken:
            return row, path, broken
        if pixels_file is not None:
            write_row(pixels_file, row, pixels)
        return row, path, hashlib.sha256(pixels.data).hexdigest()

    with ExitStack() as stack:
        if file is not None:
            file.touch()
            pixels_file = stack.enter_context(file.open("r+b", buffering=0))
        stack.enter_context(pillow_warnings())
        advance = stack.enter_context(how.progress(title, count, "images"))
        # Closing the iterator waits for its threads. They must finish before the file, which they write to, is closed.
        results = stack.enter_context(closing(in_parallel(hash_row, photographs, how.workers)))
        for row, path, result in results:
            if isinstance(result, str):
                sha256s[row] = result
            elif how.skip_broken:
                skipped[path] = str(result)
            else:
                raise ImageSetError(
                    f"{source}: '{path}' is broken ({result}); {result.advice}, or leave such out with --skip-broken"
                )
            advance(1)
    return sha256s, skipped


def hash_photographs(
    source: ImageSource, rows: Sequence[int], file: Path | None, crop: Crop, name: str, how: How, first: int = 0
) -> tuple[dict[int, str], dict[str, str], dict[int, tuple[int, int]]]:
    """Decode images of a source, compute the SHA-256 of their pixels, and write the pixels to `file` unless it is None.

    Args:
        source: Source of the images.
        rows: Indices of the images to decode.
        file: File that the pixels are written to. The image at position i of `rows` becomes row `first` + i.
        crop: How images are resized and cropped.
        name: Name of the image set, for the progress display.
        how: Packing options.
        first: Row of the first image.

    Returns:
        Row -> SHA-256 of the pixels, path -> reason for skipped images, and row -> width and height of the original
        image.

    Raises:
        ImageSetError: An image is broken and not skipped, or images disappeared since the source was listed.
        UsageError: The crop has a range, but all images have 8 bits.
    """
    if source.undecoded:
        how.say(f"{source.where}: files in {', '.join(source.undecoded)} are left out; convert them to PNG")
    place = {row: at for at, row in enumerate(rows, first)}
    sides = dict[int, tuple[int, int]]()
    clippings: list[Clipping | None] = []

    def pixels_of(at: int, read_bytes: Callable[[], bytes]) -> NDArray[np.uint8]:
        pixels, sides[at], clipping = cropped(read_bytes(), crop)
        clippings.append(clipping)
        return pixels

    photographs = (
        (place[row], source.paths[row], partial(pixels_of, place[row], read_bytes))
        for row, read_bytes in source.read(place)
    )
    sha256s, skipped = hash_rows(photographs, len(place), file, source.where, f"packing {name}", how)
    if len(sha256s) + len(skipped) < len(place):
        raise ImageSetError(f"{source.where}: lost images while it was packed; pack it again")
    if crop.range is not None and clippings and not any(clippings) and not first:
        raise UsageError(f"{source.where}: all pictures have 8 bits, of which a range changes nothing; leave it out")
    _tell_clipping(source.where, crop, clippings, how)
    return sha256s, skipped, sides


def _tell_clipping(where: Path, crop: Crop, clippings: Iterable[Clipping | None], how: How) -> None:
    """Warn if more than 10% of the samples with more than 8 bits are outside of the range that the user specified."""
    deep = [clipping for clipping in clippings if clipping is not None]
    share = sum(clipping.share for clipping in deep) / max(1, len(deep))
    if share > MOST_CLIPPED and isinstance(crop.range, tuple):
        minimum, maximum = min(clipping.minimum for clipping in deep), max(clipping.maximum for clipping in deep)
        how.say(
            f"{where}: warning: {share:.0%} of the samples, which go from {minimum:,g} to {maximum:,g}, lie beyond "
            f"--range {crop.range[0]:g},{crop.range[1]:g} and are black or white; give it in the units of the files, "
            f"or --range {PERCENTILES}"
        )


def _tell_classes_that_are_clusters(out: Path, index: Index, how: How) -> None:
    """Warn if each class is exactly one cluster, because confidence intervals are then based on very few clusters."""
    if index.labels is None:
        return
    classes, clusters = set(index.labels.tolist()), set(index.clusters.tolist())
    pairs = set(zip(index.labels.tolist(), index.clusters.tolist(), strict=True))
    if len(pairs) == len(classes) == len(clusters) < len(index.paths):
        how.say(
            f"{out}: warning: each class is one cluster, so intervals rest on {len(clusters)} clusters, not on "
            f"{len(index.paths)} images; leave out --clusters unless all images of a class depend on each other"
        )


def finish_set(
    folder: Path, out: Path, index: Index, info: ImageSetInfo, rows: Sequence[int], slices: Slices, **entries: Any
) -> None:
    """Write the files of an image set except the pixels, and remove the gaps that skipped images left in the pixels.

    Args:
        folder: Temporary folder with the pixels, if they are stored.
        out: Final folder of the set, for error messages.
        index: Index of the images.
        info: Properties of the set. Its digest and count are replaced by the actual values.
        rows: Rows of pixels.npy to keep.
        slices: Attributes of the images.
        entries: Additional entries of set.json.
    """
    from PIL import __version__ as pillow

    if not index.paths:
        raise ImageSetError(f"{info.name}: no image is left to pack; {len(entries['skipped'])} are broken")
    info = replace(info, digest=digest(index, info), count=len(index.paths), labelled=index.labels is not None)
    description = asdict(info) | {"schemes": sorted(index.schemes), **entries, "pillow": pillow}
    with writing(out):
        if (folder / PIXELS).exists():
            finish_pixels(folder / PIXELS, info.size, rows)
        write_index(folder, index)
        write_description(folder, description)
        write_attributes(folder, slices)


def pack(
    source: str | PathLike[str],
    out: str | PathLike[str],
    *,
    crop: Crop = PUBLISHED_CROP,
    labels: str | PathLike[str] | None = None,
    attributes: str | PathLike[str] | None = None,
    contents: Contents = WHOLE_SOURCE,
    how: How = USUAL,
) -> ImageSet:
    """Decode the images of a folder tree or tar archive and write a new image set, sorted by path.

    Use this once per data set. Runs then read the decoded pixels. If an error occurs, the folder `out` is not created.

    Args:
        source: Folder or tar archive.
        out: Folder to create.
        crop: How images are resized and cropped. The default is the preprocessing of the published study.
        labels: CSV file with the columns path and class, or `folders` to use the top-level folders as classes, or
            `none`. By default, labels are taken from folders named by WordNet IDs or by the class names of the decision
            space, if there are any.
        attributes: CSV file with the columns path, name and value, for example of sites or scanners. Metrics are
            computed for each value separately.
        contents: Name of the set, meaning of its labels, and selection of images.
        how: Options such as skipping of broken files and the number of threads. They do not change the pixels or
            labels.

    Returns:
        The new image set.

    Raises:
        UsageError: `source` does not exist, `out` exists, or the options are inconsistent.
        ImageSetError: An image is broken, or the labels are invalid.
    """
    space = decision_space(contents.decision_space)
    check_clustering(contents.clusters)
    source, out = Path(source), Path(out)
    refuse_early(source, out, how)
    images = open_source(source)
    classes, names, lists = labels_of_source(images, None if labels is None else Path(labels), space, crop, how)
    values = {} if attributes is None else attributes_of_csv(Path(attributes), images.paths)
    info = _info(out, crop, contents)
    if classes is None and (folders := folders_that_could_be_labels(images.paths)):
        how.say(f"{source}: no labels, so agreement is measured; its {folders} folders can be: --labels folders")
    rows: Sequence[int] = range(len(images.paths))
    if contents.draw is not None:
        limit, seed = contents.draw
        if not 1 <= limit <= len(rows):
            raise UsageError(f"--limit {limit} must be from 1 to {len(rows)}, the number of images in {source}")
        rows_of_draw = spread(classes, images.paths, limit, seed)
        rows, classes = rows_of_draw.tolist(), None if classes is None else classes[rows_of_draw]
    how.say(f"{out}: {need_space(out, len(rows), 0 if how.stream else crop.size)}")
    schemes = {} if lists is None else {SEVERAL: [lists[row] for row in rows]}
    choice = Choice(rows, classes, schemes, names=names, clusters=contents.clusters, attributes=values)
    return write_set(images, choice, out, crop, info, how)


def _decodable(source: ImageSource, crop: Crop, paths: Sequence[str]) -> Iterator[str]:
    """Yield those of the given paths whose images are not broken."""
    names = set(paths)
    with pillow_warnings():
        for row, read_bytes in source.read({row for row, path in enumerate(source.paths) if path in names}):
            with suppress(BrokenImageError):
                cropped(read_bytes(), crop)
                yield source.paths[row]


def labels_of_source(
    images: ImageSource,
    labels: Path | None,
    space: DecisionSpace,
    crop: Crop,
    how: How,
    set_classes: Sequence[str] = (),
    kept: Collection[str] = (),
) -> tuple[NDArray[np.int32] | None, list[str] | None, list[list[int]] | None]:
    """Read the labels of images from their folders or from a CSV file.

    Args:
        images: Source of the images.
        labels: CSV file, `FOLDERS`, `NO_LABELS`, or None to use folders named by classes, if there are any.
        space: Decision space of the classes.
        crop: Crop used to find out which images are broken.
        how: Packing options. With `skip_broken`, broken images need no row in the CSV file.
        set_classes: Class names of the image set to which the images are added.
        kept: Paths of images that need no row in the CSV file.

    Returns:
        Class indices, or None for unlabeled images; names of custom classes, or None; the list of correct classes of
        each image, or None if every image has one.

    Raises:
        UsageError: The options are inconsistent.
        ImageSetError: The labels are incomplete or invalid.
    """
    source, paths = images.where, images.paths
    names: list[str] | None = None
    lists: list[list[int]] | None = None
    classes: NDArray[np.int32] | None
    if labels == NO_LABELS:
        classes = None
    elif labels == FOLDERS:
        classes, names = labels_of_names(source, paths, set_classes)
    elif labels:
        select_packed = partial(_decodable, images, crop) if how.skip_broken else iter
        classes, names, lists = labels_of_csv(labels, paths, space.name == MULTILABEL, select_packed, kept)
        if lists is not None and space.name in SPACE_CLASSES:
            raise UsageError(f"{labels}: decision space {space.name} takes one class an image; leave out those after ;")
    elif space.name == MULTILABEL:
        raise UsageError(f"{source}: images with several labels need --labels CSV, with a row for each label")
    else:
        classes = labels_of_folders(source, paths, space)
    if names is not None and space.name in SPACE_CLASSES:
        raise UsageError(
            f"{space.name}: its classes have names already, and folders of these names are labels by themselves; leave "
            "--labels out, or --decision-space"
        )
    refuse_numbers(source, paths, classes)
    refuse_outside(labels or source, paths, classes, space)
    return classes, names, lists


def pack_arrays(
    items: Iterable[tuple[str, NDArray[Any]]],
    out: Path,
    *,
    crop: Crop = PUBLISHED_CROP,
    labels: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    contents: Contents = WHOLE_SOURCE,
    how: How = USUAL,
) -> ImageSet:
    """Pack images in memory and write a new image set.

    All images are packed, in their order. Only a few of them are in memory at a time if `items` is a generator.

    Args:
        items: Pairs of a unique path, with '/', and a (height, width, 3) uint8 RGB image. If the crop has a range,
            images can also be (height, width) or (height, width, 3) of any numeric type.
        out: Folder to create.
        crop: How images are resized and cropped.
        labels: Class index of each image. May be a list that is filled while `items` is iterated.
        class_names: Names of the classes.
        contents: Name of the set and meaning of its labels.
        how: Packing options.

    Raises:
        UsageError: The options ask for sampling, skipping or streaming, which are not possible here.
        ImageSetError: An image, a path or a label is invalid.
    """
    if contents.draw or how.skip_broken or how.stream:
        raise UsageError(f"{out}: arrays are packed one and all; leave out draw, skip_broken and stream")
    space = decision_space(contents.decision_space)
    check_clustering(contents.clusters)
    paths: list[str] = []
    sides: list[tuple[int, ...]] = []
    clippings: list[Clipping | None] = []

    def pixels_of(array: NDArray[Any]) -> NDArray[np.uint8]:
        pixels, clipping = scale(array, crop.range)
        clippings.append(clipping)
        return planar(photo_of(pixels), crop)

    def photographs() -> Iterator[Photograph]:
        for row, (path, array) in enumerate(items):
            if crop.range is None and (array.dtype != np.uint8 or array.shape[2:] != (3,) or 0 in array.shape):
                received = f"received {array.shape} {array.dtype}"
                raise ImageSetError(f"{out}: '{path}' must be a (height, width, 3) uint8 array, {received}")
            paths.append(path)
            sides.append(array.shape[1::-1])
            yield row, path, partial(pixels_of, array)

    with new_folder(out) as folder:
        sha256s, _ = hash_rows(photographs(), None, folder / PIXELS, out, "packing", how)
        _tell_clipping(out, crop, clippings, how)
        rows = range(len(paths))
        if len(set(paths)) < len(paths):
            raise ImageSetError(f"{out}: {len(paths)} images have {len(set(paths))} different paths; give each its own")
        largest = LARGEST_CLASS if class_names is None else len(class_names) - 1
        if labels is not None and (len(labels) != len(paths) or not all(0 <= label <= largest for label in labels)):
            raise ImageSetError(f"{out}: labels must be {len(paths)} integers, one an image, from 0 to {largest}")
        classes = None if labels is None else np.array(labels, np.int32)
        refuse_outside(out, paths, classes, space)
        hashes, shapes = [sha256s[row] for row in rows], np.array(sides, np.int32).reshape(-1, 2)
        index = Index(paths, classes, clusters_of(contents.clusters, paths), hashes, sides=shapes)
        _tell_classes_that_are_clusters(out, index, how)
        entries: dict[str, Any] = {"skipped": {}, "ignored": 0, "clusters": contents.clusters, "crop": asdict(crop)}
        if class_names is not None:
            entries["class_names"] = list(class_names)
        finish_set(folder, out, index, _info(out, crop, contents), rows, {}, **entries)
    return open_image_set(out)


def _info(out: Path, crop: Crop, contents: Contents) -> ImageSetInfo:
    """Return the properties of a set that is still to be packed. Digest and count are filled in later."""
    name, space = contents.name or out.name, contents.decision_space
    return ImageSetInfo(
        name, contents.benchmark or name, "", 0, crop.size, crop.key, labelled=False, decision_space=space
    )
