"""Image sets of someone else's: any set.json, index.parquet and pixels.npy open or are one line."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import assert_refused, damaged, fuzz, json_values, limited, refusal
from hypothesis import given
from hypothesis import strategies as st
from small import make_images, make_pictures, write_pictures

from bandlens.analysis.published.imports import read_parquet
from bandlens.core.records import Crop
from bandlens.probes.images.image_set import check_image_set, open_image_set
from bandlens.probes.images.labels import read_attributes
from bandlens.probes.images.pack import pack
from bandlens.probes.images.pack_options import How
from bandlens.probes.images.storage import read_index

FILES = ("set.json", "index.parquet", "pixels.npy")
COUNT, SIZE = 4, 32


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(
        tmp_path_factory.mktemp("sets") / "a.set", make_pictures(COUNT, SIZE), labels=[0, 1, 2, 3]
    ).folder


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    pictures = {f"{number}.png": picture for number, picture in enumerate(make_pictures(COUNT, SIZE))}
    return pack(
        write_pictures(folder / "photos", pictures), folder / "b.set", crop=Crop(SIZE, SIZE), how=How(stream=True)
    ).folder


def open_set(folder: Path) -> None:
    """Open and check a set as a study and `images check` do."""
    images = open_image_set(folder)
    images.take(np.array([0, images.info.count - 1]))
    check_image_set(folder)


def attempt(folder: Path, name: str, content: bytes) -> str | None:
    """The refusal of the set with another file in it; the set is whole again afterwards."""
    original = (folder / name).read_bytes()
    (folder / name).write_bytes(content)
    try:
        return refusal(lambda: open_set(folder))
    finally:
        (folder / name).write_bytes(original)


@pytest.mark.parametrize("name", FILES)
@fuzz(20)
@given(data=st.data())
def test_damaged_files_open_or_are_one_line(name: str, packed: Path, data: st.DataObject) -> None:
    attempt(packed, name, data.draw(damaged((packed / name).read_bytes())))


@pytest.mark.parametrize("folder", ["packed", "streamed"])
@fuzz(26)
@given(data=st.data())
def test_any_description_opens_or_is_one_line(folder: str, request: pytest.FixtureRequest, data: st.DataObject) -> None:
    path: Path = request.getfixturevalue(folder)
    about = json.loads((path / "set.json").read_text())
    if "crop" in about and data.draw(st.booleans()):
        inner = data.draw(st.dictionaries(st.sampled_from([*about["crop"]]), json_values, min_size=1))
        description = about | {"crop": about["crop"] | inner}
    else:
        keys = st.sampled_from([*about, "schemes", "decision_space", "corruption", "severity", "streamed"])
        description = about | data.draw(st.dictionaries(keys, json_values, min_size=1, max_size=3))
    attempt(path, "set.json", json.dumps(description).encode())


SHAPE = (COUNT, 3, SIZE, SIZE)
HEADERS = [
    *("{[]: 1}", "(" * 2000, "{}", "3", "", "\0", "__import__('os').mkdir('x')", "{'descr': " + "9" * 9000 + "}"),
    *(repr({"descr": kind, "fortran_order": False, "shape": SHAPE}) for kind in ("|O", "<f8", "zz", 3)),
    *(repr({"descr": "|u1", "fortran_order": order, "shape": SHAPE}) for order in (True, None)),
    *(repr({"descr": "|u1", "fortran_order": False, "shape": shape}) for shape in ((-1,), (2**62, 2**62), (1.5,), 3)),
]


@pytest.mark.parametrize("header", HEADERS)
def test_any_header_of_pixels_is_one_line(header: str, packed: Path) -> None:
    text = header.encode()
    content = len(text).to_bytes(2, "little") + text + bytes(COUNT * 3 * SIZE * SIZE)
    assert attempt(packed, "pixels.npy", b"\x93NUMPY\x01\0" + content)


COLUMNS = ["image_index", "path", "label", "cluster", "sha256", "real"]
arrays: st.SearchStrategy[Any] = st.sampled_from(
    [
        pa.array([0, 1, 2, 3], pa.int32()),
        pa.array([-1, 1, 2, -3], pa.int32()),
        pa.array([2**31 - 1] * 4, pa.int32()),
        pa.array([0.5, 1, 2, None]),
        pa.array(["../x", "/etc/passwd", "", "a\0"]),
        pa.array(["a", None, "a", "a"]),
        pa.array([b"\xff"] * 4),
        pa.nulls(4),
        pa.array([[1], [None], [], [3]], pa.list_(pa.int32())),
        pa.array([[1], None, [], [3]], pa.list_(pa.int32())),
        pa.array([{"a": 1}] * 4),
        pa.array(["a", "b", "a", "b"]).dictionary_encode(),
    ]
)


@pytest.mark.parametrize("folder", ["packed", "streamed"])
@fuzz(26)
@given(
    columns=st.dictionaries(st.sampled_from(COLUMNS), arrays, min_size=1, max_size=3),
    twice=st.booleans(),
    rows=st.sampled_from([4, 3]),
)
def test_any_index_opens_or_is_one_line(
    folder: str, request: pytest.FixtureRequest, columns: dict[str, Any], twice: bool, rows: int
) -> None:
    path: Path = request.getfixturevalue(folder)
    table = pq.read_table(path / "index.parquet")
    for name, array in columns.items():
        at = table.column_names.index(name) if name in table.column_names else len(table.column_names)
        table = table.set_column(at, name, array) if at < len(table.column_names) else table.append_column(name, array)
    if twice:
        table = table.append_column(*next(iter(columns.items())))
    out = io.BytesIO()
    pq.write_table(table.slice(0, rows), out)
    attempt(path, "index.parquet", out.getvalue())


@pytest.mark.parametrize(
    "read",
    [
        lambda file: read_parquet(file),
        lambda file: read_index(file.parent, None, file.name),
        lambda file: read_attributes(shutil.copyfile(file, file.with_name("attributes.parquet")).parent, 2_000_000),
    ],
    ids=["table", "index", "attributes"],
)
def test_rows_that_a_file_of_its_bytes_cannot_hold_are_refused_by_its_header(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    rows = pa.table({"image_index": np.zeros(2_000_000, np.int32)})
    pq.write_table(rows, tmp_path / "table.parquet")
    message = str(refusal(lambda: read(tmp_path / "table.parquet")))
    assert "it has 2,000,000 rows in" in message


def test_small_sets_do_not_become_large(packed: Path, streamed: Path, tmp_path: Path) -> None:
    rows = 40_000_000
    paths = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10**6, np.int32)), pa.array(["a" * 64]))
    for out, source in (("rows.set", packed), ("stream.set", streamed)):
        folder = Path(shutil.copytree(source, tmp_path / out))
        about = json.loads((folder / "set.json").read_text()) | {"count": rows}
        (folder / "set.json").write_text(json.dumps(about))
        schema = pa.schema(
            [("image_index", pa.int32()), ("path", paths.type), ("label", pa.int32()), ("cluster", pa.int32())]
        )
        with pq.ParquetWriter(folder / "index.parquet", schema) as writer:
            numbers = pa.array(np.zeros(10**6, np.int32))
            table = pa.Table.from_arrays([numbers, paths, numbers, numbers], schema=schema)
            for _ in range(rows // 10**6):
                writer.write_table(table)
    with (tmp_path / "rows.set" / "pixels.npy").open("wb") as pixels:
        shape = (rows, 3, SIZE, SIZE)
        np.lib.format.write_array_header_1_0(pixels, {"descr": "|u1", "fortran_order": False, "shape": shape})
        pixels.truncate(128 + rows * 3 * SIZE * SIZE)  # sparse: it takes no room
    code = """
import numpy, pyarrow.parquet
from pathlib import Path
from bandlens.probes.images.image_set import open_image_set
limit(4000 << 10)
for folder in sys.argv[1:]:
    attempt(folder, lambda: open_image_set(Path(folder)))
"""
    attempts = limited(code, tmp_path / "rows.set", tmp_path / "stream.set")
    assert len(attempts) == 2
    for attempt in attempts.values():
        assert_refused(attempt)
