"""Is a benchmark whole, and which of its images are wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import ImageSetError, UsageError
from .decode import Frame
from .kinds import Kind

SHOWN = 3
"""Names in a message before it says how many there are."""


@dataclass(frozen=True, slots=True)
class Subset:
    """Less than a whole benchmark, on purpose."""

    per_class: int | None = None
    """The first images of each class."""
    limit: int | None = None
    """So many images, as evenly from all classes as they can be."""
    partial: bool = False
    """What is there, though classes or images are missing."""

    def __post_init__(self) -> None:
        if any(number is not None and number < 1 for number in (self.per_class, self.limit)):
            raise UsageError("a subset needs at least 1 image, and 1 of each class")

    def described(self, kind: Kind, frame: Frame, count: int) -> str:
        """What is done to the pixels, and of which images: for the digest and for every result."""
        if count >= kind.count:
            return str(frame)
        chosen = [f"the first {self.per_class} of each class"] if self.per_class else []
        return "; ".join([str(frame), f"{count} of {kind.count} images", *chosen])

    def fits(self, kind: Kind, count: int) -> bool:
        """Whether a set of so many images can be this subset of the kind."""
        if self.limit is not None:
            return count == self.limit
        return self.partial or count == (self.per_class * len(kind.classes) if self.per_class else kind.count)

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


def faults(kind: Kind, names: Sequence[str], paths: Sequence[str], subset: Subset) -> Faults:
    """What keeps the images at `paths`, of classes called `names`, from being the kind, or a subset of it."""
    classes = kind.classes
    counts = Counter(name for name in names if name in classes)
    return Faults(tuple(_missing(kind, counts, subset)), tuple(_surplus(kind, counts, names, paths)))


def _missing(kind: Kind, counts: Mapping[str, int], subset: Subset) -> Iterable[str]:
    total = sum(counts.values())
    if subset.limit is not None and total < subset.limit:
        yield f"there are {total} images, fewer than the {subset.limit} wanted"
    if subset.partial:
        return
    absent = [name for name in kind.classes if not counts.get(name)]
    if absent:
        yield f"{len(absent)} of {len(kind.classes)} classes have no image ({some(absent)})"
    if subset.limit is not None:
        return
    need = subset.per_class or kind.per_class
    few = [f"{name} {counts[name]}" for name in kind.classes if need and 0 < counts.get(name, 0) < need]
    if few:
        yield f"{len(few)} classes have fewer than {need} images ({some(few)})"
    if not absent and not few and subset.per_class is None and total < kind.count:
        yield f"there are {total} images instead of {kind.count}"


def _surplus(kind: Kind, counts: Mapping[str, int], names: Sequence[str], paths: Sequence[str]) -> Iterable[str]:
    strange = {name: path for name, path in zip(reversed(names), reversed(paths), strict=True) if name not in counts}
    if strange:
        number = sum(name not in counts for name in names)
        examples = some([f"'{strange[name]}'" for name in sorted(strange)])
        yield f"{number} images are of none of its {len(kind.classes)} classes ({examples}): {kind.layout.words}"
    many = [f"{name} {counts[name]}" for name in counts if kind.per_class and counts[name] > kind.per_class]
    if many:
        yield f"{len(many)} classes have more than {kind.per_class} images ({some(many)})"
    total = sum(counts.values())
    if not many and total > kind.count:
        yield f"there are {total} images instead of {kind.count}"


def some(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def merged(found: Sequence[tuple[str, Faults]]) -> Faults:
    """The faults of several sets as those of one, each with the label of its set, if it has one."""

    def lines(kind: str) -> tuple[str, ...]:
        said = [
            ": ".join(filter(None, (label, "; ".join(getattr(one, kind)))))
            for label, one in found
            if getattr(one, kind)
        ]
        return (*said[:SHOWN], *([f"and {len(said) - SHOWN} more sets"] if len(said) > SHOWN else []))

    return Faults(lines("missing"), lines("surplus"))


def refuse(kind: Kind, where: str, found: Faults) -> None:
    """ImageSetError that says what is missing or surplus, unless nothing is."""
    if found.surplus:
        raise ImageSetError(
            f"{where} is not {kind.name}: {found}; choose the right folder, or move away what is not of it"
        )
    if found.missing:
        raise ImageSetError(
            f"{where} is not all of {kind.name}: {found}; complete it, or take what is there with --partial"
        )
