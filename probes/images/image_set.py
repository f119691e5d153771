"""Open image sets, and select the images that a study uses.

`read_image_set` reads the files of a set once and returns a `PackedSet`. Selections of its images are `ImageSet`
objects, which share these files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...core.errors import ImageSetError
from ...core.jobs import Progress, in_parallel, silent
from ...core.records import Crop, ImageSetInfo, digest_of
from ...core.untrusted import as_record
from .labels import Slices, read_attributes, select_images, spread
from .pack_options import Draw
from .pixels import PackedPixels, Stream
from .storage import ABOUT, INDEX, Index, Lists, earlier_indexes, image_keys, read_description, read_index

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Scheme(NamedTuple):
    """Label scheme, stored as k pairs of an image and a class that counts as correct for it, ordered by image."""

    image_index: NDArray[np.int64]
    """Index of the image in each pair, (k,). An image can occur several times or not at all."""
    classes: NDArray[np.int32]
    """Class index in each pair, (k,)."""

    def padded(self, count: int) -> NDArray[np.int32]:
        """Return the classes of each image in ascending order, padded with -1 to equal length, (count, max classes)."""
        order = np.lexsort((self.classes, self.image_index))
        index, classes = self.image_index[order], self.classes[order]
        place = np.arange(len(index)) - np.searchsorted(index, index)
        table = np.full((count, place.max(initial=0) + 1), -1, np.int32)
        table[index, place] = classes
        return table


@dataclass(frozen=True, eq=False)
class PackedSet:
    """Content of the folder of an image set.

    The files are read only once. `select` returns selections without reading them again.
    """

    folder: Path
    """Folder of the image set."""
    info: ImageSetInfo = field(repr=False)
    """Name, size and other properties of the image set."""
    index: Index = field(repr=False)
    """Content of index.parquet."""
    keys: NDArray[np.uint64] = field(repr=False)
    """Keys that seed the noise of each image, (n,); see `storage.image_keys`."""
    source: PackedPixels | Stream = field(repr=False)
    """Open pixels.npy, or the original image files if the set is streamed."""
    crop: Crop | None = field(default=None, repr=False)
    """Crop that the images were packed with, or None if the set was created in another way."""
    class_names: list[str] | None = field(default=None, repr=False)
    """Names of custom classes by class index, or None if the classes are those of a decision space."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Path -> reason, for broken files that were skipped."""
    ignored: int = 0
    """Number of files in the source that do not have the extension of an image."""

    @cached_property
    def attributes(self) -> Slices:
        """Map (name, value) of each attribute to the indices of the images that have it.

        Raises ImageSetError if the file is damaged.
        """
        return read_attributes(self.folder, self.info.count)

    def select(self, rows: NDArray[np.int64] | None = None, numbers: Sequence[int] | None = None) -> ImageSet:
        """Select images, and optionally renumber their classes.

        Args:
            rows: Indices of the images to select, (k,). The result equals the set that would be packed from these
                images in this order. By default all images are selected.
            numbers: New index of each packed class. By default class indices do not change.

        Raises:
            ImageSetError: A label is not covered by `numbers`.
        """
        info, index, keys = self.info, self.index, self.keys
        if rows is not None:
            index, keys = index_of_rows(index, rows), keys[rows]
        if numbers is not None:
            index = _renumbered(self.folder / INDEX, index, numbers)
        if rows is not None or numbers is not None:
            info = replace(info, count=len(index.paths), digest=digest(index, info))
        return ImageSet(
            packed=self,
            info=info,
            labels=index.labels,
            schemes={name: _flat(lists) for name, lists in index.schemes.items()},
            clusters=index.clusters,
            keys=keys,
            paths=index.paths,
            class_names=self.class_names,
            own_cycles=_own_cycles(index.sides, self.crop),
            rows=rows,
            numbers=None if numbers is None else tuple(numbers),
        )

    def draw(self, draw: Draw | None) -> ImageSet:
        """Select the random sample that packing with this option would have selected.

        Smaller sets are returned completely.
        """
        if draw is None or draw.limit >= len(self.index.paths):
            return self.select()
        return self.select(spread(self.index.labels, self.index.paths, *draw))

    def find_rows(self, paths: Sequence[str]) -> NDArray[np.int64]:
        """Return the indices of images by their paths, (k,). Raises KeyError for an unknown path."""
        places = {path: row for row, path in enumerate(self.index.paths)}
        return np.array([places[path] for path in paths], np.int64)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of a packed set, or a selection of them.

    Pass `folder` instead of this object to other processes, because pickling would copy the index.
    """

    packed: PackedSet
    """Image set that the images are selected from."""
    info: ImageSetInfo
    """Properties of this selection. Its count and digest refer to the selected images."""
    labels: NDArray[np.int32] | None = field(repr=False)
    """Class indices, (n,), or None if the set is not labeled."""
    schemes: Mapping[str, Scheme] = field(repr=False)
    """Other label schemes by name: `real` (several correct classes per image), `texture` (if the labels are shapes),
    `hf_label` (class of the high frequencies, if the labels are classes of the low frequencies)."""
    clusters: NDArray[np.int32] = field(repr=False)
    """Cluster indices, (n,). Images of the same cluster, such as crops of one photograph, are not independent."""
    keys: NDArray[np.uint64] = field(repr=False)
    """Keys that seed the noise of each image, (n,); see `storage.image_keys`."""
    paths: list[str] = field(repr=False)
    """Paths of the images, relative to the packed source, with '/'."""
    class_names: list[str] | None = field(repr=False)
    """Names of custom classes by class index, or None if the classes are those of a decision space."""
    own_cycles: float | None = None
    """Native Nyquist limit in cycles/image: above it, more than 10% of the images contain no information, because their
    originals were smaller and had to be upsampled. None if fewer images were upsampled, or if this is unknown."""
    rows: NDArray[np.int64] | None = field(default=None, repr=False)
    """Indices of the images in `packed`, (n,). None if all its images are selected in their original order."""
    numbers: tuple[int, ...] | None = None
    """New index of each packed class. None if the class indices are unchanged."""

    @property
    def folder(self) -> Path:
        """Return the folder of the image set."""
        return self.packed.folder

    @property
    def source(self) -> PackedPixels | Stream:
        """Return the open pixels.npy with all packed images, or the original image files if the set is streamed."""
        return self.packed.source

    @property
    def crop(self) -> Crop | None:
        """Return the crop that the images were packed with, or None if the set was created in another way."""
        return self.packed.crop

    @property
    def skipped(self) -> dict[str, str]:
        """Return path -> reason for broken files that were skipped."""
        return self.packed.skipped

    @property
    def ignored(self) -> int:
        """Return the number of files in the source that do not have the extension of an image."""
        return self.packed.ignored

    @cached_property
    def attributes(self) -> Slices:
        """Map (name, value) of each attribute to the indices of the images that have it.

        Raises ImageSetError if the file is damaged.
        """
        packed = self.packed.attributes
        return packed if self.rows is None else select_images(packed, self.rows, len(self.packed.index.paths))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return the shape of the pixels, (n, 3, size, size)."""
        return (self.info.count, 3, self.info.size, self.info.size)

    @property
    def nbytes(self) -> int:
        """Return the size of all pixels in bytes."""
        return self.info.count * 3 * self.info.size**2

    @property
    def streamed(self) -> bool:
        """Return whether images are decoded on demand instead of stored as pixels."""
        return isinstance(self.source, Stream)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """Return the RGB pixels, (n, 3, size, size) uint8 in [0, 255].

        For a complete set this is a read-only memory map, otherwise a copy of the selected images. The pixels are not
        verified, and if another process truncates the file, reading the memory map terminates this process. `take` has
        neither problem.

        Raises:
            ImageSetError: The set is streamed.
        """
        if isinstance(self.source, Stream):
            raise ImageSetError(f"{self.folder}: streams its images and has no pixels.npy; pack it without --stream")
        pixels = self.source.map()
        return pixels if self.rows is None else pixels[self.rows]

    def take(self, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Read and verify images, (k, 3, size, size) uint8.

        Args:
            rows: Indices of the images, (k,).
            out: Array for the result. A new one is allocated by default.

        Raises:
            ImageSetError: The pixels of an image differ from those that were packed.
        """
        return self.source.take(rows if self.rows is None else self.rows[rows], out)

    def select(self, rows: NDArray[np.int64]) -> ImageSet:
        """Select some of these images by their indices, in this order. Class indices do not change."""
        return self.packed.select(rows if self.rows is None else self.rows[rows], self.numbers)

    def renumber(self, numbers: Sequence[int]) -> ImageSet:
        """Return the same images with a new index for each packed class."""
        return self.packed.select(self.rows, numbers)


def open_image_set(path: Path, draw: Draw | None = None) -> ImageSet:
    """Open an image set, or a random sample of it. See `read_image_set`."""
    return read_image_set(path).draw(draw)


def read_image_set(path: Path) -> PackedSet:
    """Read the files of an image set, except the pixels, and check that they are consistent.

    To verify the pixels too, use `check_image_set`.

    Raises:
        UsageError: The path is not an image set.
        ImageSetError: The image set is damaged or has another format version.
    """
    description = read_description(path)
    try:
        info = as_record(ImageSetInfo, description)
        skipped, ignored = dict(description["skipped"]), int(description["ignored"])
        class_names = description.get("class_names")
        crop = _crop(description["crop"], info.size) if description.keys() & {"crop", "streamed"} else None
        if class_names is not None and not (
            isinstance(class_names, list) and all(isinstance(name, str) for name in class_names)
        ):
            raise TypeError("class_names are no list of texts")
        index = read_index(path, info.count)
        source = (
            PackedPixels(path, info.size, index.paths, index.sha256s)
            if crop is None or "streamed" not in description
            else Stream(Path(description["streamed"]), crop, index.paths, index.sha256s)
        )
    except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise ImageSetError(f"{path / ABOUT}: damaged ({error!r}); pack the images again") from error
    is_complete = len(index.paths) == info.count and (index.labels is not None) == info.labelled
    if not is_complete or sorted(index.schemes) != description.get("schemes", []):
        raise ImageSetError(f"{path / INDEX}: does not fit {ABOUT}; pack the images again")
    try:
        keys = image_keys(index.sha256s)
    except ValueError as error:
        raise ImageSetError(f"{path / INDEX}: damaged ({error}); pack the images again") from error
    return PackedSet(path, info, index, keys, source, crop, class_names, skipped, ignored)


def _crop(table: Mapping[str, Any], size: int) -> Crop:
    """Parse the crop in set.json. Raises KeyError, TypeError or ValueError if it is invalid."""
    levels = table["range"]
    if isinstance(levels, list):
        low, high = levels
        levels = float(low), float(high)
    return as_record(Crop, {**table, "size": size, "range": levels})


def _own_cycles(sides: NDArray[np.int32] | None, crop: Crop | None) -> float | None:
    """Compute `ImageSet.own_cycles`.

    An original whose shorter side has s pixels contains frequencies up to s / 2 cycles. The crop shows size / resize of
    that side.
    """
    if sides is None or crop is None or crop.fixed:
        return None
    shorter = np.sort(sides.min(axis=1))[len(sides) // 10]
    return float(shorter / 2 * crop.size / crop.resize) if shorter < crop.resize else None


def index_of_rows(index: Index, rows: NDArray[np.int64]) -> Index:
    """Return the index of some of the images. Clusters are renumbered as if only these images were packed."""
    first: dict[int, int] = {}
    clusters = [first.setdefault(cluster, len(first)) for cluster in index.clusters[rows].tolist()]
    return Index(
        [index.paths[row] for row in rows],
        None if index.labels is None else index.labels[rows],
        np.array(clusters, np.int32),
        [index.sha256s[row] for row in rows],
        {name: [lists[row] for row in rows] for name, lists in index.schemes.items()},
        None if index.sides is None else index.sides[rows],
    )


def _renumbered(file: Path, index: Index, class_numbers: Sequence[int]) -> Index:
    """Replace each class c in labels and label schemes by `class_numbers[c]`."""
    numbers = np.array(class_numbers, np.int32)
    try:
        labels = None if index.labels is None else numbers[index.labels]
        # Several packed classes can map to one new class, so remove duplicates.
        schemes = {
            name: [list(dict.fromkeys(numbers[list(row)].tolist())) for row in lists]
            for name, lists in index.schemes.items()
        }
    except IndexError as error:
        raise ImageSetError(f"{file}: a class has no name; pack the images again") from error
    return replace(index, labels=labels, schemes=schemes)


def _flat(lists: Lists) -> Scheme:
    """Convert lists of classes to a label scheme."""
    images = np.repeat(np.arange(len(lists), dtype=np.int64), [len(classes) for classes in lists])
    return Scheme(images, np.array([number for classes in lists for number in classes], np.int32))


class Earlier(NamedTuple):
    """A previous version of an image set, before images were added or removed."""

    digest: str
    """Digest of the previous version."""
    places: NDArray[np.int64]
    """Positions, in ascending order, that the first k images of the current set have in the previous version, (k,).
    Their labels are the same."""


def earlier_sets(images: ImageSet) -> list[Earlier]:
    """Return the previous versions of an image set, oldest first. The list is empty for a selection of images.

    Images are identified by the SHA-256 of their pixels and by their labels. Digests are computed from the index files.
    An index that belongs to another set therefore has a digest without stored predictions and does no harm.

    Raises:
        ImageSetError: An index file is damaged.
    """
    names = [] if images.rows is not None else earlier_indexes(images.folder)
    if not names:
        return []
    pictures = _pictures(images.packed.index, images.labels)
    sets = []
    for name in names:
        index = read_index(images.folder, None, name)
        if images.numbers is not None:
            index = _renumbered(images.folder / name, index, images.numbers)
        # Both versions list their images in the same relative order. So one pass over this iterator, which continues
        # after the last match, finds all of them.
        old_pictures = enumerate(_pictures(index, index.labels))
        places: list[int] = []
        for picture in pictures:
            place = next((place for place, old_picture in old_pictures if old_picture == picture), None)
            if place is None:
                break
            places.append(place)
        sets.append(Earlier(digest(index, images.info), np.array(places, np.int64)))
    return sets


def _pictures(index: Index, labels: NDArray[np.int32] | None) -> list[tuple[str, int | None]]:
    """Return the SHA-256 and the label of each image."""
    return list(zip(index.sha256s, [None] * len(index.sha256s) if labels is None else labels.tolist(), strict=True))


def check_image_set(path: Path, *, progress: Progress = silent) -> ImageSet:
    """Open an image set and verify the pixels of all images, the labels and the clusters.

    Raises:
        ImageSetError: The pixels of an image differ from those that were packed (the message contains its path), or the
            labels or clusters do.
    """
    images = open_image_set(path)
    info, index = images.info, images.packed.index
    with progress("checking", info.count, "images") as advance:
        for _ in in_parallel(images.source.read, range(info.count)):
            advance(1)
    if info.digest != digest(index, info):
        raise ImageSetError(f"{path}: labels, clusters or hashes are not those packed; pack the images again")
    return images


def digest(index: Index, info: ImageSetInfo) -> str:
    """Compute the digest that identifies an image set, from its pixels in their order, labels and clusters.

    It does not depend on the name or folder of the set, or on whether it is streamed, since none of these affects
    predictions.
    """
    labels = None if index.labels is None else index.labels.tolist()
    special: dict[str, object] = {} if info.decision_space == "all" else {"decision_space": info.decision_space}
    if index.schemes:
        special |= {"schemes": dict(index.schemes)}
    parts = [info.size, info.preprocessing, index.sha256s, labels, index.clusters.tolist()]
    return digest_of(*parts, *([special] if special else []))
