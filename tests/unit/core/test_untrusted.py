"""Untrusted input is read within limits, and shown in one line without secrets."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from fuzzing import is_one_line
from hypothesis import given
from hypothesis import strategies as st

from bandlens.core.errors import UnknownName, UsageError
from bandlens.core.untrusted import (
    as_record,
    first_line,
    one_line,
    parse_json,
    printable,
    read_text,
    without_secrets,
    words_of,
)


def test_texts_are_read_up_to_a_limit(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfabc")
    assert read_text(file, 6) == "abc"
    with pytest.raises(ValueError, match="it has more than 5 bytes"):
        read_text(file, 5)
    with pytest.raises(ValueError, match="it has more than 1,000 bytes"):
        read_text(Path("/dev/zero"), 1000, pipe=True)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\n no such column  \nat row 3"), "no such column at row 3"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/where.txt"), "No such file or directory"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_all_words_of_an_error_are_one_line(error: Exception, line: str) -> None:
    assert words_of(error) == line


def test_an_error_of_a_library_has_a_first_line_even_without_words() -> None:
    errors = [ValueError("\n no such column  \nat row 3"), ValueError(), OSError(" \n")]
    assert [first_line(error) for error in errors] == ["no such column  ", "ValueError", "OSError"]


def test_pipes_and_devices_are_read_where_the_user_named_them_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ValueError, match="it is no file"):
            read_text(file, 10)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "none", 10)
    reader, writer = os.pipe()
    os.write(writer, b"checkpoints")
    os.close(writer)
    assert read_text(Path(f"/dev/fd/{reader}"), 100, pipe=True) == "checkpoints"
    os.close(reader)


def test_json_of_any_depth_is_read_or_refused() -> None:
    assert parse_json("[[1], {}]") == [[1], {}]
    for text in ("[" * 100_000, '{"a":' * 100_000, "[", "1" * 5000, ""):
        with pytest.raises(ValueError):  # noqa: PT011 - of json, int, or ours
            parse_json(text)


@dataclass(frozen=True)
class Record:
    name: str
    count: int
    path: Path
    note: str | None = None
    flag: bool = True
    ends: tuple[float, float] | None = None


def test_records_have_fields_of_their_types() -> None:
    entries = {"name": "a", "count": 1, "path": "x/y", "other": []}
    assert as_record(Record, entries) == Record("a", 1, Path("x/y"))
    assert as_record(Record, entries | {"note": "n", "flag": False}) == Record("a", 1, Path("x/y"), "n", False)
    assert as_record(Record, entries | {"ends": None}) == Record("a", 1, Path("x/y"))
    for changes in ({"name": []}, {"count": True}, {"count": 1.0}, {"path": None}, {"ends": 1}):
        with pytest.raises(TypeError, match=next(iter(changes))):
            as_record(Record, entries | changes)
    with pytest.raises(TypeError, match="missing"):
        as_record(Record, {"name": "a"})


@given(st.text())
def test_errors_say_any_text_on_one_printable_line(text: str) -> None:
    assert is_one_line(str(UsageError(f"a{text}")))
    assert is_one_line(str(UnknownName("name", text, [text, "b"], text)))


def test_what_can_be_shown_stays_as_it_is() -> None:
    text = "Größe 224 × 224 – 'naïve' 画像 🙂 C:\\x1b"
    assert one_line(text) == printable(text) == text
    assert printable("two\nlines\x1b[31m") == "two\nlines\\x1b[31m"
    assert one_line("two\nlines\r\n\x1b]0;title\x07\u202e") == "two lines \\x1b]0;title\\x07\\u202e"
    line = one_line("x" * 10**6 + "end")
    assert len(line) < 2010
    assert line.endswith("end")


SECRETS = [
    "https://user:hunter22@example.org/a.pth",
    "https://example.org/a.pth?x=1&access_token=hunter22&y=2",
    "GET /a.pth?api_key=hunter22'",
    "Authorization: Bearer hunter22",
    "the token hf_hunter22abcdefghijk is not valid",
    "denied: s3cr3t-hunter22",
]


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_are_not_said(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANY_SERVICE_API_KEY", "s3cr3t-hunter22")
    for message in (without_secrets(text), str(UsageError(text))):
        assert "hunter22" not in message
        assert "***" in message


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/a.pth?version=2",
        "the key conv1.weight is missing",
        "key=3 and token=4 of a condition",
        "keys: hf_short",
    ],
)
def test_what_is_no_secret_is_said(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "1")  # as short as that, it is in every other message
    monkeypatch.setenv("SOME_TOKEN_FILE", "https://example.org/a.pth")
    assert without_secrets(text) == text
