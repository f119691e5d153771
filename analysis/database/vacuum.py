"""Giving the room of deleted rows back: DuckDB uses it again, but lets a file shrink at its end alone."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from ...errors import StoreError
from ...partial_files import partial_prefix
from .errors import explained
from .open import MEMORY_LIMIT, create, open_store

TABLES = "SELECT table_name FROM duckdb_tables() WHERE database_name = 'old' AND NOT internal"
LAST_ID = "SELECT coalesce(last_value, 0) FROM duckdb_sequences() WHERE database_name = 'old'"


def vacuum(path: Path) -> tuple[int, int]:
    """Write a results database anew without what it no longer holds; its size before and after, in bytes.

    The new file takes the name when it is whole. StoreError where another process has the database open, or the disk
    has no room for both.
    """
    with open_store(path):  # its schema is as it should be, and its log becomes part of it
        pass
    before = path.stat().st_size
    try:
        with TemporaryDirectory(prefix=partial_prefix(path), dir=path.parent) as folder:
            draft = Path(folder) / path.name
            create(draft)
            _copy(path, draft, folder)
        return before, path.stat().st_size
    except OSError as error:
        raise StoreError(f"cannot write {path} anew: {error.strerror}; it is as it was") from error


def _copy(path: Path, draft: Path, folder: str) -> None:
    """Fill the draft and put it in place, while nobody else can open the database."""
    with (
        explained(path),
        duckdb.connect(":memory:", config={"memory_limit": MEMORY_LIMIT, "temp_directory": folder}) as connection,
    ):
        connection.execute("SET enable_progress_bar = false")
        for file, name in ((path, "old"), (draft, "new")):
            quoted = str(file).replace("'", "''")
            connection.execute(f"ATTACH '{quoted}' AS {name}")
        for (table,) in connection.execute(TABLES).fetchall():
            connection.execute(f"DELETE FROM new.{table}")  # `create` says when that was
            connection.execute(f"INSERT INTO new.{table} FROM old.{table}")
        (last,) = connection.execute(LAST_ID).fetchone() or (0,)
        connection.execute("SELECT max(nextval('new.id')) FROM range(?)", [last])
        connection.execute("DETACH new")
        draft.replace(path)
