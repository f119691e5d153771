"""Packing a benchmark: all of it is checked first, then its sets are packed one by one.

A benchmark has one set, or one for each corruption and severity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ...errors import ImageSetError, UnknownName, UsageError, some_of
from ...protocol import SEVERITIES, SIZE, VALIDATION, Benchmark
from ...records import Crop, ImageSetInfo
from ..images.decision_spaces import decision_space, names_of
from ..images.files import Lists, need_space, writing
from ..images.image_set import ImageSet, open_image_set
from ..images.labels import clustering
from ..images.pack import USUAL, Choice, How, refuse_early, write_set
from ..images.sources import ImageSource, open_source
from .check import WHOLE, Faults, Subset, faults, merged, refuse
from .layouts import LAYOUTS, Layout, classes_of, texture_of
from .truth import file_number, listed, read_real


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


@dataclass(frozen=True, slots=True)
class Corruptions:
    """Which sets of a benchmark of corruptions are asked for: all where there is no name, or no severity."""

    names: tuple[str, ...] = ()
    severities: tuple[int, ...] = ()

    def check(self, benchmark: Benchmark) -> None:
        """UsageError where the benchmark has no such sets."""
        if not benchmark.corruptions and (self.names or self.severities):
            raise UsageError(f"{benchmark.name} has neither corruptions nor severities; leave them out")
        for name in self.names:
            if name not in benchmark.corruptions:
                raise UnknownName(f"corruption of {benchmark.name}", name, benchmark.corruptions)
        for severity in self.severities:
            if severity not in SEVERITIES:
                raise UsageError(f"severity {severity} must be from {SEVERITIES[0]} to {SEVERITIES[-1]}")


ALL_CORRUPTIONS = Corruptions()


def find_sets(
    benchmark: Benchmark, source: Path, out: Path, name: str, wanted: Corruptions, subset: Subset
) -> list[BenchmarkSet]:
    """The sets that are asked for, whether or not they are packed already.

    Raises UsageError for what the benchmark does not have, ImageSetError where folders are missing or surplus.
    """
    wanted.check(benchmark)
    if not benchmark.corruptions:
        return [BenchmarkSet(source, out, name)]
    if not source.is_dir():
        raise UsageError(
            f"{source}: no such folder; {benchmark.name} is read from one folder with those of its corruptions"
        )
    names = [one for one in benchmark.corruptions if one in wanted.names or not wanted.names]
    severities = [one for one in SEVERITIES if one in wanted.severities or not wanted.severities]
    found = [
        BenchmarkSet(source / one / str(severity), out / one / str(severity), f"{name}/{one}/{severity}", one, severity)
        for one in names
        for severity in severities
    ]
    there = [place for place in found if place.source.is_dir()]
    refuse(benchmark, str(source), _faults(benchmark, source, names, found, there, wanted, subset))
    if not there:
        raise ImageSetError(
            f"{source}: holds nothing of {benchmark.name}; its folders are named <corruption>/<severity>"
        )
    return there


def _faults(
    benchmark: Benchmark,
    source: Path,
    names: Sequence[str],
    found: Sequence[BenchmarkSet],
    there: Sequence[BenchmarkSet],
    wanted: Corruptions,
    subset: Subset,
) -> Faults:
    folders = sorted(folder.name for folder in source.iterdir() if folder.is_dir() and folder.name[0] != ".")
    strange = [] if wanted.names else [folder for folder in folders if folder not in benchmark.corruptions]
    surplus = [f"{len(strange)} folders are none of its corruptions ({some_of(strange)})"] if strange else []
    absent = [name for name in names if name not in folders]
    lacking = [place.label for place in found if place not in there and place.corruption not in absent]
    missing = [f"{len(absent)} of {len(names)} corruptions are missing ({some_of(absent)})"] if absent else []
    missing += [f"{len(lacking)} severities are missing ({some_of(lacking)})"] if lacking else []
    return Faults(() if subset.partial else tuple(missing), tuple(surplus))


def packed_already(
    benchmark: Benchmark, place: BenchmarkSet, crop: Crop, subset: Subset, stream: bool
) -> ImageSet | None:
    """The set that an interrupted pack of corruptions left whole; UsageError where another set is in its place."""
    if not benchmark.corruptions or not place.out.exists():
        return None
    images = open_image_set(place.out)
    info, count = images.info, images.info.count + len(images.skipped)
    found = (info.benchmark, info.corruption, info.severity, info.preprocessing, images.streamed)
    expected = (benchmark.name, place.corruption, place.severity, subset.described(benchmark, crop, count), stream)
    if found != expected or not subset.fits(benchmark, count):
        raise UsageError(f"{place.out}: is another set, or was packed otherwise; remove it or choose another folder")
    return images


@dataclass(frozen=True, slots=True)
class Labels:
    """Files that say what ImageNet's validation images show, beside their folders or in place of them."""

    ground_truth: Path | None = None
    """For images that lie in no class folders: see `truth.read_truth`."""
    real: Path | None = None
    """ReaL's real.json."""


IN_PATHS = Labels()


def pack_benchmark(
    benchmark: Benchmark,
    source: Path,
    out: Path,
    *,
    size: int = SIZE,
    resize: int = 256,
    interpolation: str = "bilinear",
    squash: bool = False,
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
        benchmark: which one.
        source: its folder, or an archive of it; of corruptions, the folder of their folders.
        out: the new folder of the set or sets.
        size: side of the central crop, in pixels; images of a `fixed` benchmark must have it.
        resize: shorter side before the crop, in pixels; a `fixed` benchmark is not resized.
        interpolation, squash: see `images.pack`.
        name: of the set, by default that of `out`; corruption and severity are added.
        labels: files with labels, for the benchmarks that have them.
        corruptions: which of them, and which severities.
        subset: how much of it is enough.
        clusters, fast: see `images.pack`.
        how: how packing goes about it.

    Raises UsageError for options that do not belong to the benchmark, ImageSetError for whatever is missing or surplus,
    and for broken images. After an error there is no set that is not whole.
    """
    if benchmark.fixed and fast:
        raise UsageError(f"{benchmark.name} is not resized, so there is nothing to do faster; leave --fast out")
    crop = Crop(size, size, fixed=True) if benchmark.fixed else Crop(size, resize, False, fast, interpolation, squash)
    clusters_of = clustering(clusters)
    layout, real = _labelled(benchmark, labels)
    places = find_sets(benchmark, source, out, name or out.name, corruptions, subset)
    done = {place: packed for place in places if (packed := packed_already(benchmark, place, crop, subset, how.stream))}
    todo = [place for place in places if place not in done]
    for place in todo:
        refuse_early(place.source, place.out, how)
    look = partial(_look, benchmark, layout, real, subset)
    looks, counts = _survey(benchmark, source, todo, look)
    if todo:
        how.say(f"{out}: {need_space(out, sum(counts), 0 if how.stream else size)}")
    for place, count in zip(todo, counts, strict=True):
        images, choice = looks[place] if place in looks else look(place)[:2]
        preprocessing = subset.described(benchmark, crop, count)
        info = ImageSetInfo(place.name, benchmark.name, "", 0, size, preprocessing, True, benchmark.decision_space)
        info = replace(info, corruption=place.corruption, severity=place.severity)
        with writing(place.out):
            if benchmark.corruptions:
                place.out.parent.mkdir(parents=True, exist_ok=True)
        done[place] = write_set(images, choice, place.out, crop, info, clusters_of, how)
    return [done[place] for place in places]


def _labelled(benchmark: Benchmark, labels: Labels) -> tuple[Layout, list[tuple[int, ...]]]:
    """The layout of the benchmark's files, or the ground truth that stands for one; and ReaL's lists."""
    if (labels.real is None) == (benchmark.scheme == "real"):
        what = (
            "needs ReaL's labels; give --real real.json"
            if labels.real is None
            else "has no ReaL labels; leave --real out"
        )
        raise UsageError(f"{benchmark.name} {what}")
    real = read_real(labels.real) if labels.real else []
    if labels.ground_truth is None:
        return LAYOUTS[benchmark.name], real
    if not benchmark.numbered:
        raise UsageError(f"{benchmark.name} has its classes in its file names and folders; leave --ground-truth out")
    return listed(labels.ground_truth), real


def _survey(
    benchmark: Benchmark,
    source: Path,
    todo: Sequence[BenchmarkSet],
    look: Callable[[BenchmarkSet], tuple[ImageSource, Choice, Faults]],
) -> tuple[dict[BenchmarkSet, tuple[ImageSource, Choice]], list[int]]:
    """Look at every set before anything is decoded; how many images each will have.

    The last listing is kept: where there is one set, it may be that of a long archive.
    """
    last: dict[BenchmarkSet, tuple[ImageSource, Choice]] = {}
    counts, found = [], []
    for place in todo:
        images, choice, wrong = look(place)
        last = {place: (images, choice)}
        counts.append(len(choice.rows))
        found.append((place.label, wrong))
    refuse(benchmark, str(source), merged(found))
    return last, counts


def _look(
    benchmark: Benchmark, layout: Layout, real: Sequence[tuple[int, ...]], subset: Subset, place: BenchmarkSet
) -> tuple[ImageSource, Choice, Faults]:
    """List the images of a set, choose those of the subset, and say what is missing or surplus."""
    source, classes = open_source(place.source), classes_of(benchmark, layout)
    names = [layout.class_of(path) for path in source.paths]
    known = [row for row, name in enumerate(names) if name in classes]
    if benchmark.numbered and not known and file_number(source.paths[0]):
        raise UsageError(
            f"{place.source}: '{source.paths[0]}' lies in no class folder; list the labels with --ground-truth"
        )
    known.sort(key=lambda row: (classes[names[row]], source.paths[row]))
    chosen = subset.choose([classes[names[row]] for row in known])
    rows = [known[at] for at in chosen]
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
        return {"real": [real[_position(source, path)] for path in paths]}
    return {}


def _position(source: Path, path: str) -> int:
    """Where a validation image stands in lists by file number."""
    number = file_number(path)
    if not number or number > VALIDATION:
        raise ImageSetError(
            f"{source}: '{path}' has no number from 1 to {VALIDATION}, as ILSVRC2012_val_00000001.JPEG, "
            "by which ReaL lists images"
        )
    return number - 1
