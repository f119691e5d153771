"""Which class an image shows: read off its folder's WordNet id, or listed in a CSV file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ImageSetError, UnknownName, UsageError
from ...protocol import CLASSES
from ...untrusted import read_text
from .decision_spaces import DecisionSpace, decision_space, names_of, wnids_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALL = decision_space("all")
LARGEST = 1 << 27
"""Bytes of a CSV file: those of a few million images."""
LARGEST_CLASS = 65535
"""Predictions are kept as uint16, so no larger class could ever be predicted."""


def labels_of_folders(source: Path, paths: Sequence[str], space: DecisionSpace = ALL) -> NDArray[np.int32] | None:
    """Classes of images whose parent folders are named by them, or None where no parent folder is.

    The names are WordNet ids, and of the entry-level classes their own. `paths` are relative to the folder or archive
    `source`, whose name counts for those without a folder of their own.
    Raises ImageSetError where only some images have such a parent, UnknownName for an id that is not of the space.
    """
    classes = names_of(space) if space.name == "sixteen" else wnids_of(space)
    root = source.resolve().name.partition(".")[0]
    parents = [PurePosixPath(path).parent.name or root for path in paths]
    is_class = [parent in classes or re.fullmatch(r"n\d{8}", parent) is not None for parent in parents]
    if not any(is_class):
        return None
    if not all(is_class):
        labelled, unlabelled = paths[is_class.index(True)], paths[is_class.index(False)]
        raise ImageSetError(
            f"{source}: '{labelled}' lies in a folder named by a class and '{unlabelled}' does not; "
            "pack labelled and unlabelled images apart, or list every class with --labels"
        )
    for path, parent in zip(paths, parents, strict=True):
        if parent not in classes:
            whose = "ImageNet's 1000" if space.name == "all" else f"the {len(classes)} of {space.name}"
            hint = f"the folder of '{path}' is none of {whose}; give other class lists with --labels"
            raise UnknownName("class", parent, classes, hint)
    return np.array([classes[parent] for parent in parents], np.int32)


def refuse_numbers(source: Path, paths: Sequence[str], labels: NDArray[np.int32] | None) -> None:
    """ImageSetError where folders are named 0 to 999 and their classes are not known, or those of names as text."""
    parents = [PurePosixPath(path).parent.name for path in paths]
    names = sorted({*parents})
    if not all(name.isascii() and name.isdigit() for name in names) or {*map(int, names)} != {*range(CLASSES)}:
        return
    advice = "pack it with `bandlens benchmarks pack imagenet-v2`, or list every class with --labels"
    if labels is None:
        raise ImageSetError(f"{source}: its folders are numbers, 0 to 999, as those of ImageNet-V2; {advice}")
    as_text = {name: place for place, name in enumerate(names)}
    if "10" in as_text and labels.tolist() == [as_text[parent] for parent in parents]:
        raise ImageSetError(
            f"{source}: its labels are those of folders sorted as text, where 10 comes before 2; {advice}"
        )


def refuse_outside(source: Path, paths: Sequence[str], labels: NDArray[np.int32] | None, space: DecisionSpace) -> None:
    """ImageSetError naming the first image whose class is not of the decision space; `all` takes any."""
    if labels is None or space.name == "all":
        return
    outside = np.flatnonzero(~np.isin(labels, space.ids))
    if len(outside):
        first = int(outside[0])
        raise ImageSetError(
            f"{source}: '{paths[first]}' is labelled {labels[first]}, which is none of the {len(space.ids)} classes of "
            f"decision space {space.name}; {len(outside)} labels are like it"
        )


def labels_of_csv(file: Path, paths: Sequence[str]) -> NDArray[np.int32]:
    """Classes from a CSV file with the columns `path` and `class`, in the order of `paths`.

    Every path must be listed exactly once, and nothing else; classes are integers, 0 to 65535.
    Raises ImageSetError naming the row, counted from 1 with the header, and UsageError where there is no such file.
    """
    listed = dict.fromkeys(paths, -1)
    for row, path, label in _csv_rows(file):
        where = f"{file}, row {row}"
        if path not in listed:
            raise ImageSetError(f"{where}: no image '{path}'; paths are relative to the packed folder, with '/'")
        if listed[path] != -1:
            raise ImageSetError(f"{where}: '{path}' is listed twice; keep one of the rows")
        if not (label.isascii() and label.isdigit() and len(label) <= 9 and int(label) <= LARGEST_CLASS):
            raise ImageSetError(f"{where}: class '{label}' must be an integer from 0 to {LARGEST_CLASS}")
        listed[path] = int(label)
    missing = [path for path, label in listed.items() if label == -1]
    if missing:
        raise ImageSetError(
            f"{file}: {len(missing)} images are not listed, the first '{missing[0]}'; add a row for each"
        )
    return np.array(list(listed.values()), np.int32)


def clusters_none(paths: Sequence[str]) -> NDArray[np.int32]:
    """Each image its own cluster."""
    return np.arange(len(paths), dtype=np.int32)


def clusters_folder(paths: Sequence[str]) -> NDArray[np.int32]:
    """A cluster for each parent folder, numbered as they first appear."""
    numbers: dict[PurePosixPath, int] = {}
    return np.array([numbers.setdefault(PurePosixPath(path).parent, len(numbers)) for path in paths], np.int32)


CLUSTERINGS = {"none": clusters_none, "folder": clusters_folder}
Clustering = Callable[[Sequence[str]], "NDArray[np.int32]"]


def clustering(name: str) -> Clustering:
    """What gives the clusters of images by their paths; UnknownName where `name` is none of CLUSTERINGS."""
    if name not in CLUSTERINGS:
        raise UnknownName("clusters", name, CLUSTERINGS)
    return CLUSTERINGS[name]


def _csv_rows(file: Path) -> Iterator[tuple[int, str, str]]:
    try:
        lines = io.StringIO(read_text(file, LARGEST, pipe=True), newline="")
        reader: csv.DictReader[str] = csv.DictReader(lines, strict=True)
        if not {"path", "class"} <= set(reader.fieldnames or ()):
            found = ", ".join(reader.fieldnames or ["none"])
            raise ImageSetError(f"{file}: needs the columns path and class, found {found[:60]}")
        yield from ((number, _field(row, "path"), _field(row, "class")) for number, row in enumerate(reader, start=2))
    except OSError as error:
        raise UsageError(f"{file}: cannot read the labels ({error.strerror}); give --labels a CSV file") from error
    except (csv.Error, ValueError) as error:
        raise ImageSetError(f"{file}: not a CSV file in UTF-8 ({error}); columns are path and class") from error


def _field(row: Mapping[str, str | None], name: str) -> str:
    # A short row lacks its last fields.
    return (row[name] or "").strip()
