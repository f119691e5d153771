"""Pack benchmarks. All files are checked before the first image is decoded.

A benchmark becomes one image set, or one image set per corruption and severity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np

from ...core.errors import ImageSetError, UnknownName, UsageError, some_of
from ...core.protocol import SEVERITIES, VALIDATION, Benchmark
from ...core.records import PUBLISHED_CROP, Crop, ImageSetInfo
from ..images.decision_spaces import decision_space, names_of
from ..images.image_set import ImageSet, open_image_set
from ..images.image_sources import ImageSource, open_source
from ..images.labels import places_in_classes
from ..images.pack import Choice, refuse_early, write_set
from ..images.pack_options import USUAL, How
from ..images.storage import Lists, need_space, writing
from .layouts import (
    IN_PATHS,
    LAYOUTS,
    Labels,
    Layout,
    classes_of,
    file_number,
    find_benchmark,
    listed,
    read_real,
    texture_of,
)

NAMED_SETS = 3
"""Maximum number of image sets listed in a message."""


@dataclass(frozen=True, slots=True)
class Subset:
    """Restrict a benchmark to some of its images."""

    limit: int | None = None
    """Number of images, balanced between classes as far as possible. By default all images are used."""
    partial: bool = False
    """Whether missing classes and images are allowed."""
    corruptions: tuple[str, ...] = ()
    """Corruptions to use. By default all are used."""
    severities: tuple[int, ...] = ()
    """Severities to use. By default all are used."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError("a subset needs at least 1 image")

    def check_corruptions(self, benchmark: Benchmark) -> None:
        """Raise UsageError if the benchmark does not have these corruptions or severities."""
        if not benchmark.corruptions and (self.corruptions or self.severities):
            raise UsageError(f"{benchmark.name} has neither corruptions nor severities; leave them out")
        for name in self.corruptions:
            if name not in benchmark.corruptions:
                raise UnknownName(f"corruption of {benchmark.name}", name, benchmark.corruptions)
        for severity in self.severities:
            if severity not in SEVERITIES:
                raise UsageError(f"severity {severity} must be from {SEVERITIES[0]} to {SEVERITIES[-1]}")

    def preprocessing(self, benchmark: Benchmark, crop: Crop, count: int) -> str:
        """Return text that identifies the crop and the number of images.

        It is part of the digest and shown with every result.
        """
        if count >= benchmark.count:
            return crop.key
        return f"{crop.key}; {count} of {benchmark.count} images"

    def allows(self, benchmark: Benchmark, count: int) -> bool:
        """Return whether an image set with `count` images can be this subset of the benchmark."""
        if self.limit is not None:
            return count == self.limit
        return self.partial or count == benchmark.count

    def choose(self, classes: Sequence[int]) -> list[int]:
        """Return the positions of the selected images in ascending order.

        `classes` contains the class of each image.
        """
        # Take the first image of every class, then the second of every class, and so on.
        rows = sorted(range(len(classes)), key=places_in_classes(classes).__getitem__)
        return sorted(rows[: self.limit])


ALL_ROWS = Subset()
"""The complete benchmark."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Differences between files and a benchmark, as text."""

    missing: tuple[str, ...] = ()
    """Files that the benchmark contains but that do not exist."""
    surplus: tuple[str, ...] = ()
    """Files that do not belong to the benchmark."""

    def __str__(self) -> str:
        return "; ".join((*self.surplus, *self.missing))


def faults(benchmark: Benchmark, layout: Layout, names: Sequence[str], paths: Sequence[str], subset: Subset) -> Faults:
    """Compare the images that were found with the benchmark or a subset of it.

    Args:
        benchmark: Expected benchmark.
        layout: Layout of its files.
        names: Class name of each image, or "" if its path does not have the layout.
        paths: Path of each image.
        subset: Expected subset.
    """
    classes = classes_of(benchmark, layout)
    counts = Counter(name for name in names if name in classes)
    surplus = []
    strays = {name: path for name, path in zip(reversed(names), reversed(paths), strict=True) if name not in counts}
    if strays:
        number = len(names) - counts.total()
        examples = some_of([f"'{strays[name]}'" for name in sorted(strays)])
        surplus.append(f"{number} images are of none of its {len(classes)} classes ({examples}): {layout.words}")
    most = benchmark.per_class
    large_classes = [f"{name} {count}" for name, count in counts.items() if most and count > most]
    if large_classes:
        surplus.append(f"{len(large_classes)} classes have more than {most} images ({some_of(large_classes)})")
    elif counts.total() > benchmark.count:
        surplus.append(f"there are {counts.total()} images instead of {benchmark.count}")
    return Faults(tuple(_missing(benchmark, classes, counts, subset)), tuple(surplus))


def _missing(
    benchmark: Benchmark, classes: Mapping[str, int], counts: Mapping[str, int], subset: Subset
) -> Iterable[str]:
    """Yield descriptions of missing images and classes."""
    total = sum(counts.values())
    if subset.limit is not None and total < subset.limit:
        yield f"there are {total} images, fewer than the {subset.limit} wanted"
    if subset.partial:
        return
    empty_classes = [name for name in classes if not counts.get(name)]
    if empty_classes:
        yield f"{len(empty_classes)} of {len(classes)} classes have no image ({some_of(empty_classes)})"
    if subset.limit is not None:
        return
    need = benchmark.per_class
    small_classes = [f"{name} {counts[name]}" for name in classes if need and 0 < counts.get(name, 0) < need]
    if small_classes:
        yield f"{len(small_classes)} classes have fewer than {need} images ({some_of(small_classes)})"
    if not empty_classes and not small_classes and total < benchmark.count:
        yield f"there are {total} images instead of {benchmark.count}"


def merged(by_set: Sequence[tuple[str, Faults]]) -> Faults:
    """Combine the differences of several image sets, each with the label of its set."""

    def lines(part: str) -> tuple[str, ...]:
        texts = [
            ": ".join(filter(None, (label, "; ".join(getattr(faults_of_set, part)))))
            for label, faults_of_set in by_set
            if getattr(faults_of_set, part)
        ]
        return (*texts[:NAMED_SETS], *([f"and {len(texts) - NAMED_SETS} more sets"] if len(texts) > NAMED_SETS else []))

    return Faults(lines("missing"), lines("surplus"))


def refuse(benchmark: Benchmark, where: str, faults: Faults) -> None:
    """Raise ImageSetError with a description of the differences, if there are any."""
    if faults.surplus:
        raise ImageSetError(
            f"{where} is not {benchmark.name}: {faults}; choose the right folder, or move away what is not of it"
        )
    if faults.missing:
        raise ImageSetError(
            f"{where} is not all of {benchmark.name}: {faults}; complete it, or take what is there with --partial"
        )


@dataclass(frozen=True, slots=True)
class BenchmarkSet:
    """One image set of a benchmark."""

    source: Path
    """Folder or archive of the images."""
    out: Path
    """Folder of the image set."""
    name: str
    """Name of the image set in results."""
    corruption: str | None = None
    severity: int | None = None

    @property
    def label(self) -> str:
        """Return the corruption and severity, such as `fog/3`, or an empty string."""
        return f"{self.corruption}/{self.severity}" if self.corruption else ""


def find_sets(benchmark: Benchmark, source: Path, out: Path, name: str, subset: Subset) -> list[BenchmarkSet]:
    """Return the image sets of a benchmark that the subset asks for, including those that are already packed.

    Raises:
        UsageError: The benchmark does not have the corruptions or severities, or the source folder does not exist.
        ImageSetError: Folders are missing or do not belong to the benchmark.
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
    """Compare the folders of a corruption benchmark with the expected ones."""
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
    """Return an image set that an interrupted earlier call has completed, or None if there is none.

    Raises:
        UsageError: The folder contains another image set.
    """
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
    benchmark: str | Benchmark,
    source: str | PathLike[str],
    out: str | PathLike[str],
    *,
    name: str | None = None,
    crop: Crop = PUBLISHED_CROP,
    labels: Labels = IN_PATHS,
    subset: Subset = ALL_ROWS,
    how: How = USUAL,
) -> list[ImageSet]:
    """Check that a folder contains a benchmark or the requested subset of it, and pack it.

    A benchmark of corruptions becomes one image set per corruption and severity, such as `out`/fog/3. Image sets that
    already exist are kept, so an interrupted call can be repeated. All images are counted before the first one is
    decoded. After an error, no incomplete image set is left behind.

    Args:
        benchmark: Name of the benchmark, see `list_benchmarks`.
        source: Folder or archive of the benchmark. For corruptions, the folder that contains a folder per corruption.
        out: Folder to create for the image set, or for the image sets of all corruptions.
        name: Name of the image set in results. Defaults to the name of `out`. Corruption and severity are appended.
        crop: How images are resized and cropped. Benchmarks that are not resized must have images of `crop.size`
            pixels.
        labels: Files with labels, for benchmarks that need them.
        subset: Part of the benchmark to pack. Defaults to all of it.
        how: Options such as skipping of broken files and the number of threads. They do not change the pixels or
            labels.

    Returns:
        The image sets, in the order of corruptions and severities.

    Raises:
        UsageError: An option does not apply to the benchmark.
        ImageSetError: Files are missing, broken, or do not belong to the benchmark.
    """
    benchmark = find_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
    source, out = Path(source), Path(out)
    if benchmark.fixed:
        crop = Crop(crop.size, crop.size, fixed=True)
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
        # Keep only the last listing, to save memory. A benchmark with one set may be a large archive, which is slow to
        # list, so it is not listed twice.
        listings = {place: (images, choice)}
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
        sets[place] = write_set(images, choice, place.out, crop, info, how)
    return [sets[place] for place in places]


def _labelled(benchmark: Benchmark, labels: Labels) -> tuple[Layout, list[tuple[int, ...]]]:
    """Return the layout of the benchmark's files, or that of a ground-truth list, and the ReaL labels."""
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
    """List the images of an image set, select those of the subset, and compare them with the benchmark."""
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
    """Return the additional label schemes of a benchmark: texture classes or ReaL labels."""
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
