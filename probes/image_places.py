"""The sets of a benchmark: one, or one for each corruption and severity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageSetError, UnknownName, UsageError
from .decode import Frame
from .image_set import ImageSet, open_image_set
from .image_subset import Faults, Subset, refuse, some
from .kinds import SEVERITIES, Kind


@dataclass(frozen=True, slots=True)
class Place:
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

    def check(self, kind: Kind) -> None:
        """UsageError where the kind has no such sets."""
        if not kind.corruptions and (self.names or self.severities):
            raise UsageError(f"{kind.name} has neither corruptions nor severities; leave them out")
        for name in self.names:
            if name not in kind.corruptions:
                raise UnknownName(f"corruption of {kind.name}", name, kind.corruptions)
        for severity in self.severities:
            if severity not in SEVERITIES:
                raise UsageError(f"severity {severity} must be from {SEVERITIES[0]} to {SEVERITIES[-1]}")


ALL_CORRUPTIONS = Corruptions()


def find_places(kind: Kind, source: Path, out: Path, name: str, wanted: Corruptions, subset: Subset) -> list[Place]:
    """The sets that are asked for, whether or not they are packed already.

    Raises UsageError for what the kind does not have, ImageSetError where folders are missing or surplus.
    """
    wanted.check(kind)
    if not kind.corruptions:
        return [Place(source, out, name)]
    if not source.is_dir():
        raise UsageError(f"{source}: no such folder; {kind.name} is read from one folder with those of its corruptions")
    names = [one for one in kind.corruptions if one in wanted.names or not wanted.names]
    severities = [one for one in SEVERITIES if one in wanted.severities or not wanted.severities]
    found = [
        Place(source / one / str(severity), out / one / str(severity), f"{name}/{one}/{severity}", one, severity)
        for one in names
        for severity in severities
    ]
    there = [place for place in found if place.source.is_dir()]
    refuse(kind, str(source), _faults(kind, source, names, found, there, wanted, subset))
    if not there:
        raise ImageSetError(f"{source}: holds nothing of {kind.name}; its folders are named <corruption>/<severity>")
    return there


def _faults(
    kind: Kind,
    source: Path,
    names: Sequence[str],
    found: Sequence[Place],
    there: Sequence[Place],
    wanted: Corruptions,
    subset: Subset,
) -> Faults:
    folders = sorted(folder.name for folder in source.iterdir() if folder.is_dir() and folder.name[0] != ".")
    strange = [] if wanted.names else [folder for folder in folders if folder not in kind.corruptions]
    surplus = [f"{len(strange)} folders are none of its corruptions ({some(strange)})"] if strange else []
    absent = [name for name in names if name not in folders]
    lacking = [place.label for place in found if place not in there and place.corruption not in absent]
    missing = [f"{len(absent)} of {len(names)} corruptions are missing ({some(absent)})"] if absent else []
    missing += [f"{len(lacking)} severities are missing ({some(lacking)})"] if lacking else []
    return Faults(() if subset.partial else tuple(missing), tuple(surplus))


def packed_already(kind: Kind, place: Place, frame: Frame, subset: Subset, stream: bool) -> ImageSet | None:
    """The set that an interrupted pack of corruptions left whole; UsageError where another set is in its place."""
    if not kind.corruptions or not place.out.exists():
        return None
    images = open_image_set(place.out)
    info, count = images.info, images.info.count + len(images.skipped)
    found = (info.benchmark, info.corruption, info.severity, info.preprocessing, images.streamed)
    expected = (kind.name, place.corruption, place.severity, subset.described(kind, frame, count), stream)
    if found != expected or not subset.fits(kind, count):
        raise UsageError(f"{place.out}: is another set, or was packed otherwise; remove it or choose another folder")
    return images
