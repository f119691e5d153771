"""The folders of bandlens, and how it writes and recognises files."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..core.files import behind_links, partial_prefix, remove_partial_files, take_name


def home() -> Path:
    """`$BANDLENS_HOME`, or ~/.cache/bandlens."""
    return Path(os.environ.get("BANDLENS_HOME") or Path.home() / ".cache" / "bandlens")


def weights_folder() -> Path:
    return home() / "weights"


def models_folder() -> Path:
    return home() / "models"


def sha256_of(path: Path) -> str:
    """The sha256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well and vanishes when it does not.

    A link stays, and what it leads to is replaced; the new file has the mode and the owner of the old one.
    """
    path = behind_links(path)
    if path.is_dir():  # `.` has no name that a file beside it could take up
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_partial_files(path.parent, path.name)
    temporary = path.with_name(f"{partial_prefix(path)}{secrets.token_hex(4)}")
    try:
        yield temporary
        take_name(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def html_title(path: Path) -> str | None:
    """The title (or '') of a web page, such as servers send instead of weights; None for other files."""
    with path.open("rb") as file:
        text = file.read(1 << 16).decode("utf-8", "replace")
    if not re.match(r"\s*(<!doctype html|<html|<head)", text.removeprefix("\ufeff"), re.IGNORECASE):
        return None
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    return " ".join(title[1].split()) if title else ""
