"""Read labels of images from folder names or from a CSV file, and attributes of images from a CSV file."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ...core.errors import ImageSetError, UnknownName, UsageError, plural
from ...core.files import replacing
from ...core.protocol import CLASSES, SPACE_CLASSES
from ...core.records import MOST_LABELS, MULTILABEL, label_set_in_words
from ...core.untrusted import check_rows, read_text, regular, words_of
from .decision_spaces import DecisionSpace, decision_space, names_of, wnids_of
from .storage import ATTRIBUTES, damaged, writing

ALL_SPACE = decision_space("all")
LABELS_ADVICE = "give --labels a CSV file, or `folders` for the names of the images' folders"
LARGEST_CLASS = 65535
"""Largest class index in labels. Predictions are stored as uint16, so a larger class could not be predicted."""


def labels_of_folders(source: Path, paths: Sequence[str], space: DecisionSpace = ALL_SPACE) -> NDArray[np.int32] | None:
    """Return the classes of images from the names of their parent folders, or None if no folder is named by a class.

    Folders are named by WordNet IDs, or by class names in the decision space `sixteen`.

    Args:
        source: Folder or archive of the images. Its name is used for images that are not in a subfolder.
        paths: Paths of the images, relative to `source`.
        space: Decision space of the classes.

    Raises:
        ImageSetError: Only some of the images have such a parent folder.
        UnknownName: A WordNet ID is not in the decision space.
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


def labels_of_names(
    source: Path, paths: Sequence[str], set_classes: Sequence[str] = ()
) -> tuple[NDArray[np.int32], list[str]]:
    """Return the classes of images from their top-level folders, and the class names.

    The names are sorted as text, in the same order as in torchvision's ImageFolder.

    Args:
        source: Folder or archive of the images.
        paths: Paths of the images, relative to `source`.
        set_classes: Class names of the image set to which the images are added. Then a single folder is allowed.

    Raises:
        ImageSetError: An image is not in a folder, or all are in the same folder and `set_classes` is empty.
    """
    parents = [_top(path) for path in paths]
    if "" in parents:
        raise ImageSetError(
            f"{source}: '{paths[parents.index('')]}' lies in no folder, so --labels folders has no class for it; move "
            "each image into a folder of its class, or give --labels a CSV file"
        )
    names = sorted(set(parents))
    if len(names) < 2 and not set_classes:
        raise ImageSetError(
            f"{source}: all images lie in '{names[0]}', and one class is none; give the folder that holds the classes"
        )
    numbers = _number_names(source, names)
    return np.array([numbers[parent] for parent in parents], np.int32), names


def _top(path: str) -> str:
    """Return the top-level folder of a path, or an empty string if it has none."""
    return path.partition("/")[0] if "/" in path else ""


def _number_names(source: Path, names: Sequence[str]) -> dict[str, int]:
    """Return class name -> class index."""
    if len(names) > LARGEST_CLASS + 1:
        raise ImageSetError(f"{source}: {len(names):,} classes are more than the {LARGEST_CLASS + 1:,} that are kept")
    return {name: number for number, name in enumerate(names)}


def folders_that_could_be_labels(paths: Sequence[str]) -> int:
    """Return the number of classes that `labels_of_names` would find, or 0 if it would raise an error."""
    folders = {_top(path) for path in paths}
    return len(folders) if "" not in folders and len(folders) > 1 else 0


def spread(classes: NDArray[np.int32] | None, paths: Sequence[str], limit: int, seed: int) -> NDArray[np.int64]:
    """Select a random sample of images that is balanced between classes as far as possible.

    The sample depends only on the seed and the paths. The images are returned in their random order, and a smaller
    sample is the beginning of a larger one.

    Args:
        classes: Class indices, (n,), or None for unlabeled images.
        paths: Paths of the n images.
        limit: Number of images to select.
        seed: Seed of the sample.

    Returns:
        Indices of the selected images.
    """
    digests = [hashlib.sha256(f"{seed} {path}".encode("utf-8", "surrogateescape")).digest() for path in paths]
    order = sorted(range(len(paths)), key=digests.__getitem__)
    kinds = [0] * len(paths) if classes is None else classes.tolist()
    places = places_in_classes([kinds[row] for row in order])
    # Take the first image of every class, then the second of every class, and so on.
    return np.array([order[at] for at in np.argsort(places, kind="stable")[:limit]], np.int64)


def places_in_classes(classes: Iterable[int]) -> list[int]:
    """Return the position of each image among the images of its class."""
    counts: Counter[int] = Counter()
    places = []
    for label in classes:
        places.append(counts[label])
        counts[label] += 1
    return places


def refuse_numbers(source: Path, paths: Sequence[str], labels: NDArray[np.int32] | None) -> None:
    """Raise ImageSetError for folders named 0 to 999 whose labels are missing or wrong.

    ImageNet-V2 names its folders by class index. Sorting the names as text (0, 1, 10, 100, …) gives wrong labels.
    """
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
    """Raise ImageSetError for the first image whose class does not belong to a decision space of ImageNet classes.

    Other decision spaces allow any class.
    """
    if labels is None or space.name not in SPACE_CLASSES:
        return
    outside = np.flatnonzero(~np.isin(labels, space.ids))
    if len(outside):
        first = int(outside[0])
        raise ImageSetError(
            f"{source}: '{paths[first]}' is labelled {labels[first]}, which is none of the {len(space.ids)} classes of "
            f"decision space {space.name}; {len(outside)} labels are like it"
        )


def labels_of_csv(
    file: Path,
    paths: Sequence[str],
    multilabel: bool = False,
    select_packed: Callable[[Sequence[str]], Iterable[str]] = iter,
    kept: Collection[str] = (),
) -> tuple[NDArray[np.int32], list[str] | None, list[list[int]] | None]:
    """Read the classes of images from a CSV file with the columns `path` and `class`.

    Every image needs exactly one row, and the file must not contain other paths. Classes are integers from 0 to 65535,
    or names. If at least one class is not a number, all are treated as names and sorted as text. A cell may contain
    several classes separated by ';', each of which counts as correct. The first is the label.

    With `multilabel`, each image has a set of labels: it has one row per label, or one row with an empty class. Label
    indices are 0 to 14. The class of an image is its set of labels, encoded as a bit mask or as a name.

    Args:
        file: CSV file.
        paths: Paths of the images, in the order of the result.
        multilabel: Whether images can have several labels at once.
        select_packed: Function that returns those of the given paths that need a row. It is called with the paths that
            are neither in the file nor in `kept`. By default all need one.
        kept: Paths that need no row.

    Returns:
        Class index of each image (images without a row get an arbitrary class); class names, or None for integers; the
        list of correct classes of each image, or None if every image has one.

    Raises:
        ImageSetError: A row is invalid. The message contains its number, counted from 1 and including the header.
        UsageError: The file cannot be read.
    """
    labels_of_path: dict[str, list[str]] = {path: [] for path in paths}
    rows: dict[tuple[str, str], int] = {}
    for row, (path, cell) in csv_rows(file, ("path", "class"), "labels", LABELS_ADVICE):
        where = f"{file}, row {row}"
        if path not in labels_of_path:
            raise ImageSetError(f"{where}: no image '{path}'; paths are relative to the packed folder, with '/'")
        if (labels_of_path[path] and not multilabel) or cell in labels_of_path[path]:
            advice = (
                "" if multilabel else f", or pack with --decision-space {MULTILABEL} if images may have several labels"
            )
            raise ImageSetError(f"{where}: '{path}' is listed twice; keep one of the rows{advice}")
        labels = [cell] if multilabel else [label.strip() for label in cell.split(";")]
        if "" in labels and not multilabel:
            raise ImageSetError(f"{where}: the class is missing; write its name, or a number from 0")
        labels_of_path[path] += labels
        rows |= {(path, label): row for label in labels}
    has_names, last_class = (
        not all(_is_number(label) for _, label in rows if label),
        MOST_LABELS - 1 if multilabel else LARGEST_CLASS,
    )
    for (_, label), row in rows.items():
        if label and not has_names and not (label.isdigit() and len(label) <= 9 and int(label) <= last_class):
            raise ImageSetError(
                f"{file}, row {row}: class '{label}' must be an integer from 0 to {last_class}, or all must be names"
            )
    unlisted = [path for path, labels in labels_of_path.items() if not labels]
    missing = [path for path in unlisted if path not in kept]
    image = next(iter(select_packed(missing)), None)
    if image is not None:
        raise ImageSetError(f"{file}: it lacks {plural(len(missing), 'image')}, such as '{image}'; add a row for each")
    labels_of_path |= dict.fromkeys(unlisted, next(filter(None, labels_of_path.values()), ["0"]))
    label_sets = [list(filter(None, labels)) for labels in labels_of_path.values()]
    names: list[str] | None = None
    if has_names:
        label_sets = [[label_set_in_words(labels)] if multilabel else labels for labels in label_sets]
        names = sorted({label for labels in label_sets for label in labels})
        number_of = _number_names(file, names)
        lists = [list(dict.fromkeys(number_of[label] for label in labels)) for labels in label_sets]
    else:
        lists = [list(dict.fromkeys(map(int, labels))) for labels in label_sets]  # 1 and 01 are the same label
        lists = [[sum(1 << number for number in numbers)] for numbers in lists] if multilabel else lists
    classes = np.array([numbers[0] for numbers in lists], np.int32)
    return classes, names, lists if any(len(numbers) > 1 for numbers in lists) else None


def _is_number(label: str) -> bool:
    """Return whether the text is a number, possibly negative or with a decimal point."""
    return label.isascii() and label.removeprefix("-").replace(".", "", 1).isdigit()


CLUSTERINGS = ("none", "folder")
"""Ways to assign images to clusters."""


def check_clustering(name: str) -> None:
    """Raise UnknownName if the name is not in `CLUSTERINGS`."""
    if name not in CLUSTERINGS:
        raise UnknownName("clusters", name, CLUSTERINGS)


def clusters_of(clustering: str, paths: Sequence[str]) -> NDArray[np.int32]:
    """Return cluster indices: one cluster per image, or one per parent folder, in order of first appearance."""
    if clustering != "folder":
        return np.arange(len(paths), dtype=np.int32)
    numbers: dict[PurePosixPath, int] = {}
    return np.array([numbers.setdefault(PurePosixPath(path).parent, len(numbers)) for path in paths], np.int32)


def csv_rows(file: Path, columns: Sequence[str], contents: str, advice: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number (counted from 1 and including the header) and the requested fields of each row of a CSV file.

    Args:
        file: CSV file.
        columns: Columns that the file must have. Other columns are ignored.
        contents: What the file contains, for error messages.
        advice: Advice for the error message if the file cannot be read.

    Raises:
        UsageError: The file cannot be read.
        ImageSetError: The file is not a valid CSV file with these columns.
    """
    expected = f"{', '.join(columns[:-1])} and {columns[-1]}"
    try:
        lines = io.StringIO(read_text(file, pipe=True), newline="")
        reader: csv.DictReader[str] = csv.DictReader(lines, strict=True)
        if not {*columns} <= set(reader.fieldnames or ()):
            names = ", ".join(reader.fieldnames or ["none"])
            raise ImageSetError(f"{file}: needs the columns {expected}, found {names[:60]}")
        for number, row in enumerate(reader, start=2):
            if any(field.strip() for field in row.get(None, ())):  # csv stores surplus fields under None
                raise ImageSetError(
                    f"{file}, row {number}: it has more fields than the header; put text with commas into double quotes"
                )
            yield number, [(row[name] or "").strip() for name in columns]  # fields missing at the end of a row are None
    except OSError as error:
        raise UsageError(f"{file}: cannot read the {contents} ({words_of(error)}); {advice}") from error
    except (csv.Error, ValueError) as error:
        raise ImageSetError(f"{file}: not a CSV file in UTF-8 ({error}); columns are {expected}") from error


# Attributes of images, such as site, scanner or weather. An attribute has a name, and a value for some of the images.
# Attributes are stored in attributes.parquet in the folder of the image set, one row per image and name. They are not
# part of the digest of an image set or of the key of a cell, so they can be added after a study has run.

ATTRIBUTE_COLUMNS = ("path", "name", "value")
"""Columns of a CSV file with attributes."""
Slices = Mapping[tuple[str, str], NDArray[np.int64]]
"""(name, value) of an attribute -> indices of the images that have it, (k,) in ascending order. The keys are sorted."""
Values = Mapping[tuple[str, str], str]
"""(path of an image, name of an attribute) -> value."""


def attributes_of_csv(file: Path, paths: Collection[str]) -> Values:
    """Read the attributes of images from a CSV file with the columns path, name and value. Not every image needs a row.

    Raises:
        ImageSetError: A path is not in `paths`, a name or value is missing, or an image has two values of one
            attribute. The message contains the number of the row, counted from 1 and including the header.
        UsageError: The file cannot be read.
    """
    path_set, values = set(paths), dict[tuple[str, str], str]()
    for row, (path, name, value) in csv_rows(
        file, ATTRIBUTE_COLUMNS, "attributes", "give a CSV file of path, name, value"
    ):
        where = f"{file}, row {row}"
        if path not in path_set:
            raise ImageSetError(f"{where}: no image '{path}'; paths are relative to the packed folder, with '/'")
        if (
            not (name and value and name.isprintable() and value.isprintable()) or "=" in name
        ):  # metrics refer to a slice as NAME=VALUE
            raise ImageSetError(
                f"{where}: '{path}' needs a name without '=' and a value, each a line of text; write both"
            )
        if (path, name) in values:
            raise ImageSetError(f"{where}: '{path}' has the attribute {name} twice; keep one of the rows")
        values[path, name] = value
    return values


def make_slices(values: Values, paths: Sequence[str]) -> Slices:
    """Return the images with each attribute value, as indices into `paths`. Values of other paths are ignored."""
    place = {path: index for index, path in enumerate(paths)}
    return _slices((name, value, place[path]) for (path, name), value in values.items() if path in place)


def _slices(rows: Iterable[tuple[str, str, int]]) -> Slices:
    """Group (name, value, image index) rows by attribute value."""
    images: dict[tuple[str, str], list[int]] = {}
    for name, value, image in rows:
        images.setdefault((name, value), []).append(image)
    return {key: np.array(sorted(images[key]), np.int64) for key in sorted(images)}


def select_images(slices: Slices, rows: NDArray[np.int64], count: int) -> Slices:
    """Restrict slices to some of `count` images. Image indices in the result are positions in `rows`."""
    place = np.full(count, -1, np.int64)
    place[rows] = np.arange(len(rows))
    positions = {key: np.sort(place[images]) for key, images in slices.items()}
    return {key: images[images >= 0] for key, images in positions.items() if (images >= 0).any()}


def write_attributes(folder: Path, slices: Slices) -> None:
    """Write attributes.parquet, unless there are no attributes. An existing file is replaced atomically."""
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
    """Read attributes.parquet of a set with `count` images. Returns no slices if the file does not exist.

    Raises:
        ImageSetError: The file is damaged.
    """
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
    """Add the attributes of a CSV file to an image set with the given slices.

    Existing attributes of the same name are replaced.
    """
    new_slices = make_slices(attributes_of_csv(file, paths), paths)
    new_names = {name for name, _ in new_slices}
    old_slices = {key: images for key, images in slices.items() if key[0] not in new_names}
    all_slices = dict(sorted({**old_slices, **new_slices}.items()))
    write_attributes(folder, all_slices)
    return all_slices
