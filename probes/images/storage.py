"""Create the folder of an image set, and read and write its index.parquet and set.json.

The other files of an image set have their own modules: pixels.npy in `pixels`, attributes.parquet in `labels`.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.errors import ImageSetError, UsageError, amount, did_you_mean, plural, some_of
from ...core.files import (
    exchange_folders,
    lost_its_maker,
    move_place,
    open_draft,
    partial_files,
    partial_prefix,
    put_in_place,
)
from ...core.untrusted import check_rows, parse_json, read_text, regular, words_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIXELS, INDEX, ATTRIBUTES, ABOUT = "pixels.npy", "index.parquet", "attributes.parquet", "set.json"
"""File names in the folder of an image set: pixels, index, attributes, description."""
FORMAT = 2
"""Format version of set.json."""
COLUMNS = ("image_index", "path", "label", "cluster", "sha256", "width", "height")
"""Columns of index.parquet that are not label schemes."""

log = logging.getLogger("bandlens")
Lists = Sequence[Sequence[int]]
"""A list of class indices for each image."""


def image_keys(sha256s: Sequence[str]) -> NDArray[np.uint64]:
    """Return the keys that seed the noise of each image, (n,) uint64: the first 64 bits of each SHA-256.

    Because the key depends only on the pixels, noise does not depend on the order of images or on the image set, and
    identical images get identical noise. Among a million images, the probability that two different ones share a key
    (and so their noise) is 3e-8.

    Raises:
        ValueError: A SHA-256 has fewer than 16 hex digits.
    """
    keys = np.frombuffer(bytes.fromhex("".join(digest[:16] for digest in sha256s)), ">u8").astype(np.uint64)
    if len(keys) != len(sha256s):
        raise ValueError("a sha256 has fewer than 16 hex digits")
    return keys


@dataclass(frozen=True, eq=False)
class Index:
    """Columns of index.parquet for n images."""

    paths: list[str]
    """Paths of the images, relative to the source."""
    labels: NDArray[np.int32] | None
    """Class indices, (n,), or None for unlabeled images."""
    clusters: NDArray[np.int32]
    """Cluster indices, (n,)."""
    sha256s: list[str]
    """SHA-256 of the pixels of each image as stored in pixels.npy, 64 hex digits."""
    schemes: Mapping[str, Lists] = field(default_factory=dict)
    """Additional label schemes. Name -> the classes that count as correct for each of the n images."""
    sides: NDArray[np.int32] | None = None
    """Width and height of the original images in pixels, (n, 2), or None if unknown."""


def write_index(folder: Path, index: Index) -> None:
    """Write index.parquet."""
    import pyarrow as pa
    from pyarrow import parquet

    count = len(index.paths)
    table = pa.table(
        {
            "image_index": pa.array(np.arange(count, dtype=np.int32)),
            "path": pa.array(index.paths, pa.string()),
            "label": pa.nulls(count, pa.int32()) if index.labels is None else pa.array(index.labels),
            "cluster": pa.array(index.clusters),
            "sha256": pa.array(index.sha256s, pa.string()),
            **({} if index.sides is None else dict(zip(("width", "height"), index.sides.T, strict=True))),
            **{name: pa.array(lists, pa.list_(pa.int32())) for name, lists in index.schemes.items()},
        }
    )
    parquet.write_table(table, folder / INDEX, compression="zstd")


def read_index(folder: Path, count: int | None, name: str = INDEX) -> Index:
    """Read and validate index.parquet.

    Args:
        folder: Folder of the image set.
        count: Expected number of images. None accepts any number.
        name: File name. Differs from the default for the index of a previous version of the set.

    Raises:
        ImageSetError: The file cannot be read, or its rows are not the images 0 to `count` - 1.
    """
    import pyarrow as pa
    from pyarrow import parquet

    file = folder / name
    try:
        if file.is_symlink():
            raise ValueError("it is a link")
        with parquet.ParquetFile(regular(file)) as rows:
            if count not in (None, rows.metadata.num_rows):
                raise ValueError(f"{rows.metadata.num_rows} rows, and not {count}")
            check_rows(rows.metadata.num_rows, file)
            table = rows.read()
        sides = ("width", "height") if "width" in table.column_names else ()
        columns = {name: table[name] for name in ("image_index", "label", "cluster", *sides)}
        paths, sha256s = table["path"].to_pylist(), table["sha256"].to_pylist()
        schemes = {name: table[name] for name in table.column_names if name not in COLUMNS}
        if any(table[name].type != pa.string() or table[name].null_count for name in ("path", "sha256")):
            raise ValueError("a path or sha256 is no text")
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise damaged(file, error) from error
    if columns["label"].null_count == len(paths):
        del columns["label"]
    if any(column.null_count or column.type != pa.int32() for column in columns.values()):
        raise ImageSetError(f"{file}: some labels or clusters are missing; pack the images again")
    # Do not use Column.to_numpy: it imports pandas if that is installed, which takes longer than reading the file.
    arrays = {name: np.asarray(np.from_dlpack(column.combine_chunks()), np.int32) for name, column in columns.items()}
    label = arrays.get("label")
    if not np.array_equal(arrays["image_index"], np.arange(len(paths))):
        raise ImageSetError(f"{file}: its rows are not the images in their order; pack them again")
    if label is not None and label.min() < 0:
        raise ImageSetError(f"{file}: some labels are negative; pack the images again")
    for name, lists in schemes.items():
        classes = lists.combine_chunks().flatten() if lists.type == pa.list_(pa.int32()) else None
        if classes is None or lists.null_count or classes.null_count:
            raise ImageSetError(f"{file}: the column {name} is no label scheme; pack the images again")
        if np.from_dlpack(classes).min(initial=0) < 0:
            raise ImageSetError(f"{file}: some classes of the column {name} are negative; pack the images again")
    return Index(
        paths,
        label,
        arrays["cluster"],
        sha256s,
        {name: lists.to_pylist() for name, lists in schemes.items()},
        np.stack([arrays[name] for name in sides], axis=1) if sides else None,
    )


def earlier_indexes(folder: Path) -> list[str]:
    """Return the file names of the indexes of previous versions of the set, oldest first.

    A new version is created whenever images are added or removed.
    """
    return list(itertools.takewhile(lambda name: (folder / name).is_file(), map(earlier_index, itertools.count(1))))


def earlier_index(number: int) -> str:
    """Return the file name of the index of a previous version."""
    return f"index-{number}.parquet"


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Write set.json."""
    text = json.dumps({"format": FORMAT, **description}, indent=1)
    (folder / ABOUT).write_text(text + "\n", encoding="utf-8")


def read_description(folder: Path) -> dict[str, Any]:
    """Read set.json.

    Raises:
        UsageError: The folder is not an image set.
        ImageSetError: The file is damaged or has another format version.
    """
    file = folder / ABOUT
    try:
        description = parse_json(read_text(file))
    except (FileNotFoundError, NotADirectoryError):
        near = did_you_mean(folder.name, [file.parent.name for file in folder.parent.glob(f"*/{ABOUT}")])
        raise UsageError(f"{folder}: not an image set{near}; make one with 'bandlens images pack'") from None
    except (OSError, ValueError) as error:
        raise damaged(file, error) from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ImageSetError(f"{file}: not format {FORMAT}; pack the images again")
    return description


def damaged(file: Path, error: Exception) -> ImageSetError:
    """Return the error for a file of an image set that cannot be read."""
    return ImageSetError(f"{file}: damaged or missing ({words_of(error)}); pack the images again")


# An image set becomes visible only when it is complete: its folder is filled under a temporary name, synced to disk and
# then renamed.


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Create a temporary folder that is renamed to `out` when the block succeeds and removed when it fails.

    If the process is killed, the temporary folder remains on disk (see `core.files`). The next call with the same `out`
    removes it.
    """
    with ExitStack() as stack:
        with writing(out):
            refuse_taken(out)
            if not out.parent.is_dir():
                raise UsageError(f"{out.parent}: no such folder; make it first")
            draft = stack.enter_context(open_draft(out))
            draft.mkdir()
            # Lock this folder before checking the folders of other processes. If two processes start at the same time,
            # at least one of them then finds the other's lock.
            stack.callback(os.close, _lock(draft))
            _refuse_neighbours(draft, [folder / out.name for folder in partial_files(out)])
        yield draft
        with writing(out):
            put_in_place(draft, out)


@contextmanager
def changed_folder(path: Path) -> Iterator[Path]:
    """Create a temporary folder that replaces the image set at `path` when the block succeeds.

    Both the old folder and the new one are locked, because each of them has the name of the set at some time. So no
    other process can change the set meanwhile. After the exchange, files in the old folder that are not part of the set
    are moved into the new one. If the process is killed before that, the next change of the set moves them.
    """
    read_description(path)
    out = path.resolve()
    replaced = out.with_name(f"{out.name}.replaced")
    with ExitStack() as stack:
        with writing(path):
            stack.callback(os.close, _lock(out))
            for folder in partial_files(replaced):
                if lost_its_maker(folder, replaced.name) and folder.is_dir() and not folder.is_symlink():
                    with suppress(PermissionError):  # the folder belongs to another user
                        _move_others(folder, out)
            draft = Path(mkdtemp(prefix=partial_prefix(replaced), dir=out.parent))
            stack.callback(_move_others, draft, out)
            stack.callback(os.close, _lock(draft))
            # A lock belongs to the folder itself, not to its path. After the exchange, the lock of the new folder
            # therefore protects `out`, and the lock of the old folder protects the files that are still to be moved.
            _refuse_neighbours(draft, partial_files(replaced))
        yield draft
        with writing(path):
            exchange_folders(draft, out)


def _lock(folder: Path) -> int:
    """Lock a folder for this process and return the file descriptor. Closing it releases the lock.

    Raises:
        BlockingIOError: Another process has locked the folder.
    """
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def _refuse_neighbours(draft: Path, drafts: Sequence[Path]) -> None:
    """Raise BlockingIOError if another process is filling one of these temporary folders of the same image set."""
    for folder in drafts:
        if folder != draft:
            try:
                os.close(_lock(folder))
            except BlockingIOError:
                raise
            except OSError:  # it was removed just now, or is not such a folder
                continue


def _move_others(folder: Path, out: Path) -> None:
    """Move files that are not part of the set from the old folder to `out`, and remove the old folder.

    Files that cannot be moved, for example because the name is taken, stay where they are, and a warning lists them.
    """
    # Delete the newest index first. `earlier_indexes` counts from 1, so without index-1 it would not find the rest, and
    # after a kill these would be treated as foreign files.
    own = [*reversed(earlier_indexes(folder)), PIXELS, INDEX, ATTRIBUTES, ABOUT]
    for place in [place for place in folder.iterdir() if place.name not in own]:
        with suppress(OSError):
            move_place(place, out / place.name)
    with suppress(OSError):
        for name in own:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
    if folder.exists():
        names = some_of(sorted(place.name for place in folder.iterdir()))
        log.warning(
            f"bandlens: warning: {names} stays in {folder}, not in {out}; move it there, if need be by another name"
        )


def refuse_taken(out: Path) -> None:
    """Raise UsageError if the path `out` exists."""
    if out.exists() or out.is_symlink():
        is_set = (out / ABOUT).is_file()
        advice = "remove it or choose another folder" if is_set else "pictures come first, then a new folder"
        raise UsageError(f"{out}: already exists; {advice}")


@contextmanager
def writing(out: Path | str) -> Iterator[None]:
    """Convert disk errors and locks of other processes to ImageSetError."""
    try:
        yield
    except BlockingIOError:
        raise ImageSetError(f"{out}: is being packed by another process; wait for it or choose another") from None
    except OSError as error:
        raise ImageSetError(
            f"{out}: cannot be written ({words_of(error)}); make room or choose another folder"
        ) from error


def need_space(out: Path, count: int, size: int) -> str:
    """Return a message with the disk space that `count` images of `size` x `size` pixels need.

    Pass a `size` of 0 for a set without stored pixels.

    Raises:
        ImageSetError: The disk has less free space.
    """
    need = count * (3 * size * size + 200)  # 200 bytes is a generous estimate for a row of the index
    folder = next(folder for folder in out.parents if folder.exists())
    free = shutil.disk_usage(folder).free
    words = f"{plural(count, 'image')} need{'s' if count == 1 else ''} {amount(need)}"
    if need > free:
        raise ImageSetError(f"{out}: {words} and {amount(free)} are free; make room or choose another folder")
    return f"{words} on disk; {amount(free)} are free"
