"""How files are written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandlens.export.files import write_bytes


@pytest.fixture(params=[0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_others_may_do_with_a_file_what_the_user_lets_them(umask: int, tmp_path: Path) -> None:
    file = tmp_path / "new" / "one.onnx"
    for content in (b"1", b"2"):
        write_bytes(file, content)
        assert (file.read_bytes(), file.stat().st_mode & 0o777) == (content, 0o666 & ~umask)
    assert list(file.parent.iterdir()) == [file]
