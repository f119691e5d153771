"""The one layout of archives that is read, beside torch's own writer and Python's."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from odd_archives import WEIGHTS, Archive, Entry, assert_equal, entries_of, saved, written

from bandlens.core.errors import CheckpointError
from bandlens.export.weights.archives import locate_members, read_directory, read_member
from bandlens.export.weights.read import read


def archive_of_weights(**options: Any) -> bytes:
    return written(Archive(entries_of(saved(WEIGHTS)), **options))


def read_bytes(content: bytes, folder: Path) -> Any:
    (folder / "weights.pth").write_bytes(content)
    return read(folder / "weights.pth")


def test_the_writer_of_the_tests_writes_as_torch_does() -> None:
    assert archive_of_weights() == saved(WEIGHTS)


def test_every_member_is_read_as_python_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(WEIGHTS, file)
    with file.open("rb") as content, zipfile.ZipFile(file) as archive:
        spans = locate_members(content, read_directory(content))
        members = {name: bytes(read_member(content, span)) for name, span in spans.items()}
        assert members == {info.filename.partition("/")[2]: archive.read(info) for info in archive.infolist()}


@pytest.mark.parametrize("alignment", [16, 64, 4096])
def test_every_alignment_of_torch_is_read(alignment: int, tmp_path: Path) -> None:
    with torch.utils.serialization.config.patch("save.storage_alignment", alignment):
        content = saved(WEIGHTS)
    assert_equal(read_bytes(content, tmp_path), WEIGHTS, "")


def test_archives_without_checksums_are_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        content = saved(WEIGHTS)
    finally:
        torch.serialization.set_crc32_options(True)
    assert_equal(read_bytes(content, tmp_path), WEIGHTS, "")


def test_what_python_packs_anew_without_compression_is_read(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for entry in entries_of(saved(WEIGHTS)):
            archive.writestr(entry.name.decode(), entry.data)
    assert_equal(read_bytes(out.getvalue(), tmp_path), WEIGHTS, "")


def test_a_changed_byte_of_a_tensor_is_seen(tmp_path: Path) -> None:
    content = bytearray(saved({"a": torch.full((8,), 2.5)}))
    content[content.index(struct.pack("<f", 2.5))] ^= 1
    with pytest.raises(CheckpointError, match="checksum"):
        read_bytes(content, tmp_path)


def test_sizes_and_offsets_from_four_gibibytes_are_read(tmp_path: Path) -> None:
    """The file is laid out as torch does it, with a hole for the zeros."""
    size, offset = (1 << 32) + 64, (1 << 32) + 256
    wide = struct.pack("<2H2Q", 1, 16, size, 0)
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 0, 0x808, 0, 0, 0, 0, 0, 0, 8, len(wide) + 4 + 126) + b"a/data/0"
    first = local + wide + b"FB" + struct.pack("<H", 126) + b"Z" * 126
    start = len(first)
    descriptor = struct.pack("<4sI2Q", b"PK\7\10", 7, size, size)
    offset = start + size + len(descriptor)
    far = struct.pack("<2HQ", 1, 8, offset)
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 0, 0x808, 0, 0, 0, 0, 0, 0, 9, len(far) + 4) + b"a/version" + far
    second = local + b"FB\0\0" + b"3\n" + struct.pack("<4sI2Q", b"PK\7\10", zlib.crc32(b"3\n"), 2, 2)
    most, both = 0xFFFFFFFF, struct.pack("<2H2Q", 1, 16, size, size)
    head = (b"PK\1\2", 0, 0, 0x808, 0, 0, 0)
    rows = struct.pack("<4s6H3I5H2I", *head, 7, most, most, 8, len(both), 0, 0, 0, 0, 0) + b"a/data/0" + both
    crc = zlib.crc32(b"3\n")
    rows += struct.pack("<4s6H3I5H2I", *head, crc, 2, 2, 9, len(far), 0, 0, 0, 0, most) + b"a/version" + far
    directory = offset + len(second)
    end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 0, 0, 0, 0, 2, 2, len(rows), directory)
    end += struct.pack("<4sIQI", b"PK\6\7", 0, directory + len(rows), 1)
    end += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 2, 2, len(rows), most, 0)
    with (tmp_path / "large.pth").open("w+b") as file:
        file.write(first)
        file.seek(start + size)
        file.write(descriptor + second + rows + end)
    with (tmp_path / "large.pth").open("rb") as content:
        spans = locate_members(content, read_directory(content))
        assert (spans["data/0"].start, spans["data/0"].size) == (start, size)
        assert read_member(content, spans["version"]) == b"3\n"


def renamed(name: bytes) -> bytes:
    entries = entries_of(saved(WEIGHTS))
    entries[3].name = name
    return written(Archive(entries))


def added(name: bytes) -> bytes:
    return written(Archive([*entries_of(saved(WEIGHTS)), Entry(name, b"x")]))


def changed(place: str, field: str, value: Any) -> bytes:
    """An archive of which one local header or row of the directory says something else."""
    entries = entries_of(saved(WEIGHTS))
    getattr(entries[0], place)[field] = value
    return written(Archive(entries))


def with_gap(position: int) -> bytes:
    entries = entries_of(saved(WEIGHTS))
    entries[position].gap = b"PK\3\4"
    return written(Archive(entries))


def packed() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in entries_of(saved(WEIGHTS)):
            archive.writestr(entry.name.decode(), entry.data)
    return out.getvalue()


REFUSED = {
    "something in front": (archive_of_weights(prefix=b"PK\3\4"), "does not begin where"),
    "something behind": (archive_of_weights(suffix=b"\0"), "it was cut, or something follows it"),
    "a comment": (archive_of_weights(comment=b"x"), "it was cut, or something follows it"),
    "another number of rows": (archive_of_weights(end={"count": 3}), "two ways that contradict each other"),
    "another number of rows alone": (archive_of_weights(zip64=False, end={"count": 3}), "longer than its number"),
    "another place": (archive_of_weights(zip64=False, end={"start": 3}), "not where its archive says"),
    "a gap in front": (with_gap(0), "does not begin where"),
    "a gap between": (with_gap(2), "does not begin where"),
    "a compressed member": (packed(), "is compressed"),
    "an encrypted member": (changed("row", "flags", 0x0809), "is compressed or encrypted"),
    "another name": (changed("local", "name", b"archive/data.pkx"), "contradict each other"),
    "another size": (changed("local", "size", 9), "contradict each other"),
    "another checksum": (changed("row", "crc", 9), "contradict each other"),
    "another descriptor": (changed("local", "descriptor", b"PK\7\10" + bytes(12)), "contradict each other"),
    "other padding": (changed("local", "extra", b"FB\4\0ZZ\0Z"), "contradict each other"),
    "padding that is too short": (changed("local", "extra", b"ZZZ"), "contradict each other"),
    "an extra field": (changed("row", "extra", b"UT\1\0x"), "extra fields"),
    "a comment of a row": (changed("row", "comment", b"x"), "says what torch.save does not"),
    "the same name": (added(b"archive/data.pkl"), "two members that are called"),
    "the same name in capitals": (added(b"archive/DATA.pkl"), "two members that are called"),
    "an absolute name": (renamed(b"/archive/x"), "no name that torch.save gives"),
    "a name outside": (renamed(b"archive/../x"), "no name that torch.save gives"),
    "a name in another folder": (renamed(b"other/x"), "no name that torch.save gives"),
    "a name with a zero": (renamed(b"archive/x\0y"), "no name that torch.save gives"),
    "a folder": (added(b"archive/x/"), "no name that torch.save gives"),
}


def test_a_text_is_no_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"it is no file of weights, or damaged; fetch the file again$"):
        read_bytes("Ärger\n".encode(), tmp_path)


@pytest.mark.parametrize("way", REFUSED)
def test_every_other_archive_is_refused(way: str, tmp_path: Path) -> None:
    content, why = REFUSED[way]
    with pytest.raises(CheckpointError, match=f"cannot read weights from .*{why}.*; fetch the file again"):
        read_bytes(content, tmp_path)


def test_an_end_in_the_middle_of_a_member_is_not_taken_for_the_end(tmp_path: Path) -> None:
    content = {"a": torch.frombuffer(bytearray(b"PK\5\6" + bytes(60)), dtype=torch.uint8)}
    assert_equal(read_bytes(saved(content), tmp_path), content, "")
