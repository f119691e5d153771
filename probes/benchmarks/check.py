"""Checks that a benchmark is whole, or as much of it as a subset asks for, and chooses the images of the subset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...core.errors import ImageSetError, UnknownName, UsageError, some_of
from ...core.protocol import SEVERITIES, Benchmark
from ...core.records import Crop
from ..images.decision_spaces import decision_space
from ..images.labels import places_in_classes
from .layouts import Layout, classes_of

NAMED_SETS = 3
"""The number of sets that a message names before it says how many more there are."""


@dataclass(frozen=True, slots=True)
class Subset:
    """Less than a whole benchmark, on purpose."""

    per_class: int | None = None
    """The number of first images that are taken of each class; by default all."""
    limit: int | None = None
    """The number of images that are taken, from all classes as evenly as can be; by default all."""
    partial: bool = False
    """Take what is there, though classes or images are missing."""
    corruptions: tuple[str, ...] = ()
    """The corruptions that are taken; by default all."""
    severities: tuple[int, ...] = ()
    """The severities that are taken; by default all."""

    def __post_init__(self) -> None:
        if any(number is not None and number < 1 for number in (self.per_class, self.limit)):
            raise UsageError("a subset needs at least 1 image, and 1 of each class")

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
        selection = [f"the first {self.per_class} of each class"] if self.per_class else []
        return "; ".join([crop.key, f"{count} of {benchmark.count} images", *selection])

    def allows(self, benchmark: Benchmark, count: int) -> bool:
        """Whether a set of so many images can be this subset of the benchmark."""
        if self.limit is not None:
            return count == self.limit
        return self.partial or count == (
            self.per_class * len(decision_space(benchmark.decision_space).ids) if self.per_class else benchmark.count
        )

    def choose(self, classes: Sequence[int]) -> list[int]:
        """Positions, ascending, of the images of the subset; `classes` are those of all images in their order."""
        places = places_in_classes(classes)
        rows = [row for row, place in enumerate(places) if self.per_class is None or place < self.per_class]
        rows.sort(key=places.__getitem__)  # the first of every class, then the second of every class, …
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
    return Faults(
        tuple(_missing(benchmark, classes, counts, subset)),
        tuple(_surplus(benchmark, layout, classes, counts, names, paths)),
    )


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
    need = subset.per_class or benchmark.per_class
    small_classes = [f"{name} {counts[name]}" for name in classes if need and 0 < counts.get(name, 0) < need]
    if small_classes:
        yield f"{len(small_classes)} classes have fewer than {need} images ({some_of(small_classes)})"
    if not empty_classes and not small_classes and subset.per_class is None and total < benchmark.count:
        yield f"there are {total} images instead of {benchmark.count}"


def _surplus(
    benchmark: Benchmark,
    layout: Layout,
    classes: Mapping[str, int],
    counts: Mapping[str, int],
    names: Sequence[str],
    paths: Sequence[str],
) -> Iterable[str]:
    strays = {name: path for name, path in zip(reversed(names), reversed(paths), strict=True) if name not in counts}
    if strays:
        number = sum(name not in counts for name in names)
        examples = some_of([f"'{strays[name]}'" for name in sorted(strays)])
        yield f"{number} images are of none of its {len(classes)} classes ({examples}): {layout.words}"
    large_classes = [
        f"{name} {counts[name]}" for name in counts if benchmark.per_class and counts[name] > benchmark.per_class
    ]
    if large_classes:
        yield f"{len(large_classes)} classes have more than {benchmark.per_class} images ({some_of(large_classes)})"
    total = sum(counts.values())
    if not large_classes and total > benchmark.count:
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
