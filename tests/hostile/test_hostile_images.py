"""Folders, archives and photographs of someone else's: images or one line, in little time and memory."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import assert_refused, damaged, fuzz, limited, refusal
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bandlens.core.records import Crop
from bandlens.probes.images.pack import pack
from bandlens.probes.images.pack_options import How


def picture(kind: str = "JPEG", size: tuple[int, int] = (20, 17), **options: Any) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def pad(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def pax(*records: bytes) -> bytes:
    """An archive of an image that has these records about it."""
    text = b"".join(records)
    about = header("about", len(text), tarfile.XHDTYPE) + pad(text)
    return about + header("a.jpg", len(PHOTO)) + pad(PHOTO) + bytes(1024)


PHOTO = picture()
FILES = {"b/one.jpg": PHOTO, "b/two.png": picture("PNG"), "c/three.webp": picture("WEBP"), "x" * 120 + ".jpg": PHOTO}


def archive(mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


ARCHIVES = {mode: archive(f"w:{mode}") for mode in ("", "gz")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


def pack_archive(file: Path, out: Path) -> None:
    """Pack and remove what was packed; nothing else may be left."""
    files = sorted(out.parent.iterdir())
    images = pack(file, out, crop=Crop(8, 8), how=How(skip_broken=True, workers=1))
    for path in images.folder.iterdir():
        path.unlink()
    images.folder.rmdir()
    assert sorted(out.parent.iterdir()) == files


@pytest.mark.parametrize("mode", ARCHIVES)
@fuzz(13)
@given(data=st.data())
def test_damaged_archives_pack_or_are_one_line(mode: str, folder: Path, data: st.DataObject) -> None:
    (folder / "a.tar").write_bytes(data.draw(damaged(ARCHIVES[mode])))
    files = sorted(folder.rglob("*"))
    refusal(lambda: pack_archive(folder / "a.tar", folder / "a.set"))
    assert sorted(folder.rglob("*")) == files


# Bombs


def photo_of_nothing(width: int, height: int, comment: bytes = b"") -> bytes:
    """A PNG of black pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compressobj(1)
    data = b"".join(rows.compress(bytes(1 + 3 * width)) for _ in range(height)) + rows.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    text = chunk(b"zTXt", b"a\0\0" + comment) if comment else b""
    return b"\x89PNG\r\n\x1a\n" + head + text + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bombs(folder: Path) -> Iterator[Path]:
    """Sources that are small."""
    for name, content in {
        "loop.tar": header("a.txt", 0) + header("b.txt", -1024) + bytes(1024),
        "pax-loop.tar": pax(b"14 size=-4096\n"),
        "large.tar": header("a.jpg", 1 << 40),
        "sparse.tar": pax(b"22 GNU.sparse.major=1\n", b"22 GNU.sparse.minor=0\n"),
    }.items():
        (folder / name).write_bytes(content)
        yield folder / name
    for name, content in {
        "strip.png": photo_of_nothing(1_000_000, 1),
        "text.png": photo_of_nothing(10, 10, zlib.compress(bytes(10**8))),
        "words.jpg": b"\xff\xd8" + (b"\xff\xfe\xff\xff" + bytes(65533)) * 100,
    }.items():
        (folder / name).mkdir()
        (folder / name / name).write_bytes(content)
        yield folder / name
    (folder / "sparse").mkdir()
    with (folder / "sparse" / "a.jpg").open("wb") as file:
        file.truncate(1 << 40)
    yield folder / "sparse"


def test_small_sources_do_not_become_large(tmp_path: Path) -> None:
    code = """
import PIL.Image, pyarrow
from pathlib import Path
from bandlens.probes.images.pack_options import How
from bandlens.probes.images.pack import pack
limit(1500)
for source in sys.argv[2:]:
    attempt(source, lambda: pack(Path(source), Path(sys.argv[1]), how=How(workers=2)))
"""
    (tmp_path / "sources").mkdir()
    sources = list(bombs(tmp_path / "sources"))
    attempts = limited(code, tmp_path / "set", *sources)
    for source in sources:
        assert_refused({"source": source} | attempts[str(source)])
    assert [path.name for path in tmp_path.iterdir()] == ["sources"]
