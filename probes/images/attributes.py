"""Attributes of images, such as site, scanner or weather: a name and a value for some of the images of a set.

They lie in attributes.parquet beside the pixels, a row an image and name. Neither the digest of a set nor the key of a
cell depends on them, so they can be added to a set that studies have run on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...core.errors import ImageSetError
from ...core.files import replacing
from ...core.untrusted import check_rows, regular
from .labels import csv_rows
from .set_files import ATTRIBUTES, damaged, writing

COLUMNS = ("path", "name", "value")
Slices = Mapping[tuple[str, str], NDArray[np.int64]]
"""Name and value of an attribute -> the images that have it, (k,) ascending; ordered by both."""
Values = Mapping[tuple[str, str], str]
"""Path of an image and name of an attribute -> value."""


def attributes_of_csv(file: Path, paths: Collection[str]) -> Values:
    """The attributes of a CSV file with the columns path, name and value; an image need not have any.

    Raises ImageSetError naming the row, counted from 1 with the header, where a path is not among `paths`, has a name
    twice, or lacks a name or value; and UsageError where there is no such file.
    """
    path_set, values = set(paths), dict[tuple[str, str], str]()
    for row, (path, name, value) in csv_rows(file, COLUMNS, "attributes", "give a CSV file of path, name, value"):
        where = f"{file}, row {row}"
        if path not in path_set:
            raise ImageSetError(f"{where}: no image '{path}'; paths are relative to the packed folder, with '/'")
        if (
            not (name and value and name.isprintable() and value.isprintable()) or "=" in name
        ):  # numbers are of NAME=VALUE
            raise ImageSetError(
                f"{where}: '{path}' needs a name without '=' and a value, each a line of text; write both"
            )
        if (path, name) in values:
            raise ImageSetError(f"{where}: '{path}' has the attribute {name} twice; keep one of the rows")
        values[path, name] = value
    return values


def make_slices(values: Values, paths: Sequence[str]) -> Slices:
    """The images by attribute, numbered as `paths`; values of other paths are left out."""
    place = {path: index for index, path in enumerate(paths)}
    return _slices((name, value, place[path]) for (path, name), value in values.items() if path in place)


def _slices(rows: Iterable[tuple[str, str, int]]) -> Slices:
    images: dict[tuple[str, str], list[int]] = {}
    for name, value, image in rows:
        images.setdefault((name, value), []).append(image)
    return {key: np.array(sorted(images[key]), np.int64) for key in sorted(images)}


def select_images(slices: Slices, rows: NDArray[np.int64], count: int) -> Slices:
    """The slices of some of `count` images: those at `rows`, numbered in their order."""
    place = np.full(count, -1, np.int64)
    place[rows] = np.arange(len(rows))
    positions = {key: np.sort(place[images]) for key, images in slices.items()}
    return {key: images[images >= 0] for key, images in positions.items() if (images >= 0).any()}


def write_attributes(folder: Path, slices: Slices) -> None:
    """Write attributes.parquet of a set, if it has any; an old one is replaced once the new one is whole."""
    if not slices:
        return
    import pyarrow as pa
    from pyarrow import parquet

    counts = [len(images) for images in slices.values()]
    columns = {
        "image_index": np.concatenate([*slices.values()]).astype(np.int32),
        "name": np.repeat([name for name, _ in slices], counts).tolist(),
        "value": np.repeat([value for _, value in slices], counts).tolist(),
    }
    file = folder / ATTRIBUTES
    with writing(file), replacing(file) as partial:
        parquet.write_table(pa.table(columns), partial, compression="zstd")


def read_attributes(folder: Path, count: int) -> Slices:
    """The slices of a set of `count` images, none where it has no attributes; ImageSetError where they are damaged."""
    import pyarrow as pa
    from pyarrow import parquet

    file = folder / ATTRIBUTES
    if not file.exists():
        return {}
    try:
        with parquet.ParquetFile(regular(file)) as rows:
            check_rows(rows.metadata.num_rows, file)
            table = rows.read()
        images = np.asarray(table["image_index"].to_numpy(), np.int64)
        names, values = table["name"].to_pylist(), table["value"].to_pylist()
        if not pa.types.is_integer(table["image_index"].type):
            raise ValueError("an image is no number")
        if len(images) and not 0 <= images.min() <= images.max() < count:
            raise ValueError(f"an image is none of the {count}")
        if not all(isinstance(text, str) for text in (*names, *values)):
            raise ValueError("a name or value is no text")
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise damaged(file, error) from error
    return _slices(zip(names, values, images.tolist(), strict=True))


def add_attributes(folder: Path, slices: Slices, paths: Sequence[str], file: Path) -> Slices:
    """Add the attributes of a CSV file to a set that has `slices`; an attribute of the same name is replaced."""
    new_slices = make_slices(attributes_of_csv(file, paths), paths)
    new_names = {name for name, _ in new_slices}
    old_slices = {key: images for key, images in slices.items() if key[0] not in new_names}
    all_slices = dict(sorted({**old_slices, **new_slices}.items()))
    write_attributes(folder, all_slices)
    return all_slices
