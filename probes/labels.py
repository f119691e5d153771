"""Which class an image shows: read off its folder's WordNet id, or listed in a CSV file."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ImageSetError, UnknownName, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST_CLASS = 65535
"""Predictions are kept as uint16, so no larger class could ever be predicted."""


@cache
def imagenet_classes() -> dict[str, int]:
    """WordNet id -> class index, 0 to 999, of the 1000 classes of ImageNet."""
    wnids = Path(__file__).with_name("imagenet_wnids.txt").read_text(encoding="ascii").split()
    return {wnid: index for index, wnid in enumerate(wnids)}


def labels_of_folders(source: Path, paths: Sequence[str]) -> NDArray[np.int32] | None:
    """ImageNet classes of images whose parent folders are WordNet ids, or None where no parent folder is one.

    `paths` are relative to the folder or archive `source`, whose name counts for those without a folder of their own.
    Raises ImageSetError where only some images have such a parent, UnknownName for an id that is not ImageNet's.
    """
    root = source.resolve().name.partition(".")[0]
    parents = [PurePosixPath(path).parent.name or root for path in paths]
    is_wnid = [re.fullmatch(r"n\d{8}", parent) is not None for parent in parents]
    if not any(is_wnid):
        return None
    if not all(is_wnid):
        labelled, unlabelled = paths[is_wnid.index(True)], paths[is_wnid.index(False)]
        raise ImageSetError(
            f"{source}: '{labelled}' lies in a WordNet-id folder and '{unlabelled}' does not; "
            "pack labelled and unlabelled images apart, or list every class with --labels"
        )
    classes = imagenet_classes()
    for path, parent in zip(paths, parents, strict=True):
        if parent not in classes:
            hint = f"the folder of '{path}' is none of ImageNet's 1000; give other class lists with --labels"
            raise UnknownName("WordNet id", parent, classes, hint)
    return np.array([classes[parent] for parent in parents], np.int32)


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


def _csv_rows(file: Path) -> list[tuple[int, str, str]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader: csv.DictReader[str] = csv.DictReader(lines, strict=True)
            if not {"path", "class"} <= set(reader.fieldnames or ()):
                raise ImageSetError(f"{file}: needs the columns path and class, found {reader.fieldnames or 'none'}")
            return [(number, _field(row, "path"), _field(row, "class")) for number, row in enumerate(reader, start=2)]
    except OSError as error:
        raise UsageError(f"{file}: cannot read the labels ({error.strerror}); give --labels a CSV file") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise ImageSetError(f"{file}: not a CSV file in UTF-8 ({error}); columns are path and class") from error


def _field(row: Mapping[str, str | None], name: str) -> str:
    # A short row lacks its last fields.
    return (row[name] or "").strip()
