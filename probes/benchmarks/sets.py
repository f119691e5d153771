"""Packing a benchmark: all of it is checked first, then its sets are packed one by one.

A benchmark has one set, or one for each corruption and severity.
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
"""The number of sets that a message names before it says how many more there are."""


@dataclass(frozen=True, slots=True)
class Subset:
    """Less than a whole benchmark, on purpose."""

    limit: int | None = None
    """The number of images that are taken, from all classes as evenly as can be; by default all."""
    partial: bool = False
    """Take what is there, though classes or images are missing."""
    corruptions: tuple[str, ...] = ()
    """The corruptions that are taken; by default all."""
    severities: tuple[int, ...] = ()
    """The severities that are taken; by default all."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError("a subset needs at least 1 image")

    def check_corruptions(self, benchmark: Benchmark) -> None:
        """UsageError where the benchmark has no such corruptions or severities."""
        if not benchmark.corruptions and (self.corruptions or self.severities):
            raise UsageError(f"{benchmark.name} has neither corruptions nor severities; leave them out")
        for name in self.corruptions:
            if name not in benchmark.corruptions:
                raise UnknownName(f"corruption of {benchmark.name}", name, benchmark.corruptions)
        for severity in self.severities:
            if severity not in SEVERITIES:
                raise UsageError(f"severity {severity} must be from {SEVERITIES[0]} to {SEVERITIES[-1]}")

    def preprocessing(self, benchmark: Benchmark, crop: Crop, count: int) -> str:
        """The identity of what is done to the pixels, and of which images: for the digest and for every result."""
        if count >= benchmark.count:
            return crop.key
        return f"{crop.key}; {count} of {benchmark.count} images"

    def allows(self, benchmark: Benchmark, count: int) -> bool:
        """Whether a set of so many images can be this subset of the benchmark."""
        if self.limit is not None:
            return count == self.limit
        return self.partial or count == benchmark.count

    def choose(self, classes: Sequence[int]) -> list[int]:
        """Positions, ascending, of the images of the subset; `classes` are those of all images in their order."""
        # The first of every class come first, then the second of every class, …
        rows = sorted(range(len(classes)), key=places_in_classes(classes).__getitem__)
        return sorted(rows[: self.limit])


ALL_ROWS = Subset()


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults of a benchmark, in words."""

    missing: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "; ".join((*self.surplus, *self.missing))


def faults(benchmark: Benchmark, layout: Layout, names: Sequence[str], paths: Sequence[str], subset: Subset) -> Faults:
    """Find what keeps the images at `paths`, of classes called `names`, from being the benchmark, or a subset of it."""
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
    """The faults of several sets as those of one, each with the label of its set, if it has one."""

    def lines(part: str) -> tuple[str, ...]:
        texts = [
            ": ".join(filter(None, (label, "; ".join(getattr(faults_of_set, part)))))
            for label, faults_of_set in by_set
            if getattr(faults_of_set, part)
        ]
        return (*texts[:NAMED_SETS], *([f"and {len(texts) - NAMED_SETS} more sets"] if len(texts) > NAMED_SETS else []))

    return Faults(lines("missing"), lines("surplus"))


def refuse(benchmark: Benchmark, where: str, faults: Faults) -> None:
    """ImageSetError that says what is missing or surplus, unless nothing is."""
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
    """Check that a folder holds a benchmark, or the subset of it that is meant, and pack it.

    A benchmark of corruptions becomes a set for each corruption and severity, `out`/fog/3; those that are there already
    are left as they are, so that an interrupted pack goes on. All images are counted before the first is decoded.

    Args:
        benchmark: its name, as `list_benchmarks` has it.
        source: its folder, or an archive of it; of corruptions, the folder of their folders.
        out: the new folder of the set, or of the sets of corruptions.
        name: the name of the set, by default that of `out`; corruption and severity are added.
        crop: how photographs become pixels; those of a benchmark that is not resized must have `crop.size`.
        labels: files with labels, for the benchmarks that have them.
        subset: how much of the benchmark is packed, and is enough; by default all of it.
        how: broken files, streaming, threads, progress; none of it matters to what the set holds.

    Raises UsageError for options that do not belong to the benchmark, ImageSetError for whatever is missing or surplus,
    and for broken images. After an error there is no set that is not whole.
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
        sets[place] = write_set(images, choice, place.out, crop, info, how)
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
