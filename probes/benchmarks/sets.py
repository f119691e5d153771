"""Packing a benchmark: all of it is checked first, then its sets are packed one by one.

A benchmark has one set, or one for each corruption and severity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ...core.errors import ImageSetError, UsageError, some_of
from ...core.protocol import SEVERITIES, VALIDATION, Benchmark
from ...core.records import PUBLISHED_CROP, Crop, ImageSetInfo
from ..images.decision_spaces import decision_space, names_of
from ..images.image_set import ImageSet, open_image_set
from ..images.image_sources import ImageSource, open_source
from ..images.labels import check_clustering
from ..images.options import USUAL, How
from ..images.pack import Choice, refuse_early, write_set
from ..images.set_files import Lists, need_space, writing
from .check import ALL_ROWS, Faults, Subset, faults, merged, refuse
from .layouts import IN_PATHS, LAYOUTS, Labels, Layout, classes_of, file_number, listed, read_real, texture_of


@dataclass(frozen=True, slots=True)
class BenchmarkSet:
    """One set: where its images lie, where it goes, and what it is called."""

    source: Path
    out: Path
    name: str
    corruption: str | None = None
    severity: int | None = None

    @property
    def label(self) -> str:
        """fog/3, or nothing."""
        return f"{self.corruption}/{self.severity}" if self.corruption else ""


def find_sets(benchmark: Benchmark, source: Path, out: Path, name: str, subset: Subset) -> list[BenchmarkSet]:
    """The sets that are asked for, whether or not they are packed already.

    Raises UsageError for what the benchmark does not have, ImageSetError where folders are missing or surplus.
    """
    subset.check_corruptions(benchmark)
    if not benchmark.corruptions:
        return [BenchmarkSet(source, out, name)]
    if not source.is_dir():
        raise UsageError(
            f"{source}: no such folder; {benchmark.name} is read from one folder with those of its corruptions"
        )
    corruptions = [name for name in benchmark.corruptions if name in subset.corruptions or not subset.corruptions]
    severities = [level for level in SEVERITIES if level in subset.severities or not subset.severities]
    sets = [
        BenchmarkSet(
            source / corruption / str(severity),
            out / corruption / str(severity),
            f"{name}/{corruption}/{severity}",
            corruption,
            severity,
        )
        for corruption in corruptions
        for severity in severities
    ]
    present_sets = [place for place in sets if place.source.is_dir()]
    missing_sets = [place for place in sets if place not in present_sets]
    refuse(benchmark, str(source), _faults(benchmark, source, corruptions, missing_sets, subset))
    if not present_sets:
        raise ImageSetError(
            f"{source}: holds nothing of {benchmark.name}; its folders are named <corruption>/<severity>"
        )
    return present_sets


def _faults(
    benchmark: Benchmark, source: Path, corruptions: Sequence[str], missing_sets: Sequence[BenchmarkSet], subset: Subset
) -> Faults:
    """The faults of a folder of corruptions, which lacks `missing_sets`."""
    folders = sorted(folder.name for folder in source.iterdir() if folder.is_dir() and folder.name[0] != ".")
    strays = [] if subset.corruptions else [folder for folder in folders if folder not in benchmark.corruptions]
    surplus = [f"{len(strays)} folders are none of its corruptions ({some_of(strays)})"] if strays else []
    missing_corruptions = [name for name in corruptions if name not in folders]
    severities = [place.label for place in missing_sets if place.corruption not in missing_corruptions]
    missing = (
        [f"{len(missing_corruptions)} of {len(corruptions)} corruptions are missing ({some_of(missing_corruptions)})"]
        if missing_corruptions
        else []
    )
    missing += [f"{len(severities)} severities are missing ({some_of(severities)})"] if severities else []
    return Faults(() if subset.partial else tuple(missing), tuple(surplus))


def packed_already(
    benchmark: Benchmark, place: BenchmarkSet, crop: Crop, subset: Subset, stream: bool
) -> ImageSet | None:
    """The set that an interrupted pack of corruptions left whole; UsageError where another set is in its place."""
    if not benchmark.corruptions or not place.out.exists():
        return None
    images = open_image_set(place.out)
    info, count = images.info, images.info.count + len(images.skipped)
    identity = (info.benchmark, info.corruption, info.severity, info.preprocessing, images.streamed)
    preprocessing = subset.preprocessing(benchmark, crop, count)
    if identity != (benchmark.name, place.corruption, place.severity, preprocessing, stream) or not subset.allows(
        benchmark, count
    ):
        raise UsageError(f"{place.out}: is another set, or was packed otherwise; remove it or choose another folder")
    return images


def pack_benchmark(
    benchmark: Benchmark,
    source: Path,
    out: Path,
    *,
    name: str | None = None,
    crop: Crop = PUBLISHED_CROP,
    labels: Labels = IN_PATHS,
    subset: Subset = ALL_ROWS,
    how: How = USUAL,
) -> list[ImageSet]:
    """Check that `source` holds the benchmark, or the subset of it that is meant, and pack it: see `app.api`.

    A benchmark of corruptions becomes a set for each corruption and severity, `out`/fog/3; those that are there already
    are left as they are, so that an interrupted pack goes on. All images are counted before the first is decoded.

    Raises UsageError for options that do not belong to the benchmark, ImageSetError for whatever is missing or surplus,
    and for broken images. After an error there is no set that is not whole.
    """
    if benchmark.fixed:
        crop = Crop(crop.size, crop.size, fixed=True)
    check_clustering(labels.clusters)
    layout, real = _labelled(benchmark, labels)
    places = find_sets(benchmark, source, out, name or out.name, subset)
    sets = {
        place: image_set
        for place in places
        if (image_set := packed_already(benchmark, place, crop, subset, how.stream))
    }
    todo = [place for place in places if place not in sets]
    for place in todo:
        refuse_early(place.source, place.out, how)
    look = partial(_look, benchmark, layout, real, subset)
    listings: dict[BenchmarkSet, tuple[ImageSource, Choice]] = {}
    counts, by_set = [], []
    for place in todo:
        images, choice, faults_of_set = look(place)
        listings = {place: (images, choice)}  # the last: where there is one set, it may be that of a long archive
        counts.append(len(choice.rows))
        by_set.append((place.label, faults_of_set))
    refuse(benchmark, str(source), merged(by_set))
    if todo:
        how.say(f"{out}: {need_space(out, sum(counts), 0 if how.stream else crop.size)}")
    for place, count in zip(todo, counts, strict=True):
        images, choice = listings.get(place) or look(place)[:2]
        info = ImageSetInfo(
            place.name,
            benchmark.name,
            digest="",
            count=0,
            size=crop.size,
            preprocessing=subset.preprocessing(benchmark, crop, count),
            labelled=True,
            decision_space=benchmark.decision_space,
            corruption=place.corruption,
            severity=place.severity,
        )
        with writing(place.out):
            if benchmark.corruptions:
                place.out.parent.mkdir(parents=True, exist_ok=True)
        sets[place] = write_set(images, replace(choice, clusters=labels.clusters), place.out, crop, info, how)
    return [sets[place] for place in places]


def _labelled(benchmark: Benchmark, labels: Labels) -> tuple[Layout, list[tuple[int, ...]]]:
    """The layout of the benchmark's files, or the ground truth that stands for one; and ReaL's lists."""
    if (labels.real is None) == (benchmark.scheme == "real"):
        advice = (
            "needs ReaL's labels; give --real real.json"
            if labels.real is None
            else "has no ReaL labels; leave --real out"
        )
        raise UsageError(f"{benchmark.name} {advice}")
    real = read_real(labels.real) if labels.real else []
    if labels.ground_truth is None:
        return LAYOUTS[benchmark.name], real
    if not benchmark.numbered:
        raise UsageError(f"{benchmark.name} has its classes in its file names and folders; leave --ground-truth out")
    return listed(labels.ground_truth), real


def _look(
    benchmark: Benchmark, layout: Layout, real: Sequence[tuple[int, ...]], subset: Subset, place: BenchmarkSet
) -> tuple[ImageSource, Choice, Faults]:
    """List the images of a set, choose those of the subset, and say what is missing or surplus."""
    source, classes = open_source(place.source), classes_of(benchmark, layout)
    names = [layout.class_of(path) for path in source.paths]
    members = [row for row, name in enumerate(names) if name in classes]
    if benchmark.numbered and not members and file_number(source.paths[0]):
        raise UsageError(
            f"{place.source}: '{source.paths[0]}' lies in no class folder; list the labels with --ground-truth"
        )
    members.sort(key=lambda row: (classes[names[row]], source.paths[row]))
    indices = subset.choose([classes[names[row]] for row in members])
    rows = [members[at] for at in indices]
    labels = np.array([classes[names[row]] for row in rows], np.int32)
    schemes = _schemes(benchmark, place.source, [source.paths[row] for row in rows], real)
    return source, Choice(rows, labels, schemes), faults(benchmark, layout, names, source.paths, subset)


def _schemes(
    benchmark: Benchmark, source: Path, paths: Sequence[str], real: Sequence[tuple[int, ...]]
) -> dict[str, Lists]:
    if benchmark.scheme == "texture":
        numbers = names_of(decision_space(benchmark.decision_space))
        return {"texture": [(numbers[texture_of(path)],) for path in paths]}
    if benchmark.scheme == "real":
        numbers_in_names = [file_number(path) for path in paths]
        for path, number in zip(paths, numbers_in_names, strict=True):
            if not number or number > VALIDATION:
                raise ImageSetError(
                    f"{source}: '{path}' has no number from 1 to {VALIDATION}, as ILSVRC2012_val_00000001.JPEG, "
                    "by which ReaL lists images"
                )
        return {"real": [real[number - 1] for number in numbers_in_names if number]}
    return {}
