"""Which statements a database that is open for reading takes: those that can do nothing but read it."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb

from ..errors import StoreError

READING = ("SELECT", "MULTI", "EXPLAIN")
"""SELECT is also FROM, WITH, VALUES, DESCRIBE, SHOW and SUMMARIZE; MULTI is PIVOT."""


def check_reading(connection: duckdb.DuckDBPyConnection, sql: str, path: Path) -> None:
    """StoreError for any other statement of `sql`.

    DuckDB refuses what would change a database that it opened for reading, and files elsewhere. But it lets EXPORT and
    COPY write into the folder beside the database in which it puts what does not fit into memory.
    """
    for statement in connection.extract_statements(sql):
        try:
            kind = statement.type.name
        except ValueError:  # one that DuckDB's Python does not know
            kind = statement.query.split(maxsplit=1)[0].upper()
        if kind == "EXPLAIN" and re.search(r"\bcopy\b", statement.query, re.IGNORECASE):
            kind = "EXPLAIN of COPY"
        if kind not in READING:
            raise StoreError(
                f"{path} is open for reading alone, which {kind} is not; ask with SELECT, FROM, PIVOT, DESCRIBE, SHOW, "
                "SUMMARIZE or EXPLAIN"
            )
