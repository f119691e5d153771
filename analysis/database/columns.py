"""The comments of the columns of a results database, which columns.toml has once for each meaning."""

from __future__ import annotations

import tomllib
from importlib.resources import files

import duckdb

COLUMNS = "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal ORDER BY table_oid, column_index"
EVERY = "every"
"""Title of the section of columns.toml that speaks of every table and view."""


def explain_columns(connection: duckdb.DuckDBPyConnection) -> None:
    """Write the meaning of every column of every table and view into a database; KeyError for one without a meaning."""
    meanings = read_meanings()
    comments = []
    for table, column in connection.execute(COLUMNS).fetchall():
        meaning = (meanings.get((table, column)) or meanings[EVERY, column]).replace("'", "''")
        comments.append(f"COMMENT ON COLUMN {table}.{column} IS '{meaning}'")
    connection.execute("; ".join(comments))


def read_meanings() -> dict[tuple[str, str], str]:
    """The meaning of each column by the table or view, or EVERY, and its name."""
    sections = tomllib.loads(files(__package__).joinpath("columns.toml").read_text(encoding="utf-8"))
    return {
        (table, column): meaning
        for title, columns in sections.items()
        for table in title.split(", ")
        for column, meaning in columns.items()
    }
