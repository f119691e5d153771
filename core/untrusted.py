"""Handle untrusted input: read it within size limits, validate its structure, and make it safe to display."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints
from unicodedata import category

R = TypeVar("R")

MOST_BYTES = 1 << 27
"""Maximum size of a text file. A CSV file with a few million images fits; a larger file could exhaust the memory."""
LONGEST_MESSAGE = 2000
"""Maximum length of an error message in characters. A message about a long value need not show all of it."""
MOST_UNPROVEN_ROWS = 1_000_000
"""Number of rows that is accepted for a table file of any size, because reading so many rows takes little memory."""
MOST_ROWS_PER_BYTE = 4
"""Maximum number of rows per byte of a larger, compressed table file.

Even image attributes whose values are all equal, which compress best, stay below 0.5 rows per byte.
"""
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories with characters that move the cursor, color the terminal, or reverse the direction of text."""
_SECRET = re.compile(
    r"(?<=://)[^/\s@]+(?=@)"  # user:password@ in a URL
    r"|(?<=hf_)[A-Za-z0-9]{16,}"  # a Hugging Face token
    r"|(?<=bearer )\S+"
    r"|(?<=[?&])[\w.-]*(?:token|key|secret|signature|password|credential)[\w.-]*=[^&\s'\")\]]+",
    re.IGNORECASE,
)
_SECRET_VARIABLE = re.compile(r"(TOKEN|SECRET|PASSWORD|API_?KEY|ACCESS_KEY)$")
_SHORTEST_SECRET = 8
"""Minimum length of an environment variable to be redacted. A short value such as `1` occurs in many messages."""


def read_text(file: Path, limit: int = MOST_BYTES, *, pipe: bool = False) -> str:
    """Read a UTF-8 text file and strip its byte order mark, if any.

    Args:
        file: The file.
        limit: Maximum size in bytes.
        pipe: Whether the file may be a pipe or a device. Set this only for a path that the user passed. A pipe in a
            folder from somebody else may never end.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is larger than `limit` or is not UTF-8 text.
    """
    with (file if pipe else regular(file)).open("rb") as content:
        data = content.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it has more than {limit:,} bytes")
    return data.decode("utf-8-sig")


def regular(file: Path) -> Path:
    """Return `file` if it is a regular file, which can be read to its end.

    Raises:
        OSError: The file does not exist.
        ValueError: It is a folder, a pipe or a device.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        raise ValueError("it is no file")
    return file


def check_rows(rows: int, file: Path) -> None:
    """Raise ValueError if the header of a table file claims more rows than a real table of this file size contains.

    Compressed repetitions let a small file expand to a table that exhausts the memory.
    """
    if rows > MOST_UNPROVEN_ROWS and rows > MOST_ROWS_PER_BYTE * file.stat().st_size:
        raise ValueError(f"it has {rows:,} rows in {file.stat().st_size:,} bytes, more than tables of images have")


def parse_json(text: str) -> Any:
    """Parse JSON. Raise ValueError for invalid text and for nesting beyond Python's recursion limit."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def as_record(kind: type[R], table: Mapping[str, Any]) -> R:
    """Create a dataclass instance from a parsed JSON object and check the types of its values.

    Args:
        kind: The dataclass.
        table: The JSON object. Keys that are not fields of the dataclass are ignored.

    Raises:
        TypeError: A value has the wrong type, or a field without a default is missing.
    """
    types = _types(kind)  # type: ignore[arg-type]
    values = {field.name: table[field.name] for field in fields(kind) if field.name in table}  # type: ignore[arg-type]
    for name, value in values.items():
        is_path = types[name] == (Path,)
        json_types = (str,) if is_path else types[name]
        if not isinstance(value, json_types) or (isinstance(value, bool) and bool not in json_types):
            raise TypeError(f"{name} is {type(value).__name__}")
        if is_path:
            values[name] = Path(value)
    return kind(**values)


@cache
def _types(kind: type[Any]) -> dict[str, tuple[type[Any], ...]]:
    """Return the types that each field of a dataclass accepts."""
    hints = get_type_hints(kind)
    unions = {name: get_args(hint) if isinstance(hint, UnionType) else (hint,) for name, hint in hints.items()}
    return {name: tuple(get_origin(member) or member for member in members) for name, members in unions.items()}


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its class name if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def words_of(error: BaseException) -> str:
    """Return an exception's message as one line, to be quoted in a message that states where the error occurred.

    For an OSError this is the system's description of the error without the path. An exception without a message is
    described by its class name.
    """
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def one_line(text: str) -> str:
    """Sanitize text for an error message: one printable line of at most 2,000 characters, with secrets redacted.

    Longer text is shortened in the middle.
    """
    line = printable(without_secrets(" ".join(text.splitlines())))
    half = LONGEST_MESSAGE // 2
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:half]} … {line[-half:]}"


def printable(text: str, exceptions: str = "\n") -> str:
    """Escape the characters that a terminal would interpret rather than show, for example as \\x1b.

    Args:
        text: The text.
        exceptions: Characters that are left as they are.
    """
    if text.isprintable():
        return text
    return "".join(ascii(sign)[1:-1] if sign not in exceptions and _is_unseen(sign) else sign for sign in text)


def _is_unseen(sign: str) -> bool:
    return category(sign) in _UNSEEN or sign in "\ufffe\uffff"  # noncharacters, which XML does not allow


def without_secrets(text: str) -> str:
    """Replace secrets by ***: passwords and tokens in URLs, Hugging Face tokens, and secret environment variables."""
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "***")
    return _SECRET.sub("***", text)
