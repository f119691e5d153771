"""Paths of the public layer, and databases at them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.errors import UsageError, quoted

if TYPE_CHECKING:
    from ...analysis.database.store import Store

File = str | PathLike[str]
RESULTS = Path("results.duckdb")


def path_of(file: File | None) -> Path | None:
    """The path of a file, where one is given."""
    return None if file is None else Path(file)


def reading(db: File) -> AbstractContextManager[Store]:
    """A results database, which is opened for reading."""
    from ...analysis.database.open import open_store

    return open_store(Path(db), read_only=True)


def existing(db: File) -> Path:
    """UsageError where there is no database: opening one to write to it would make it."""
    if not Path(db).exists():
        raise UsageError(f"no results database at {db}; `bandlens run STUDY.toml --db {quoted(db)}` makes one")
    return Path(db)
