"""Is a benchmark whole, and which of its images are wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...errors import ImageSetError, UsageError, some_of
from ...protocol import Benchmark
from ...records import Crop
from ..images.decision_spaces import decision_space
from .layouts import Layout, classes_of

SHOWN = 3
"""Sets in a message before it says how many there are."""


@dataclass(frozen=True, slots=True)
class Subset:
    """Less than a whole benchmark, on purpose."""

    per_class: int | None = None
    """The first images of each class."""
    limit: int | None = None
    """So many images, as evenly from all classes as they can be."""
    partial: bool = False
    """Take what is there, though classes or images are missing."""

    def __post_init__(self) -> None:
        if any(number is not None and number < 1 for number in (self.per_class, self.limit)):
            raise UsageError("a subset needs at least 1 image, and 1 of each class")

    def described(self, benchmark: Benchmark, crop: Crop, count: int) -> str:
        """What is done to the pixels, and of which images: for the digest and for every result."""
        if count >= benchmark.count:
            return str(crop)
        chosen = [f"the first {self.per_class} of each class"] if self.per_class else []
        return "; ".join([str(crop), f"{count} of {benchmark.count} images", *chosen])

    def fits(self, benchmark: Benchmark, count: int) -> bool:
        """Whether a set of so many images can be this subset of the benchmark."""
        if self.limit is not None:
            return count == self.limit
        return self.partial or count == (
            self.per_class * len(decision_space(benchmark.decision_space).ids) if self.per_class else benchmark.count
        )

    def choose(self, classes: Sequence[int]) -> list[int]:
        """Positions, ascending, of the images that are wanted; `classes` are those of all images in their order."""
        seen: Counter[int] = Counter()
        nth = []
        for one in classes:
            nth.append(seen[one])
            seen[one] += 1
        wanted = [at for at, place in enumerate(nth) if self.per_class is None or place < self.per_class]
        wanted.sort(key=lambda at: nth[at])  # the first of every class, then the second of every class, …
        return sorted(wanted[: self.limit])


WHOLE = Subset()


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with a benchmark, in words."""

    missing: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.surplus)

    def __str__(self) -> str:
        return "; ".join((*self.surplus, *self.missing))


def faults(benchmark: Benchmark, layout: Layout, names: Sequence[str], paths: Sequence[str], subset: Subset) -> Faults:
    """What keeps the images at `paths`, of classes called `names`, from being the benchmark, or a subset of it."""
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
    absent = [name for name in classes if not counts.get(name)]
    if absent:
        yield f"{len(absent)} of {len(classes)} classes have no image ({some_of(absent)})"
    if subset.limit is not None:
        return
    need = subset.per_class or benchmark.per_class
    few = [f"{name} {counts[name]}" for name in classes if need and 0 < counts.get(name, 0) < need]
    if few:
        yield f"{len(few)} classes have fewer than {need} images ({some_of(few)})"
    if not absent and not few and subset.per_class is None and total < benchmark.count:
        yield f"there are {total} images instead of {benchmark.count}"


def _surplus(
    benchmark: Benchmark,
    layout: Layout,
    classes: Mapping[str, int],
    counts: Mapping[str, int],
    names: Sequence[str],
    paths: Sequence[str],
) -> Iterable[str]:
    strange = {name: path for name, path in zip(reversed(names), reversed(paths), strict=True) if name not in counts}
    if strange:
        number = sum(name not in counts for name in names)
        examples = some_of([f"'{strange[name]}'" for name in sorted(strange)])
        yield f"{number} images are of none of its {len(classes)} classes ({examples}): {layout.words}"
    many = [f"{name} {counts[name]}" for name in counts if benchmark.per_class and counts[name] > benchmark.per_class]
    if many:
        yield f"{len(many)} classes have more than {benchmark.per_class} images ({some_of(many)})"
    total = sum(counts.values())
    if not many and total > benchmark.count:
        yield f"there are {total} images instead of {benchmark.count}"


def merged(found: Sequence[tuple[str, Faults]]) -> Faults:
    """The faults of several sets as those of one, each with the label of its set, if it has one."""

    def lines(part: str) -> tuple[str, ...]:
        said = [
            ": ".join(filter(None, (label, "; ".join(getattr(one, part)))))
            for label, one in found
            if getattr(one, part)
        ]
        return (*said[:SHOWN], *([f"and {len(said) - SHOWN} more sets"] if len(said) > SHOWN else []))

    return Faults(lines("missing"), lines("surplus"))


def refuse(benchmark: Benchmark, where: str, found: Faults) -> None:
    """ImageSetError that says what is missing or surplus, unless nothing is."""
    if found.surplus:
        raise ImageSetError(
            f"{where} is not {benchmark.name}: {found}; choose the right folder, or move away what is not of it"
        )
    if found.missing:
        raise ImageSetError(
            f"{where} is not all of {benchmark.name}: {found}; complete it, or take what is there with --partial"
        )
