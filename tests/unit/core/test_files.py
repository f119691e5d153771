"""How files are written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandlens.core import files
from bandlens.core.files import exchange_folders, put_in_place, write_bytes


@pytest.fixture(params=[0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    usual = os.umask(request.param)
    yield request.param
    os.umask(usual)


def test_others_may_do_with_a_file_what_the_user_lets_them(umask: int, tmp_path: Path) -> None:
    file = tmp_path / "new" / "one.onnx"
    for content in (b"1", b"2"):
        write_bytes(file, content)
        assert (file.read_bytes(), file.stat().st_mode & 0o777) == (content, 0o666 & ~umask)
    assert list(file.parent.iterdir()) == [file]


def test_a_link_stays_and_what_it_leads_to_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "private.csv", tmp_path / "answer.csv"
    target.write_bytes(b"old")
    target.chmod(0o600)
    link.symlink_to(target)
    write_bytes(link, b"new")
    assert link.is_symlink()
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"new", 0o600)
    assert [file.name for file in target.parent.iterdir()] == ["private.csv"]


def test_what_a_name_stands_for_is_on_the_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial, path = tmp_path / "partial", tmp_path / "folder"
    partial.mkdir()
    (partial / "file").write_bytes(b"1")
    inodes = [place.stat().st_ino for place in (partial / "file", partial, tmp_path)]
    events = list[tuple[int, bool]]()
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append((os.fstat(descriptor).st_ino, path.exists())))
    put_in_place(partial, path)
    assert events == list(zip(inodes, (False, False, True), strict=True))


@pytest.mark.parametrize("folder", [".", "below"])
def test_a_folder_is_not_replaced(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").mkdir()
    with pytest.raises(IsADirectoryError):
        write_bytes(Path(folder), b"1")
    assert list(tmp_path.iterdir()) == [tmp_path / "below"]


@pytest.mark.parametrize(("source", "replaced", "mode"), [(0o600, None, 0o600), (0o664, 0o646, 0o644)])
def test_whoever_may_not_read_the_source_of_a_file_may_not_read_the_file(
    source: int, replaced: int | None, mode: int, tmp_path: Path
) -> None:
    database, file = tmp_path / "results.duckdb", tmp_path / "report.html"
    database.touch(source)
    database.chmod(source)
    if replaced is not None:
        file.touch()
        file.chmod(replaced)
    write_bytes(file, b"1", [database])
    assert file.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("is_allowed", [True, False])
def test_a_group_that_may_not_read_the_source_may_not_read_the_file(
    is_allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = {*os.getgroups(), *([4321] if os.geteuid() == 0 else [])} - {os.getegid()}
    if not groups:
        pytest.skip("this user has one group")
    database, file = tmp_path / "results.duckdb", tmp_path / "report.html"
    database.touch()
    database.chmod(0o640)
    os.chown(database, -1, min(groups))

    def refuse(*_: object) -> None:
        raise PermissionError

    if not is_allowed:
        monkeypatch.setattr(os, "chown", refuse)
    write_bytes(file, b"1", [database])
    state = file.stat()
    assert (state.st_mode & 0o777, state.st_gid) == ((0o640, min(groups)) if is_allowed else (0o600, os.getegid()))


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system cannot exchange two names, and the new folder vanishes."""
    monkeypatch.setattr(files, "RENAME_EXCHANGE", 1 << 30)
    monkeypatch.setattr(files, "_sync", lambda *_: (tmp_path / "partial").rmdir())
    for name in ("partial", "set"):
        (tmp_path / name).mkdir()
    (tmp_path / "set" / "file").touch()
    with pytest.raises(FileNotFoundError):
        exchange_folders(tmp_path / "partial", tmp_path / "set")
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "set", tmp_path / "set" / "file"]
