"""Paths of the public layer."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from ...errors import UsageError, quoted

File = str | PathLike[str]
RESULTS = Path("results.duckdb")


def path_of(file: File | None) -> Path | None:
    """The path of a file, where one is given."""
    return None if file is None else Path(file)


def existing(db: File) -> Path:
    """UsageError where there is no database: opening one to write to it would make it."""
    if not Path(db).exists():
        raise UsageError(f"no results database at {db}; `bandlens run STUDY.toml --db {quoted(db)}` makes one")
    return Path(db)
