"""Packing a benchmark: all of it is checked first, then its sets are packed one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import ImageSetError, UsageError
from ..records import ImageSetInfo
from .decision_spaces import decision_space, names_of
from .decode import Frame
from .image_files import Lists
from .image_folder import need_space, writing
from .image_pack import USUAL, Choice, How, refuse_early, write_set
from .image_places import ALL_CORRUPTIONS, Corruptions, Place, find_places, packed_already
from .image_set import ImageSet
from .image_sources import Source, open_source
from .image_subset import WHOLE, Faults, Subset, faults, merged, refuse
from .image_truth import IMAGES, file_number, listed, read_real
from .kinds import Kind, texture_of
from .labels import clustering

__all__ = ["Corruptions", "How", "Labels", "Subset", "pack_kind"]


@dataclass(frozen=True, slots=True)
class Labels:
    """Files that say what ImageNet's validation images show, beside their folders or in place of them."""

    ground_truth: Path | None = None
    """For images that lie in no class folders: see `image_truth.read_truth`."""
    real: Path | None = None
    """ReaL's real.json."""


IN_PATHS = Labels()


def pack_kind(
    kind: Kind,
    source: Path,
    out: Path,
    *,
    size: int = 224,
    resize: int = 256,
    name: str | None = None,
    labels: Labels = IN_PATHS,
    corruptions: Corruptions = ALL_CORRUPTIONS,
    subset: Subset = WHOLE,
    clusters: str = "none",
    fast: bool = False,
    how: How = USUAL,
) -> list[ImageSet]:
    """Check that `source` holds the benchmark, or the subset of it that is meant, and pack it into `out`.

    A benchmark of corruptions becomes a set for each corruption and severity, `out`/fog/3; those that are there already
    are left as they are, so that an interrupted pack goes on. All images are counted before the first is decoded.

    Args:
        kind: the benchmark.
        source: its folder, or an archive of it; of corruptions, the folder of their folders.
        out: the new folder of the set or sets.
        size: side of the central crop, in pixels; images of a `fixed` kind must have it.
        resize: shorter side before the crop, in pixels; a `fixed` kind is not resized.
        name: of the set, by default that of `out`; corruption and severity are added.
        labels: files with labels, for the kinds that have them.
        corruptions: which of them, and which severities.
        subset: how much of it is enough.
        clusters, fast: see `images.pack`.
        how: how packing goes about it.

    Raises UsageError for options that do not belong to the kind, ImageSetError for whatever is missing or surplus, and
    for broken images. After an error there is no set that is not whole.
    """
    if kind.fixed and fast:
        raise UsageError(f"{kind.name} is not resized, so there is nothing to do faster; leave --fast out")
    frame = Frame(size, size, fixed=True) if kind.fixed else Frame(size, resize, fast=fast)
    clusters_of = clustering(clusters)
    kind, real = _labelled(kind, labels)
    places = find_places(kind, source, out, name or out.name, corruptions, subset)
    done = {place: packed for place in places if (packed := packed_already(kind, place, frame, subset, how.stream))}
    todo = [place for place in places if place not in done]
    for place in todo:
        refuse_early(place.source, place.out, how)
    look = partial(_look, kind, real, subset)
    looks, counts = _survey(kind, source, todo, look)
    if todo:
        how.say(f"{out}: {need_space(out, sum(counts), 0 if how.stream else size)}")
    for place, count in zip(todo, counts, strict=True):
        images, choice = looks[place] if place in looks else look(place)[:2]
        preprocessing = subset.described(kind, frame, count)
        info = ImageSetInfo(place.name, kind.name, "", 0, size, preprocessing, True, kind.decision_space)
        info = replace(info, corruption=place.corruption, severity=place.severity)
        with writing(place.out):
            if kind.corruptions:
                place.out.parent.mkdir(parents=True, exist_ok=True)
        done[place] = write_set(images, choice, place.out, frame, info, clusters_of, how)
    return [done[place] for place in places]


def _labelled(kind: Kind, labels: Labels) -> tuple[Kind, list[tuple[int, ...]]]:
    """The kind, with the classes of the ground truth if there is one, and ReaL's lists."""
    if (labels.real is None) == (kind.scheme == "real"):
        what = (
            "needs ReaL's labels; give --real real.json"
            if labels.real is None
            else "has no ReaL labels; leave --real out"
        )
        raise UsageError(f"{kind.name} {what}")
    real = read_real(labels.real) if labels.real else []
    if labels.ground_truth is None:
        return kind, real
    if not kind.numbered:
        raise UsageError(f"{kind.name} has its classes in its file names and folders; leave --ground-truth out")
    return replace(kind, layout=listed(labels.ground_truth)), real


def _survey(
    kind: Kind, source: Path, todo: Sequence[Place], look: Callable[[Place], tuple[Source, Choice, Faults]]
) -> tuple[dict[Place, tuple[Source, Choice]], list[int]]:
    """Look at every set before anything is decoded; how many images each will have.

    The last listing is kept: where there is one set, it may be that of a long archive.
    """
    last: dict[Place, tuple[Source, Choice]] = {}
    counts, found = [], []
    for place in todo:
        images, choice, wrong = look(place)
        last = {place: (images, choice)}
        counts.append(len(choice.rows))
        found.append((place.label, wrong))
    refuse(kind, str(source), merged(found))
    return last, counts


def _look(kind: Kind, real: Sequence[tuple[int, ...]], subset: Subset, place: Place) -> tuple[Source, Choice, Faults]:
    """List the images of a set, choose those of the subset, and say what is missing or surplus."""
    source, classes = open_source(place.source), kind.classes
    names = [kind.layout.class_of(path) for path in source.paths]
    known = [row for row, name in enumerate(names) if name in classes]
    if kind.numbered and not known and file_number(source.paths[0]):
        raise UsageError(
            f"{place.source}: '{source.paths[0]}' lies in no class folder; list the labels with --ground-truth"
        )
    known.sort(key=lambda row: (classes[names[row]], source.paths[row]))
    chosen = subset.choose([classes[names[row]] for row in known])
    rows = [known[at] for at in chosen]
    labels = np.array([classes[names[row]] for row in rows], np.int32)
    schemes = _schemes(kind, place.source, [source.paths[row] for row in rows], real)
    return source, Choice(rows, labels, schemes), faults(kind, names, source.paths, subset)


def _schemes(kind: Kind, source: Path, paths: Sequence[str], real: Sequence[tuple[int, ...]]) -> dict[str, Lists]:
    if kind.scheme == "texture":
        numbers = names_of(decision_space(kind.decision_space))
        return {"texture": [(numbers[texture_of(path)],) for path in paths]}
    if kind.scheme == "real":
        return {"real": [real[_position(source, path)] for path in paths]}
    return {}


def _position(source: Path, path: str) -> int:
    """Of a validation image in lists by file number."""
    number = file_number(path)
    if not number or number > IMAGES:
        raise ImageSetError(
            f"{source}: '{path}' has no number from 1 to {IMAGES}, as ILSVRC2012_val_00000001.JPEG, "
            "by which ReaL lists images"
        )
    return number - 1
