"""Databases of earlier schema versions, brought to this one.

The rows are copied into a new file with this version's schema, and only when all of them are there does it take the old
file's place. What `analyze` and `gate` computed is copied as it was.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import StoreError, UsageError
from .store import SCHEMA_VERSION, Store, check_magic, connected, create, version_of

NEW_COLUMNS: Mapping[int, Mapping[str, Mapping[str, str]]] = {
    1: {
        "image_set": {"decision_space": "'all'"},
        "session": {"graph_sha256": "model_sha256"},
        "cell": {
            "graph_sha256": "(SELECT model_sha256 FROM old.checkpoint AS c WHERE c.id = cell.checkpoint)",
        },
    },
}
"""By the version that a database has: table -> column that it lacks -> what the rows of that version have in it."""


def migrate(path: Path) -> Path | None:
    """Bring a results database to this schema version; gives the old file's new name, or None where it is up to date.

    Raises:
        UsageError: there is no such file.
        StoreError: no way leads from its version to this one, or its new name is taken. The file stays as it is.
    """
    if not path.exists():
        raise UsageError(f"no results database at {path}; name one")
    check_magic(path)
    with connected(path, path) as store:  # for writing: closing it leaves no log behind
        version, made_by = version_of(store)
    if version == SCHEMA_VERSION:
        return None
    if version not in NEW_COLUMNS:
        raise StoreError(f"{path} has schema version {version} (written by bandlens {made_by}); use that release")
    kept = path.with_name(f"{path.name}.v{version}")
    if kept.exists() and not kept.samefile(path):
        raise StoreError(f"{kept} is in the way: the old database is to be kept under that name; move it elsewhere")
    try:
        with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            create(draft)
            with connected(draft, path) as store:
                _copy(store, path, NEW_COLUMNS[version])
                store.execute("CHECKPOINT")
            if not kept.exists():
                os.link(path, kept)
            draft.replace(path)
    except OSError as error:
        raise StoreError(f"cannot migrate {path}: {error.strerror}; it is as it was") from error
    return kept


def _copy(store: Store, path: Path, new: Mapping[str, Mapping[str, str]]) -> None:
    quoted = str(path).replace("'", "''")
    store.execute(f"ATTACH '{quoted}' AS old (READ_ONLY)")
    columns = store.frame(
        "SELECT mine.table_name AS name, list(mine.column_name) FILTER (theirs.column_name IS NOT NULL) AS common "
        "FROM duckdb_columns() AS mine JOIN duckdb_tables() AS own USING (database_name, table_name) "
        "LEFT JOIN duckdb_columns() AS theirs ON theirs.database_name = 'old' "
        "AND theirs.table_name = mine.table_name AND theirs.column_name = mine.column_name "
        "WHERE mine.database_name = current_database() AND mine.table_name <> 'meta' GROUP BY ALL"
    )
    with store.transaction():
        for name, common in columns.rows():
            if not common:
                continue  # a table that the old version does not have
            values = {column: f"{name}.{column}" for column in common} | dict(new.get(name, {}))
            chosen = f"SELECT {', '.join(values.values())} FROM old.{name} AS {name}"
            store.execute(f"INSERT INTO {name} ({', '.join(values)}) {chosen}")
        store.execute(
            "SELECT nextval('id') FROM range((SELECT max(id) FROM (SELECT id FROM checkpoint UNION ALL "
            "SELECT id FROM image_set UNION ALL SELECT id FROM condition UNION ALL SELECT id FROM session UNION ALL "
            "SELECT id FROM study UNION ALL SELECT id FROM cell)))"
        )
