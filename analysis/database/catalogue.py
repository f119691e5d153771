"""Whether a results database holds the tables, views and macros of schema.sql, and nothing beside them.

A file from somebody else can hold a view, or a macro named like a function, that reads what this user can read, or
never ends. So none of a file is run before all of them have been compared with the schema.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import duckdb

Entry = tuple[str, str]
"""The sort of thing that it is, and its name; with its schema where that is not main."""

CATALOGUE = """
    WITH entries(kind, space, name, definition, file) AS (
        SELECT 'table', schema_name, table_name, sql, database_name FROM duckdb_tables()
        UNION ALL SELECT 'view', schema_name, view_name, sql, database_name FROM duckdb_views()
        UNION ALL SELECT 'index', schema_name, index_name, sql, database_name FROM duckdb_indexes()
        UNION ALL SELECT 'sequence', schema_name, sequence_name, '', database_name FROM duckdb_sequences()
        UNION ALL SELECT 'trigger', schema_name, trigger_name, sql, database_name FROM duckdb_triggers()
        UNION ALL SELECT 'schema', 'main', schema_name, '', database_name FROM duckdb_schemas() WHERE NOT internal
        UNION ALL SELECT 'macro', schema_name, function_name,
            string_agg(concat_ws(' ', parameters, macro_definition), ';' ORDER BY macro_definition), database_name
        FROM duckdb_functions() WHERE function_type LIKE '%macro' GROUP BY ALL
    )
    SELECT kind, IF(space = 'main', '', space || '.') || name, definition FROM entries WHERE file = current_database()
"""


def schema() -> str:
    """The SQL that makes an empty results database."""
    return files(__package__).joinpath("schema.sql").read_text(encoding="utf-8")


def differences(connection: duckdb.DuckDBPyConnection) -> dict[Entry, str]:
    """What the database has otherwise than the schema: for each, 'added', 'changed' or 'missing'."""
    found, wanted = _catalogue(connection), _of_schema()
    differing: dict[Entry, str] = {}
    for entry in sorted(found.keys() | wanted.keys()):
        if entry not in wanted:
            differing[entry] = "added"
        elif entry not in found:
            differing[entry] = "missing"
        elif found[entry] != wanted[entry]:
            differing[entry] = "changed"
    return differing


@cache
def _of_schema() -> dict[Entry, str]:
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        connection.execute(schema())
        return _catalogue(connection)


def _catalogue(connection: duckdb.DuckDBPyConnection) -> dict[Entry, str]:
    """The definition of every entry, as DuckDB writes it. Reading them runs none."""
    return {(kind, name): definition for kind, name, definition in connection.execute(CATALOGUE).fetchall()}
