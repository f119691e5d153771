"""Input from outside: it is read within limits, checked against what it should be, and shown without tricks."""

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
"""The most bytes of a text file: those of a CSV file of a few million images. A larger one would fill the memory."""
LONGEST_MESSAGE = 2000
"""Characters: what is wrong with a value need not show all of it."""
MOST_UNPROVEN_ROWS = 1_000_000
"""Rows that a table of any size may state: reading so many takes little memory."""
MOST_ROWS_PER_BYTE = 4
"""Rows per byte of a larger compressed table. Attributes of equal values, the smallest rows, have less than 0.5."""
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that move the cursor, colour the terminal, or turn the direction of text."""
_SECRET = re.compile(
    r"(?<=://)[^/\s@]+(?=@)"  # user:password@ of a URL
    r"|(?<=hf_)[A-Za-z0-9]{16,}"  # a token of Hugging Face
    r"|(?<=bearer )\S+"
    r"|(?<=[?&])[\w.-]*(?:token|key|secret|signature|password|credential)[\w.-]*=[^&\s'\")\]]+",
    re.IGNORECASE,
)
_SECRET_VARIABLE = re.compile(r"(TOKEN|SECRET|PASSWORD|API_?KEY|ACCESS_KEY)$")
_SHORTEST_SECRET = 8
"""Characters: a variable may hold as little as `1`, which is in many a message."""


def read_text(file: Path, limit: int = MOST_BYTES, *, pipe: bool = False) -> str:
    """The UTF-8 text of a file of at most so many bytes, without a byte order mark.

    A `pipe` is read too where the user names the file; in a folder of others, one would never end. Raises OSError, and
    ValueError for a longer file or one that is no text.
    """
    with (file if pipe else regular(file)).open("rb") as content:
        data = content.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it has more than {limit:,} bytes")
    return data.decode("utf-8-sig")


def regular(file: Path) -> Path:
    """The file, which can be read to its end; ValueError for a pipe or device, OSError where there is none."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise ValueError("it is no file")
    return file


def check_rows(rows: int, file: Path) -> None:
    """ValueError where the header of a table states more rows than a file of its bytes holds of different ones."""
    if rows > MOST_UNPROVEN_ROWS and rows > MOST_ROWS_PER_BYTE * file.stat().st_size:
        raise ValueError(f"it has {rows:,} rows in {file.stat().st_size:,} bytes, more than tables of images have")


def parse_json(text: str) -> Any:
    """The value of a JSON text; ValueError also where it is nested more deeply than Python's stack goes."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def as_record(kind: type[R], table: Mapping[str, Any]) -> R:
    """Make a dataclass of those values in a table of JSON that are its fields.

    Raises KeyError for a field that is missing and has no default, TypeError for a value of another type.
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
    """The classes that each field of a dataclass takes."""
    hints = get_type_hints(kind)
    unions = {name: get_args(hint) if isinstance(hint, UnionType) else (hint,) for name, hint in hints.items()}
    return {name: tuple(get_origin(member) or member for member in members) for name, members in unions.items()}


def first_line(error: BaseException) -> str:
    """The first line of an error of another library, for a message of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def words_of(error: BaseException) -> str:
    """All that an error says, in one line for a message of ours that says where; its kind where it says nothing."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def one_line(text: str) -> str:
    """The text as an error may say it: one line of no more than 2,000 characters, printable, without secrets."""
    line = printable(without_secrets(" ".join(text.splitlines())))
    half = LONGEST_MESSAGE // 2
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:half]} … {line[-half:]}"


def printable(text: str, exceptions: str = "\n") -> str:
    """The text with escapes, such as \\x1b, for what a terminal would obey rather than show; `exceptions` stay."""
    if text.isprintable():
        return text
    return "".join(ascii(sign)[1:-1] if sign not in exceptions and _is_unseen(sign) else sign for sign in text)


def _is_unseen(sign: str) -> bool:
    return category(sign) in _UNSEEN or sign in "\ufffe\uffff"  # no letters, which XML refuses


def without_secrets(text: str) -> str:
    """The text with *** for passwords and tokens: of URLs, of Hugging Face, and of this process' environment."""
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "***")
    return _SECRET.sub("***", text)
