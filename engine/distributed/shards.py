"""Shards: the rows of a task as a Parquet file in a results folder, which survives whatever happens to the database.

KEY.parquet has one row an image and cell: `cell` (its key), `image_index`, and the columns of `Predictions`. The same
task gives the same bytes. KEY.json, written before it, describes the file: its sha256 and length, the cells, and
facts that are no part of the rows: the device that each cell ran on, and for how long. Nothing of a file is parsed
before its sha256 is known to be right. The folder is a path, or the URI of one of Arrow's file systems, such as
s3://bucket/shards.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import ShardError
from ...core.files import partial_prefix, put_in_place, remove_partial_files
from ...core.records import PREDICTION_COLUMNS, Finished, Predictions, SessionInfo, Variant, digest_of
from ...core.untrusted import as_record, words_of

FORMAT = 2
ANOTHER = "name another folder with --shards"
ATOMIC = ("s3", "gcs", "abfs")
"""File systems on which a file appears when its upload is through, and not before."""


@dataclass(frozen=True)
class Shard:
    """The description in KEY.json: rows of `cells` over images [first, last)."""

    key: str
    cells: tuple[str, ...]
    """The keys of the cells, in the order of the rows."""
    first: int
    last: int
    seconds: tuple[float, ...]
    """The time that the model of each cell ran."""
    sessions: tuple[SessionInfo, ...]
    ran: tuple[int, ...]
    """The index of the session that each cell ran on."""
    sha256: str
    bytes: int

    @cached_property
    def places(self) -> dict[str, int]:
        """The place of each cell among the cells."""
        return {cell: place for place, cell in enumerate(self.cells)}

    def session(self, cell: str) -> SessionInfo:
        return self.sessions[self.ran[self.places[cell]]]


@dataclass(frozen=True)
class Folder:
    """A results folder; `open_folder` makes it."""

    files: Any
    """One of Arrow's file systems."""
    path: str
    name: str
    """The path or URI by which the user named it."""

    def path_of(self, file: str) -> str:
        return f"{self.path}/{file}"

    @property
    def local(self) -> bool:
        return str(self.files.type_name) == "local"


def open_folder(place: str | PathLike[str], make: bool = True) -> Folder:
    """The results folder at a path or URI, made if there is none; ShardError where that is not possible.

    With `make` it will be written into, and partial files that killed processes of this machine left are removed.
    """
    import pyarrow as pa
    from pyarrow import fs

    name = fspath(place)
    try:
        files, path = fs.FileSystem.from_uri(name if "://" in name else str(Path(name).absolute()))
        folder = Folder(files, path.rstrip("/"), name)
        if make:
            files.create_dir(folder.path, recursive=True)
        is_folder = files.get_file_info(folder.path).type == fs.FileType.Directory
    except (OSError, pa.ArrowException) as error:
        raise ShardError(f"no results folder {name}: {words_of(error)}; {ANOTHER}") from error
    if not is_folder:
        raise ShardError(f"no results folder {name}; {ANOTHER}")
    if make and folder.local:
        remove_partial_files(Path(folder.path))  # here, and not for each shard: a folder of many takes long to list
    return folder


def shard_keys(folder: Folder) -> list[str]:
    """The keys of the shards that are there, in alphabetical order."""
    from pyarrow import fs

    with _reported(folder.path, ANOTHER):
        infos = folder.files.get_file_info(fs.FileSelector(folder.path))
    return sorted(
        info.base_name.removesuffix(".parquet")
        for info in infos
        if info.is_file and info.base_name.endswith(".parquet") and not info.base_name.startswith(".")
    )


# Writing


def write_shard(folder: Folder, key: str, parts: Sequence[Finished], sessions: Mapping[Variant, SessionInfo]) -> Shard:
    """Write the parts, all of the same images, as one shard; it is there as a whole or not at all."""
    content = _encoded(parts)
    infos = [sessions[part.cell.variant] for part in parts]
    distinct = list(dict.fromkeys(infos))
    shard = Shard(
        key=key,
        cells=tuple(part.cell.key for part in parts),
        first=parts[0].first,
        last=parts[0].first + len(parts[0].predictions.predicted),
        seconds=tuple(round(part.seconds, 6) for part in parts),
        sessions=tuple(distinct),
        ran=tuple(distinct.index(info) for info in infos),
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
    )
    about = {"format": FORMAT, **asdict(shard)}
    text = json.dumps(about | {"digest": _digest(about)}, separators=(",", ":"))
    # A shard is there once its Parquet file is (`shard_keys`): by then it must have its description.
    _put(folder, f"{key}.json", text.encode())
    _put(folder, f"{key}.parquet", content)
    return shard


def _encoded(parts: Sequence[Finished]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    count = len(parts[0].predictions.predicted)
    keys = pa.array([part.cell.key for part in parts])
    index = np.arange(parts[0].first, parts[0].first + count, dtype=np.uint32)
    rows: dict[str, Any] = {
        "cell": pa.DictionaryArray.from_arrays(np.repeat(np.arange(len(parts), dtype=np.int32), count), keys),
        "image_index": np.tile(index, len(parts)),
    }
    for name in PREDICTION_COLUMNS:
        columns = [getattr(part.predictions, name) for part in parts]
        absent = any(column is None for column in columns)
        rows[name] = pa.nulls(count * len(parts), pa.uint16()) if absent else np.concatenate(columns)
    table = pa.table(rows)
    out = pa.BufferOutputStream()
    parquet.write_table(table, out, compression="zstd", use_dictionary=["cell"], store_schema=False)
    return bytes(out.getvalue())


def _put(folder: Folder, name: str, content: bytes) -> None:
    """Write a file under a temporary name and rename it, where a file system needs that."""
    temporary = folder.path_of(f"{partial_prefix(Path(name))}{secrets.token_hex(4)}")
    with _reported(folder.path_of(name), f"make room, or {ANOTHER}"):
        if folder.files.type_name in ATOMIC:
            with folder.files.open_output_stream(folder.path_of(name)) as file:
                file.write(content)
        elif folder.local:
            _write_synced(Path(temporary), Path(folder.path_of(name)), content)
        else:
            with folder.files.open_output_stream(temporary) as file:
                file.write(content)
            folder.files.move(temporary, folder.path_of(name))


def _write_synced(temporary: Path, path: Path, content: bytes) -> None:
    try:
        temporary.write_bytes(content)
        put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# Reading


def read_about(folder: Folder, key: str) -> Shard:
    """The description of a shard; ShardError where it is missing or damaged."""
    text = _get(folder, f"{key}.json")
    try:
        about = json.loads(text)
        if about.pop("digest") != _digest(about) or about.pop("format") != FORMAT:
            raise ValueError("its digest or its format is another")
        sessions = tuple(as_record(SessionInfo, session) for session in about.pop("sessions"))
        lists = {name: tuple(value) for name, value in about.items() if isinstance(value, list)}
        shard = Shard(sessions=sessions, **(about | lists))
        _check_description(shard)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ShardError(f"{folder.path_of(key)}.json is damaged ({words_of(error)})") from error
    if shard.key != key:
        raise ShardError(f"{folder.path_of(key)}.json is that of another shard, {shard.key}")
    return shard


def _check_description(shard: Shard) -> None:
    """ValueError or TypeError where a description is impossible, though its digest is right."""
    if not all(type(number) is int for number in (shard.first, shard.last, shard.bytes, *shard.ran)):
        raise TypeError("a count is not a whole number")
    if not all(isinstance(name, str) for name in (shard.sha256, *shard.cells)):
        raise TypeError("a name is not a string")
    if not 0 <= shard.first < shard.last or not len(shard.cells) == len(shard.seconds) == len(shard.ran) > 0:
        raise ValueError("its cells and images do not fit each other")
    if not all(0 <= session < len(shard.sessions) for session in shard.ran):
        raise ValueError("a session is missing")


def check_shard(folder: Folder, shard: Shard) -> bytes:
    """The Parquet file, if it is the one that was written; ShardError otherwise."""
    content = _get(folder, f"{shard.key}.parquet")
    if len(content) != shard.bytes:
        raise ShardError(
            f"{folder.path_of(shard.key)}.parquet is damaged: {len(content)} bytes instead of {shard.bytes}"
        )
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise ShardError(f"{folder.path_of(shard.key)}.parquet is damaged: its sha256 is another")
    return content


def read_shard(folder: Folder, shard: Shard) -> dict[str, Predictions]:
    """Cell key -> its predictions for images [first, last); ShardError where they are not what was written."""
    import pyarrow as pa
    from pyarrow import parquet

    content = check_shard(folder, shard)
    count = shard.last - shard.first
    try:
        with parquet.ParquetFile(pa.BufferReader(content), read_dictionary=["cell"]) as file:
            if file.metadata.num_rows != len(shard.cells) * count:
                raise ValueError(f"{file.metadata.num_rows} rows")
            table = file.read()
        # Each row group has a dictionary of its own.
        cells = table["cell"].unify_dictionaries().combine_chunks()
        columns = {name: table[name] for name in PREDICTION_COLUMNS}
        place = cells.indices.to_numpy().reshape(len(shard.cells), count)
        index = table["image_index"].to_numpy().reshape(len(shard.cells), count)
        if [column.type for column in columns.values()] != [pa.uint16(), pa.uint16(), pa.float32(), pa.uint16()]:
            raise ValueError("columns of other types")
        if any(columns[name].null_count not in (0, len(table)) for name in ("label_rank", "best_rank")):
            raise ValueError("some ranks are missing")
        if columns["predicted"].null_count or columns["confidence"].null_count:
            raise ValueError("some predictions are missing")
    except (pa.ArrowException, OSError, KeyError, ValueError, AttributeError) as error:
        raise ShardError(
            f"{folder.path_of(shard.key)}.parquet: other rows than its task's ({words_of(error)})"
        ) from error
    named = tuple(cells.dictionary.to_pylist()) == shard.cells and (np.arange(len(shard.cells)) == place.T).all()
    if not (named and (index == np.arange(shard.first, shard.last)).all()):
        raise ShardError(f"{folder.path_of(shard.key)}.parquet: other rows than its task's")
    arrays: list[Any] = [None if column.null_count else column.to_numpy() for column in columns.values()]
    held = Predictions(*arrays)
    return {cell: held.select(slice(k * count, (k + 1) * count)) for k, cell in enumerate(shard.cells)}


def _get(folder: Folder, name: str) -> bytes:
    with (
        _reported(folder.path_of(name), "its task has to be computed again"),
        folder.files.open_input_stream(folder.path_of(name)) as file,
    ):
        return bytes(file.read())


def _digest(about: Mapping[str, Any]) -> str:
    return digest_of({name: value for name, value in about.items() if name != "digest"})


@contextmanager
def _reported(path: str, todo: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ShardError(f"{path}: {words_of(error)}; {todo}") from error
