"""Shards: what is read is what was written, or an error; on a disk, and on Arrow's other file systems."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_parts import INFO, KEY, MODEL, VARIANT, parts
from pyarrow import fs

from bandlens.core.errors import ShardError
from bandlens.core.records import Cell, Finished, SessionInfo, Variant
from bandlens.engine.distributed.shards import (
    Folder,
    Shard,
    check_shard,
    open_folder,
    read_about,
    read_shard,
    shard_keys,
    write_shard,
)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path / "shards"))


def written(folder: Folder, **options: object) -> tuple[list[Finished], Shard]:
    made = parts(**options)  # type: ignore[arg-type]
    return made, write_shard(folder, KEY, made, {VARIANT: INFO})


@given(
    cells=st.integers(1, 4),
    count=st.integers(1, 40),
    first=st.integers(0, 10**6),
    labelled=st.booleans(),
    several=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_what_is_read_is_what_was_written(
    folder: Folder, cells: int, count: int, first: int, labelled: bool, several: bool
) -> None:
    made, shard = written(folder, cells=cells, count=count, first=first, labelled=labelled, several=several)
    assert shard_keys(folder) == [KEY]
    assert read_about(folder, KEY) == shard
    assert (shard.first, shard.last) == (first, first + count)
    predictions = read_shard(folder, shard)
    assert list(predictions) == [part.cell.key for part in made]
    for part, seconds in zip(made, shard.seconds, strict=True):
        read = predictions[part.cell.key]
        for name in ("predicted", "label_rank", "confidence", "best_rank"):
            np.testing.assert_array_equal(getattr(read, name), getattr(part.predictions, name))
        assert read.predicted.dtype == np.uint16
        assert read.confidence.dtype == np.float32
        assert (seconds, shard.session(part.cell.key)) == (part.seconds, INFO)


def test_the_same_rows_give_the_same_bytes_wherever_and_however_long_they_ran(tmp_path: Path) -> None:
    contents = []
    for name, seconds in (("a", 0.0), ("b", 9.0)):
        folder = open_folder(str(tmp_path / name))
        made = [Finished(part.cell, part.first, part.predictions, seconds) for part in parts()]
        write_shard(folder, KEY, made, {VARIANT: SessionInfo(name, 8, 1, "{}")})
        contents.append((tmp_path / name / f"{KEY}.parquet").read_bytes())
    assert contents[0] == contents[1]


def test_other_programs_read_it(folder: Folder) -> None:
    made, _ = written(folder)
    rows = duckdb.sql(
        f"SELECT cell, count(*), min(image_index), sum(predicted) FROM '{folder.path}/*.parquet' GROUP BY 1"
    )
    assert sorted(rows.fetchall()) == sorted(
        (part.cell.key, 8, 16, int(part.predictions.predicted.sum())) for part in made
    )


def test_sessions_of_their_own_stay_apart(folder: Folder) -> None:
    openvino = Variant(MODEL, "openvino", "fp32", MODEL.path, "m")
    first, second, _ = parts()
    second = Finished(Cell(openvino, second.cell.image_set, second.cell.condition, 0), 16, second.predictions, 1.0)
    another = SessionInfo("another", 8, 1, "{}")
    write_shard(folder, KEY, [first, second], {VARIANT: INFO, openvino: another})
    shard = read_about(folder, KEY)
    assert [shard.session(key) for key in shard.cells] == [INFO, another]


# Damage


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@pytest.mark.parametrize("suffix", ["parquet", "json"])
def test_a_file_with_any_bit_flipped_or_cut_anywhere_is_damaged(
    folder: Folder, suffix: str, data: st.DataObject
) -> None:
    written(folder)
    path = Path(folder.path_of(f"{KEY}.{suffix}"))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[place:]
    path.write_bytes(content)
    with pytest.raises(ShardError, match=r"damaged|another") as raised:
        read_shard(folder, read_about(folder, KEY))
    assert "\n" not in str(raised.value)


@given(content=st.binary(max_size=200) | st.text(max_size=50).map(str.encode) | st.just(b"[" * 100_000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_description_of_anything_is_an_error_in_one_line(folder: Folder, content: bytes) -> None:
    written(folder)
    Path(folder.path_of(f"{KEY}.json")).write_bytes(content)
    with pytest.raises(ShardError) as raised:
        read_about(folder, KEY)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_an_error(folder: Folder) -> None:
    _, shard = written(folder)
    for name in (f"{KEY}.json", f"{KEY}.parquet"):
        Path(folder.path_of(name)).unlink()
    with pytest.raises(ShardError, match="No such file"):
        read_about(folder, KEY)
    with pytest.raises(ShardError, match="No such file"):
        check_shard(folder, shard)


def test_rows_of_another_unit_under_a_right_sha256_are_refused(folder: Folder) -> None:
    """Somebody has put a shard together from two."""
    _, shard = written(folder)
    for changed in ({"first": 17, "last": 25}, {"cells": [*shard.cells[1:], shard.cells[0]]}, {"last": 30}):
        about = json.loads(Path(folder.path_of(f"{KEY}.json")).read_text())
        fields = {name: about[name] for name in Shard.__dataclass_fields__} | changed
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        with pytest.raises(ShardError, match="other rows than its task's"):
            read_shard(folder, Shard(**(fields | lists)))


def test_a_shard_under_the_name_of_another_is_refused(folder: Folder) -> None:
    written(folder)
    second_key = "o" * 64
    for suffix in ("json", "parquet"):
        Path(folder.path_of(f"{KEY}.{suffix}")).rename(folder.path_of(f"{second_key}.{suffix}"))
    with pytest.raises(ShardError, match="another shard"):
        read_about(folder, second_key)


# Writing


def test_unfinished_files_are_no_shards(folder: Folder) -> None:
    (Path(folder.path) / f".{KEY}.parquet.1234").write_bytes(b"PAR1")
    (Path(folder.path) / f"{KEY}.json").write_bytes(b"{}")
    assert shard_keys(folder) == []


@pytest.mark.parametrize(
    "make", [lambda: fs._MockFileSystem(), lambda: fs.SubTreeFileSystem("/", fs.LocalFileSystem())]
)
def test_other_file_systems_of_arrow_hold_shards(make: Callable[[], fs.FileSystem], tmp_path: Path) -> None:
    folder = Folder(make(), f"{tmp_path}/shards".lstrip("/"), "elsewhere")
    folder.files.create_dir(folder.path, recursive=True)
    made, _ = written(folder)
    assert shard_keys(folder) == [KEY]
    predictions = read_shard(folder, read_about(folder, KEY))
    np.testing.assert_array_equal(predictions[made[2].cell.key].predicted, made[2].predictions.predicted)
    names = [info.base_name for info in folder.files.get_file_info(fs.FileSelector(folder.path))]
    assert sorted(names) == [f"{KEY}.json", f"{KEY}.parquet"]


def test_uris_name_folders(tmp_path: Path) -> None:
    folder = open_folder(f"file://{tmp_path}/shards")
    written(folder)
    assert shard_keys(open_folder(str(tmp_path / "shards"))) == [KEY]


@pytest.mark.parametrize(
    ("name", "words"),
    [("nonsense://x/y", "nonsense"), ("file", "no results folder"), ("file/below", "no results folder")],
)
def test_a_folder_that_cannot_be_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(ShardError, match=words) as raised:
        open_folder(name)
    assert str(raised.value).endswith("name another folder with --shards")


def test_a_path_names_a_folder_as_its_text_does(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "shards")
    assert (folder.name, folder.path) == (str(tmp_path / "shards"), str(tmp_path / "shards"))
