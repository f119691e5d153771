"""Image sets: a packed set, read once, and the images of it that a study takes, with labels and clusters."""

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
    """A label scheme as k pairs of an image and a class that counts as right for it, by image."""

    image_index: NDArray[np.int64]
    """(k,); an image may have several classes, or none."""
    classes: NDArray[np.int32]
    """(k,) class indices."""

    def padded(self, count: int) -> NDArray[np.int32]:
        """(count, most): the classes of each image ascending, then -1."""
        order = np.lexsort((self.classes, self.image_index))
        index, classes = self.image_index[order], self.classes[order]
        place = np.arange(len(index)) - np.searchsorted(index, index)
        table = np.full((count, place.max(initial=0) + 1), -1, np.int32)
        table[index, place] = classes
        return table


@dataclass(frozen=True, eq=False)
class PackedSet:
    """An image set as its folder has it. Its files are read once: `select` gives sets of its images without them."""

    folder: Path
    info: ImageSetInfo = field(repr=False)
    index: Index = field(repr=False)
    keys: NDArray[np.uint64] = field(repr=False)
    """(n,) the keys of the images' noise: see `storage.image_keys`."""
    source: PackedPixels | Stream = field(repr=False)
    """The open pixels.npy, or the files to decode."""
    crop: Crop | None = field(default=None, repr=False)
    """The crop that photographs were packed with; None for a set that was made in another way."""
    class_names: list[str] | None = field(default=None, repr=False)
    """The names of the user's own classes, in their order; None where the classes are those of a decision space."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Broken files that were left out, and why."""
    ignored: int = 0
    """The number of files that were no images by their suffix."""

    @cached_property
    def attributes(self) -> Slices:
        """Name and value of an attribute -> the images that have it; ImageSetError where its file is damaged."""
        return read_attributes(self.folder, self.info.count)

    def select(self, rows: NDArray[np.int64] | None = None, numbers: Sequence[int] | None = None) -> ImageSet:
        """Select images, and number their classes.

        Args:
            rows: (k,) the images' places here; the result is the set that packing these alone, in their order, would
                have made. All images by default.
            numbers: the number of each packed class in the result; by default the packed one.

        Raises ImageSetError where a label is beyond `numbers`.
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
        """Select the images that packing so many of them would have drawn; a set that has no more stays whole."""
        if draw is None or draw.limit >= len(self.index.paths):
            return self.select()
        return self.select(spread(self.index.labels, self.index.paths, *draw))

    def find_rows(self, paths: Sequence[str]) -> NDArray[np.int64]:
        """(k,) the places of images by their paths; KeyError for a path that the set does not have."""
        places = {path: row for row, path in enumerate(self.index.paths)}
        return np.array([places[path] for path in paths], np.int64)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """All images of a packed set or some of them, with numbers of their classes.

    Hand `folder`, not this, to other processes: pickling would copy the index.
    """

    packed: PackedSet
    """The set in the folder, from which these images are selected."""
    info: ImageSetInfo
    labels: NDArray[np.int32] | None = field(repr=False)
    """(n,) class indices."""
    schemes: Mapping[str, Scheme] = field(repr=False)
    """Other label schemes by name: `real`, lists of classes; `texture`, where labels are shapes;
    `hf_label`, where they are of low frequencies."""
    clusters: NDArray[np.int32] = field(repr=False)
    """(n,) cluster indices: images of one cluster, such as crops of one photograph, are not independent."""
    keys: NDArray[np.uint64] = field(repr=False)
    """(n,) the keys of the images' noise: see `storage.image_keys`."""
    paths: list[str] = field(repr=False)
    """The images' paths, relative to what was packed, with '/'."""
    class_names: list[str] | None = field(repr=False)
    """The names of the user's own classes, in their order; None where the classes are those of a decision space."""
    own_cycles: float | None = None
    """Cycles per image above which more than a tenth of the images have nothing of their originals, since these were
    enlarged; None where fewer were, or it is not known."""
    rows: NDArray[np.int64] | None = field(default=None, repr=False)
    """(n,) the images' places in `packed`; None where they are all of its images in their order."""
    numbers: tuple[int, ...] | None = None
    """The number that each of the packed classes has here; None where it is the packed one."""

    @property
    def folder(self) -> Path:
        return self.packed.folder

    @property
    def source(self) -> PackedPixels | Stream:
        """The open pixels.npy of all packed images, or the files to decode."""
        return self.packed.source

    @property
    def crop(self) -> Crop | None:
        """The crop that photographs were packed with; None for a set that was made in another way."""
        return self.packed.crop

    @property
    def skipped(self) -> dict[str, str]:
        """Broken files that were left out, and why."""
        return self.packed.skipped

    @property
    def ignored(self) -> int:
        """The number of files that were no images by their suffix."""
        return self.packed.ignored

    @cached_property
    def attributes(self) -> Slices:
        """Name and value of an attribute -> the images that have it; ImageSetError where its file is damaged."""
        packed = self.packed.attributes
        return packed if self.rows is None else select_images(packed, self.rows, len(self.packed.index.paths))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, 3, size, size)."""
        return (self.info.count, 3, self.info.size, self.info.size)

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return self.info.count * 3 * self.info.size**2

    @property
    def streamed(self) -> bool:
        """Whether the pixels are decoded on demand."""
        return isinstance(self.source, Stream)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """(n, 3, size, size) RGB, 0 to 255: a read-only memory map. ImageSetError where the set is streamed.

        Nothing of it is checked, and a file that is cut off meanwhile ends the process: see `take`.
        """
        if isinstance(self.source, Stream):
            raise ImageSetError(f"{self.folder}: streams its images and has no pixels.npy; pack it without --stream")
        pixels = self.source.map()
        return pixels if self.rows is None else pixels[self.rows]

    def take(self, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """(k, 3, size, size): copies of images; ImageSetError where one is not the image that was packed or indexed."""
        return self.source.take(rows if self.rows is None else self.rows[rows], out)

    def select(self, rows: NDArray[np.int64]) -> ImageSet:
        """The set of some of these images, by their places here and in this order; classes keep their numbers."""
        return self.packed.select(rows if self.rows is None else self.rows[rows], self.numbers)

    def renumber(self, numbers: Sequence[int]) -> ImageSet:
        """The set of the same images, where each packed class has another number."""
        return self.packed.select(self.rows, numbers)


def open_image_set(path: Path, draw: Draw | None = None) -> ImageSet:
    """Open a set, or the images that packing so many of them would have drawn: see `read_image_set`."""
    return read_image_set(path).draw(draw)


def read_image_set(path: Path) -> PackedSet:
    """Read the files of a set: they must be there and fit each other; pixels are not read (see `check_image_set`).

    Raises UsageError where `path` is no image set, ImageSetError where it is damaged or of another format.
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
    """The crop of set.json to images of `size` pixels; KeyError, TypeError or ValueError where it is none."""
    levels = table["range"]
    if isinstance(levels, list):
        low, high = levels
        levels = float(low), float(high)
    return as_record(Crop, {**table, "size": size, "range": levels})


def _own_cycles(sides: NDArray[np.int32] | None, crop: Crop | None) -> float | None:
    """See `ImageSet.own_cycles`: an original of s pixels has frequencies to s / 2, and a crop shows size / resize."""
    if sides is None or crop is None or crop.fixed:
        return None
    shorter = np.sort(sides.min(axis=1))[len(sides) // 10]
    return float(shorter / 2 * crop.size / crop.resize) if shorter < crop.resize else None


def index_of_rows(index: Index, rows: NDArray[np.int64]) -> Index:
    """The index of some of the images, with clusters numbered as packing them would number them."""
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
    """The index with `class_numbers[class]` in place of each class of its labels and label schemes."""
    numbers = np.array(class_numbers, np.int32)
    try:
        labels = None if index.labels is None else numbers[index.labels]
        # Two names of an image may stand for one class.
        schemes = {
            name: [list(dict.fromkeys(numbers[list(row)].tolist())) for row in lists]
            for name, lists in index.schemes.items()
        }
    except IndexError as error:
        raise ImageSetError(f"{file}: a class has no name; pack the images again") from error
    return replace(index, labels=labels, schemes=schemes)


def _flat(lists: Lists) -> Scheme:
    images = np.repeat(np.arange(len(lists), dtype=np.int64), [len(classes) for classes in lists])
    return Scheme(images, np.array([number for classes in lists for number in classes], np.int32))


class Earlier(NamedTuple):
    """A set that a set was before images came or went."""

    digest: str
    places: NDArray[np.int64]
    """(k,) ascending: where the first k images lay in it, with the labels that they have now."""


def earlier_sets(images: ImageSet) -> list[Earlier]:
    """The sets that a set was before images came or went, the oldest first; none where its images are drawn.

    Images are known by the sha256 of their pixels and by their labels, and digests are computed of the indexes, so that
    an index that is of another set leads nowhere. Raises ImageSetError where one is damaged.
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
    """The sha256 and label of each image."""
    return list(zip(index.sha256s, [None] * len(index.sha256s) if labels is None else labels.tolist(), strict=True))


def check_image_set(path: Path, *, progress: Progress = silent) -> ImageSet:
    """Open a set and hash it again: ImageSetError names the first image whose pixels are not those packed."""
    images = open_image_set(path)
    info, index = images.info, images.packed.index
    with progress("checking", info.count, "images") as advance:
        for _ in in_parallel(images.source.read, range(info.count)):
            advance(1)
    if info.digest != digest(index, info):
        raise ImageSetError(f"{path}: labels, clusters or hashes are not those packed; pack the images again")
    return images


def digest(index: Index, info: ImageSetInfo) -> str:
    """The identity of a set: the digest of its pixels in their order, its labels and its clusters.

    Neither its name, nor its place, nor whether its pixels are packed enters it: a streamed set gives the same results.
    """
    labels = None if index.labels is None else index.labels.tolist()
    special: dict[str, object] = {} if info.decision_space == "all" else {"decision_space": info.decision_space}
    if index.schemes:
        special |= {"schemes": dict(index.schemes)}
    parts = [info.size, info.preprocessing, index.sha256s, labels, index.clusters.tolist()]
    return digest_of(*parts, *([special] if special else []))
