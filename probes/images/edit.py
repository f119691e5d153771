"""Add images to an image set, or remove images from it, without decoding the remaining images again.

Remaining images keep their order, and new ones are appended. The set keeps the index of each of its previous versions
(`index-1.parquet`, `index-2.parquet`, …). With these, `image_set.earlier_sets` finds the position of its images in the
previous versions. Runs can therefore reuse stored predictions and compute only those of new images.
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
    """Add the images of a folder or archive to an image set, except those whose paths it already contains.

    See `app.api`.
    """
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
    """Remove images from an image set by their paths. See `app.api`.

    The result equals the set that would be packed from the remaining images alone, except that all classes keep their
    index and name, even classes without images.
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
    """Return the crop of the image set. Raise an error if images cannot be added to it."""
    if isinstance(images.source, Stream) and images.source.source != source.resolve():
        raise UsageError(f"{images.folder} is decoded from {images.source.source}; add images there, and name it")
    crop, preprocessing = images.crop, images.info.preprocessing
    if crop is None or crop.key != preprocessing or images.schemes:
        raise ImageSetError(f"{images.folder} is no plain folder of images ({preprocessing}); make the larger set anew")
    return crop


def _clustering(path: Path, index: storage.Index) -> str:
    """Return the clustering of the image set from its description.

    It cannot be inferred from the clusters alone: if every folder has one image, both clusterings give the same
    clusters.
    """
    clustering = str(storage.read_description(path).get("clusters"))
    if not np.array_equal(clusters_of(clustering, index.paths), index.clusters):
        raise ImageSetError(f"{path}: its clusters are neither its folders nor its images; pack the larger set anew")
    return clustering


def _labels(
    images: ImageSet, source: ImageSource, labels: Path | None, crop: Crop, how: How, old_paths: Collection[str]
) -> tuple[NDArray[np.int32] | None, list[str] | None]:
    """Return the classes of the new images, with the class indices of the resulting set, and the class names of that
    set.
    """
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
    """Copy pixels.npy, if the set has one.

    The copy needs no check, because runs compare each image with its SHA-256.
    """
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
    """Write the remaining files of the new set, including the indexes of its previous versions."""
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
