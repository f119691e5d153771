"""Giving the room of deleted rows back: DuckDB uses that room again, but shortens a file at its end alone."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from ...core.errors import StoreError
from ...core.files import behind_links, partial_prefix, take_name
from .open import attach, copying, open_store, write_empty

TABLES = "SELECT table_name FROM duckdb_tables() WHERE database_name = 'old' AND NOT internal"
CONTINUE_IDS = (
    "SELECT setval('new.id', last_value) FROM duckdb_sequences() WHERE database_name = 'old' AND last_value > 0"
)


def vacuum(path: Path) -> tuple[int, int]:
    """Write a results database anew without the room of what was deleted; gives its size before and after, in bytes.

    The new file takes the name when it is whole. Raises StoreError where another process has the database open, or the
    disk has no room for both.
    """
    path = behind_links(path)
    with open_store(path):  # checks what it defines, and makes its log a part of it
        pass
    size_before = path.stat().st_size
    try:
        with TemporaryDirectory(prefix=partial_prefix(path), dir=path.parent) as folder:
            draft = Path(folder) / path.name
            write_empty(draft, path)
            _copy(path, draft, folder)
        return size_before, path.stat().st_size
    except OSError as error:
        raise StoreError(f"cannot write {path} anew: {error.strerror}; it is as it was") from error


def _copy(path: Path, draft: Path, folder: str) -> None:
    """Fill the draft and put it in place, while nobody else can open the database."""
    with copying(path, folder) as connection:
        attach(connection, path, "old")
        attach(connection, path, "new", draft)
        for (table,) in connection.execute(TABLES).fetchall():
            connection.execute(f"DELETE FROM new.{table}")  # `write_empty` has made the row of meta
            connection.execute(f"INSERT INTO new.{table} FROM old.{table}")
        connection.execute(CONTINUE_IDS).fetchall()
        connection.execute("DETACH new")
        take_name(draft, path)
