"""Schema versions: whether the tables of a file are those of one, and how those of an earlier one become today's.

migrations/0014_tables.sql makes the tables of version 14, the oldest one that is migrated. Each later file,
migrations/VERSION_NAME.sql, makes the tables of its version from those of the version before it. The files together
make the tables of schema.sql, column by column in the same order: a test compares the two.

An earlier file is from somebody else as a present one may be. It is compared with the tables of its version, and
nothing but its rows is copied; the statements of a migration run in the copy.
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
"""Tables whose rows are stored: a column may be computed as it is read, by an expression that never ends."""
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
"""All definitions that have a part in storing rows. DuckDB 1 has no triggers, and opens no file that holds one."""
TABLE_OR_SEQUENCE = re.compile(r"^CREATE (?:TABLE|SEQUENCE) .*?;$", re.MULTILINE | re.DOTALL)
"""The statements of schema.sql that make what rows are stored in."""


@cache
def migrations() -> dict[int, str]:
    """Schema version -> the statements that make its tables from those of the version before, in ascending order."""
    files = {int(file.name[:4]): file for file in Path(__file__).with_name("migrations").glob("*.sql")}
    return {version: files[version].read_text(encoding="utf-8") for version in sorted(files)}


def tables_of(version: int) -> str:
    """The statements that make the empty tables of a schema version, a present or an earlier one."""
    if version == SCHEMA_VERSION:
        return "".join(TABLE_OR_SEQUENCE.findall(schema()))
    return "".join(statements for number, statements in migrations().items() if number <= version)


@cache
def _definitions(version: int) -> frozenset[tuple[str, str, str]]:
    """The kind, name and definition, as DuckDB writes it, of the tables and the sequence of a schema version."""
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        connection.execute(tables_of(version))
        return frozenset(connection.execute(DEFINITIONS, ["memory"]).fetchall())


def check_tables(
    connection: duckdb.DuckDBPyConnection, path: Path, file: str, exact: bool, migratable: bool = False
) -> int:
    """Refuse a file that holds no results, or those of another schema, or whose tables are none; give its version.

    Args:
        connection: names are looked up in DuckDB's own catalogue, see `catalogue.TemporaryViews`.
        path: names the file in errors.
        file: its name in the connection.
        exact: everything that has a part in storing rows has to be as bandlens makes it: a trigger could delete some.
        migratable: the file may be of an earlier schema version that `migrate` takes.

    Raises:
        StoreError: the file is refused.
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
    """Make a present database from one that has the tables and rows of a schema version, and no views."""
    for number, statements in migrations().items():
        if number > version:
            connection.execute(statements)
    connection.execute("BEGIN")
    connection.execute("UPDATE meta SET schema_version = ?", [SCHEMA_VERSION])
    connection.execute(TABLE_OR_SEQUENCE.sub("", schema()))
    explain_columns(connection)
    connection.execute("COMMIT")
