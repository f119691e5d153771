"""Check the schema version of a database, and migrate databases of earlier versions.

migrations/0014_tables.sql creates the tables of version 14, the oldest version that can be migrated. Each later file,
migrations/VERSION_NAME.sql, converts the tables of the previous version into those of its own version. After all
migrations, the tables equal those of schema.sql, including the order of columns. A test verifies this.

A database of an earlier version may come from another person and is not trusted either. Its tables are compared with
those of its version, and only its rows are copied. Migrations run in the copy.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import duckdb

from ...core.errors import StoreError, quoted, some_of
from .catalogue import SCHEMA_VERSION, explain_columns, identifier, schema, schema_tables

PLAIN_TABLES = """
    SELECT table_name FROM duckdb_tables()
    WHERE database_name = ? AND schema_name = 'main' AND NOT contains(sql, ' GENERATED ')
"""
"""Query for tables without generated columns.

DuckDB computes a generated column each time it is read, and its expression might never terminate.
"""
TRIGGERS = "UNION ALL SELECT 'trigger', trigger_name, sql, database_name FROM duckdb_triggers()"
DEFINITIONS = f"""
    WITH definitions(kind, name, definition, file) AS (
        -- DuckDB 1 writes a default of false otherwise.
        SELECT 'table', concat_ws('.', schema_name, table_name), replace(sql, 'CAST(''f'' AS BOOLEAN)', 'false'),
            database_name FROM duckdb_tables()
        UNION ALL SELECT 'index', concat_ws('.', schema_name, index_name), sql, database_name FROM duckdb_indexes()
        {"" if duckdb.__version__.startswith("1.") else TRIGGERS}
        UNION ALL SELECT 'sequence', sequence_name, concat_ws(' ', min_value, max_value, increment_by, cycle),
            database_name FROM duckdb_sequences()
    )
    SELECT kind, name, coalesce(definition, '') FROM definitions WHERE file = ?
"""  # noqa: S608
"""Query for all definitions that affect how rows are stored.

DuckDB 1 has no triggers and cannot open a file that contains one.
"""
TABLE_OR_SEQUENCE = re.compile(r"^CREATE (?:TABLE|SEQUENCE) .*?;$", re.MULTILINE | re.DOTALL)
"""Matches the statements of schema.sql that create tables and sequences."""


@cache
def migrations() -> dict[int, str]:
    """Return the statements that migrate from the previous version, by schema version in ascending order."""
    files = {int(file.name[:4]): file for file in Path(__file__).with_name("migrations").glob("*.sql")}
    return {version: files[version].read_text(encoding="utf-8") for version in sorted(files)}


def tables_of(version: int) -> str:
    """Return the statements that create the empty tables of the current or an earlier schema version."""
    if version == SCHEMA_VERSION:
        return "".join(TABLE_OR_SEQUENCE.findall(schema()))
    return "".join(statements for number, statements in migrations().items() if number <= version)


@cache
def _definitions(version: int) -> frozenset[tuple[str, str, str]]:
    """Return kind, name and definition, as DuckDB formats it, of tables, indexes and sequences of a version."""
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        connection.execute(tables_of(version))
        return frozenset(connection.execute(DEFINITIONS, ["memory"]).fetchall())


def check_tables(
    connection: duckdb.DuckDBPyConnection, path: Path, file: str, exact: bool, migratable: bool = False
) -> int:
    """Check that a file is a results database of a supported schema version.

    Args:
        connection: Connection that looks up names in DuckDB's own catalog first; see `catalogue.TemporaryViews`.
        path: Path to name in error messages.
        file: Name of the database in the connection.
        exact: Require all definitions that affect stored rows to equal those of the schema. For example, a trigger
            could delete rows.
        migratable: Accept an earlier schema version that `migrate` supports.

    Returns:
        The schema version of the file.

    Raises:
        StoreError: The file is not a results database, has another schema version, or has modified tables.
    """
    tables = {name for (name,) in connection.execute(PLAIN_TABLES, [file]).fetchall()}
    if "meta" not in tables:
        raise StoreError(f"{path} is not a results database; name another file")
    query = f"SELECT schema_version, bandlens FROM {identifier(file)}.main.meta LIMIT 1"  # noqa: S608
    rows = connection.execute(query).fetchall()
    version, bandlens = rows[0] if rows else (None, None)
    is_earlier = isinstance(version, int) and version in migrations() and version < SCHEMA_VERSION
    if version != SCHEMA_VERSION and not (is_earlier and migratable):
        command = f"migrate it with: bandlens merge {quoted(path)} --out NEW.duckdb"
        raise StoreError(
            f"{path} has schema version {version} (written by bandlens {bandlens}), and this is version "
            f"{SCHEMA_VERSION}; {command if is_earlier else 'run the study again with a new --db'}"
        )
    differences = [f"table {name}" for name in schema_tables() if name not in tables]
    if exact or is_earlier:
        changes = frozenset(connection.execute(DEFINITIONS, [file]).fetchall()) ^ _definitions(version)
        differences = sorted({f"{kind} {name.removeprefix('main.')}" for kind, name, _ in changes})
    if differences:
        raise StoreError(
            f"{path} is not as bandlens made it: {some_of(differences)}; put that right with DuckDB, or run the study "
            "again with a new --db"
        )
    return int(version)


def migrate(connection: duckdb.DuckDBPyConnection, version: int) -> None:
    """Migrate a database to the current schema version, and create its views and column comments.

    Args:
        connection: Connection to a database with the tables and rows of an earlier or the current version, and without
            views.
        version: Schema version of these tables.
    """
    for number, statements in migrations().items():
        if number > version:
            connection.execute(statements)
    connection.execute("BEGIN")
    connection.execute("UPDATE meta SET schema_version = ?", [SCHEMA_VERSION])
    connection.execute(TABLE_OR_SEQUENCE.sub("", schema()))
    explain_columns(connection)
    connection.execute("COMMIT")
