"""Shards and databases of someone else's: rows or one line, also where digests were made to fit."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import assert_refused, damaged, fuzz, json_values, limited, refusal
from hypothesis import given
from hypothesis import strategies as st
from made_up_results import SESSION, cell, condition, image_set, part, store_study

from bandlens.analysis.database.open import open_store
from bandlens.core.records import digest_of
from bandlens.engine.distributed.shards import open_folder, read_about, read_shard, shard_keys, write_shard

KEY = "k" * 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one shard of two cells and eight images."""
    folder = tmp_path_factory.mktemp("shards")
    images = image_set(8, labels=[0] * 8)
    parts = [part(cell(images, condition("lowpass", cutoff=c)), [1] * 8, [2] * 8) for c in (0.1, 0.2)]
    write_shard(open_folder(str(folder)), KEY, parts, {stored_part.cell.variant: SESSION for stored_part in parts})
    return folder


def read(folder: Path) -> None:
    """Read every shard as `bandlens rebuild` does."""
    shards = open_folder(str(folder))
    for key in shard_keys(shards):
        shard = read_about(shards, key)
        for cell_key, predictions in read_shard(shards, shard).items():
            shard.session(cell_key)
            assert predictions.predicted.dtype == np.uint16
            assert predictions.confidence.dtype == np.float32
            assert predictions.label_rank is None or predictions.label_rank.dtype == np.uint16


def seal(folder: Path, content: bytes | None = None, **changes: Any) -> None:
    """Give the shard other rows, and its description other fields, and make all digests fit."""
    about = json.loads((folder / f"{KEY}.json").read_text()) | changes
    if content is not None:
        (folder / f"{KEY}.parquet").write_bytes(content)
        about |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    about |= {"digest": digest_of({name: value for name, value in about.items() if name != "digest"})}
    (folder / f"{KEY}.json").write_text(json.dumps(about))


@pytest.fixture
def whole(folder: Path) -> dict[str, bytes]:
    return {name: (folder / f"{KEY}.{name}").read_bytes() for name in ("json", "parquet")}


def attempt(folder: Path, whole: dict[str, bytes], content: bytes | None = None, **changes: Any) -> str | None:
    try:
        seal(folder, content, **changes)
        return refusal(lambda: read(folder))
    finally:
        for name, data in whole.items():
            (folder / f"{KEY}.{name}").write_bytes(data)


@fuzz(200)
@given(data=st.data())
def test_any_description_is_read_or_one_line(folder: Path, whole: dict[str, bytes], data: st.DataObject) -> None:
    names = ["key", "cells", "first", "last", "seconds", "sessions", "ran", "sha256", "bytes", "format", "odd"]
    small = st.integers(-3, 20) | st.lists(st.integers(-3, 3) | st.text(max_size=2), max_size=3)
    changes = data.draw(st.dictionaries(st.sampled_from(names), json_values | small, min_size=1, max_size=3))
    attempt(folder, whole, **changes)


@fuzz(100)
@given(data=st.data())
def test_any_rows_are_read_or_one_line(folder: Path, whole: dict[str, bytes], data: st.DataObject) -> None:
    attempt(folder, whole, data.draw(damaged(whole["parquet"])))


COLUMNS = ["cell", "image_index", "predicted", "label_rank", "confidence", "best_rank"]
arrays: st.SearchStrategy[Any] = st.sampled_from(
    [
        pa.array(range(16), pa.uint16()),
        pa.array(range(16), pa.int64()),
        pa.array([-1] * 16, pa.int32()),
        pa.array([70_000] * 16),
        pa.array([0.5] * 16, pa.float32()),
        pa.array([float("nan")] * 16, pa.float64()),
        pa.array([None, *range(15)], pa.uint16()),
        pa.nulls(16, pa.uint16()),
        pa.nulls(16),
        pa.array(["a"] * 16),
        pa.array([[1]] * 16),
        pa.array([{"a": 1}] * 16),
        pa.array(["a", None] * 8).dictionary_encode(),
    ]
)


@fuzz(100)
@given(
    columns=st.dictionaries(st.sampled_from(COLUMNS), arrays, min_size=1, max_size=3), rows=st.sampled_from([16, 8, 0])
)
def test_any_columns_are_read_or_one_line(
    folder: Path, whole: dict[str, bytes], columns: dict[str, Any], rows: int
) -> None:
    table = pq.read_table(io.BytesIO(whole["parquet"]))
    for name, array in columns.items():
        table = table.set_column(table.column_names.index(name), name, array)
    out = io.BytesIO()
    pq.write_table(table.slice(0, rows), out)
    attempt(folder, whole, out.getvalue())


def test_small_shards_do_not_become_large(folder: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    rows = 10**6
    few = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["a" * 64]))
    zeros = {name: pa.array(np.zeros(rows, np.uint16)) for name in COLUMNS[1:]}
    out = io.BytesIO()
    table = pa.table({"cell": few} | zeros)
    with pq.ParquetWriter(out, table.schema) as writer:
        for _ in range(40):
            writer.write_table(table)
    for name, data in whole.items():
        (tmp_path / f"{KEY}.{name}").write_bytes(data)
    seal(tmp_path, out.getvalue())
    code = """
import pyarrow.parquet, pyarrow.fs
from bandlens.engine.distributed.shards import open_folder, read_about, read_shard
folder = open_folder(sys.argv[1])
limit(8000)
attempt("rows", lambda: read_shard(folder, read_about(folder, sys.argv[2])))
"""
    assert_refused(limited(code, tmp_path, KEY)["rows"])


# Databases


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("database") / "results.duckdb"
    images = image_set(8, labels=[0] * 8)
    with open_store(path) as store:
        store_study(store, "s", images, [part(cell(images), [1] * 8, [2] * 8)])
    return path


@fuzz(20)
@given(data=st.data())
def test_a_damaged_database_is_read_or_one_line(database: Path, data: st.DataObject) -> None:
    content = database.read_bytes()
    begin = data.draw(damaged(content[:20_000]))
    (database.parent / "damaged.duckdb").write_bytes(begin + content[20_000:])

    def read_all() -> None:
        with open_store(database.parent / "damaged.duckdb", read_only=True) as store:
            for table in store.frame("SHOW TABLES")["name"]:
                store.frame(f'FROM "{table}"')

    refusal(read_all)


def test_a_pipe_is_no_database(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "results.duckdb")

    def opened() -> None:
        with open_store(tmp_path / "results.duckdb", read_only=True):
            pass

    assert "it is no file" in str(refusal(opened))
