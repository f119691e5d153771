"""Images added to a set, or removed from it: what stays is copied, and what is new is decoded.

Images that stay keep their order, and new ones come after them. The set keeps the index of each set that it was before,
`index-1.parquet` and so on, by which `image_set.earlier_sets` finds where its images lay there: a run takes predictions
from there, and computes the new ones alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.errors import ImageSetError, UnknownName, UsageError, some_of
from ...core.records import Crop
from . import storage
from .decision_spaces import decision_space
from .image_set import ImageSet, index_of_rows, open_image_set
from .image_sources import open_source
from .labels import Slices, clusters_of, select_images
from .pack import finish_set, hash_photographs, labels_of_source
from .pack_options import USUAL, How
from .pixels import Stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .image_sources import ImageSource


def add_images(path: Path, source: Path, labels: Path | None = None, how: How = USUAL) -> ImageSet:
    """Add the images of a folder or archive whose paths a set does not have, after those that it has: see `app.api`."""
    with storage.changed_folder(path) as folder:
        images = open_image_set(path)
        index, old_count = images.packed.index, images.info.count
        crop, clustering = _crop(images, source), _clustering(path, index)
        photographs = open_source(source)
        old_paths, total = set(index.paths), len(photographs.paths)
        rows = [row for row, name in enumerate(photographs.paths) if name not in old_paths]
        if not rows:
            raise UsageError(f"{path} has all {total} images of {source} already, by their paths; nothing is new")
        classes, names = _labels(images, photographs, labels, crop, how, old_paths)
        if new_classes := sorted({*(names or ())}.difference(images.class_names or ())):
            how.say(f"{path}: new classes: {some_of(new_classes)}")
        if duplicates := total - len(rows):
            how.say(f"{path} has {duplicates:,} of the {total:,} paths of {source} already, and keeps its images")
        how.say(f"{path}: {storage.need_space(path, old_count + len(rows), 0 if images.streamed else crop.size)}")
        pixels = _copy_pixels(images, folder)
        name = images.info.name
        sha256s, skipped, sides = hash_photographs(photographs, rows, pixels, crop, name, how, old_count)
        if not sha256s:
            raise ImageSetError(f"{source}: all of the {len(rows)} new images are broken; repair them")
        places = sorted(sha256s)
        new_rows = [rows[place - old_count] for place in places]
        paths = [*index.paths, *(photographs.paths[row] for row in new_rows)]
        new_sides = np.array([sides[place] for place in places], np.int32)
        larger = storage.Index(
            paths,
            None if index.labels is None or classes is None else np.concatenate([index.labels, classes[new_rows]]),
            clusters_of(clustering, paths),
            [*index.sha256s, *(sha256s[place] for place in places)],
            sides=None if index.sides is None else np.concatenate([index.sides, new_sides]),
        )
        broken = {name: why for name, why in images.skipped.items() if name not in paths} | skipped
        _finish(folder, images, larger, [*range(old_count), *places], images.attributes, broken, names)
    return open_image_set(path)


def remove_images(path: Path, names: Sequence[str]) -> ImageSet:
    """Remove images from a set by their paths; what is left is the set that packing these alone would have made.

    But classes keep their numbers and names, even those that no image shows any more: see `app.api`.
    """
    with storage.changed_folder(path) as folder:
        images = open_image_set(path)
        index, paths = images.packed.index, set(names)
        if unknown := paths.difference(index.paths):
            raise UnknownName("image", min(unknown), index.paths, f"{path / storage.INDEX} has the paths")
        rows = [row for row, name in enumerate(index.paths) if name not in paths]
        if not rows:
            raise UsageError(f"{path} would have no image left; delete the folder instead")
        _copy_pixels(images, folder)
        slices = select_images(images.attributes, np.array(rows), images.info.count)
        smaller = index_of_rows(index, np.array(rows))
        _finish(folder, images, smaller, rows, slices, images.skipped, images.class_names)
    return open_image_set(path)


def _crop(images: ImageSet, source: Path) -> Crop:
    """The crop that the set was packed with."""
    if isinstance(images.source, Stream) and images.source.source != source.resolve():
        raise UsageError(f"{images.folder} is decoded from {images.source.source}; add images there, and name it")
    crop, preprocessing = images.crop, images.info.preprocessing
    if crop is None or crop.key != preprocessing or images.schemes:
        raise ImageSetError(f"{images.folder} is no plain folder of images ({preprocessing}); make the larger set anew")
    return crop


def _clustering(path: Path, index: storage.Index) -> str:
    """The name of the set's clustering, which its clusters do not tell: each folder may have one image."""
    clustering = str(storage.read_description(path).get("clusters"))
    if not np.array_equal(clusters_of(clustering, index.paths), index.clusters):
        raise ImageSetError(f"{path}: its clusters are neither its folders nor its images; pack the larger set anew")
    return clustering


def _labels(
    images: ImageSet, source: ImageSource, labels: Path | None, crop: Crop, how: How, old_paths: Collection[str]
) -> tuple[NDArray[np.int32] | None, list[str] | None]:
    """The classes of the source's new images, in the numbers of the larger set, and the names that this has of them."""
    if not images.info.labelled:
        if labels is not None:
            raise UsageError(f"{images.folder} has no labels; leave --labels out")
        return None, None
    space = decision_space(images.info.decision_space)
    classes, names, lists = labels_of_source(source, labels, space, crop, how, images.class_names or (), old_paths)
    if lists is not None:
        raise UsageError(f"{images.folder} has one class an image, and {labels} several; make the larger set anew")
    if classes is None:
        raise UsageError(f"{images.folder} has labels; name with --labels what the images of {source.where} show")
    if (names is None) != (images.class_names is None):
        kinds = ("numbers", "names") if names is None else ("names", "numbers")
        raise UsageError(f"{images.folder} has {kinds[1]} of classes, and --labels {kinds[0]}; give {kinds[1]}")
    if names is None or images.class_names is None:
        return classes, None
    larger = [*images.class_names, *(name for name in names if name not in images.class_names)]
    return np.array([larger.index(name) for name in names], np.int32)[classes], larger


def _copy_pixels(images: ImageSet, folder: Path) -> Path | None:
    """Copy the pixels, where the set has them; runs compare each image with its hash."""
    if images.streamed:
        return None
    file = folder / storage.PIXELS
    with storage.writing(images.folder):
        shutil.copyfile(images.folder / storage.PIXELS, file)
    return file


def _finish(
    folder: Path,
    images: ImageSet,
    index: storage.Index,
    rows: Sequence[int],
    slices: Slices,
    skipped: Mapping[str, str],
    names: Sequence[str] | None,
) -> None:
    """Write the new set's files beside its pixels, with the indexes of the sets that it was before."""
    indexes = [*storage.earlier_indexes(images.folder), storage.INDEX]
    with storage.writing(images.folder):
        for number, name in enumerate(indexes, start=1):
            shutil.copyfile(images.folder / name, folder / storage.earlier_index(number))
    description = storage.read_description(images.folder)
    entries: dict[str, Any] = {key: description[key] for key in ("streamed", "crop", "clusters") if key in description}
    if names is not None:
        entries["class_names"] = list(names)
    entries |= {"skipped": skipped, "ignored": images.ignored}
    finish_set(folder, images.folder, index, images.info, rows, slices, **entries)
