"""Parse schema.sql, and protect connections from definitions in untrusted database files.

A database file from another person can contain a view that returns false results or never terminates, or a macro that
has the name of a DuckDB function. For this reason, only the tables of a file are used. DuckDB looks up names in its own
catalog first, and each connection creates the views and macros of schema.sql as temporary objects, which take
precedence over all others. The views stored in a file serve people who open it with DuckDB directly.
"""

from __future__ import annotations

import re
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from uuid import uuid4

import duckdb

from ...core.protocol import LEAST_PROBABILITY, OCTAVE_PROBE, STIMULI, STIMULUS_PROBES, UNCOUNTED_CONDITIONS

SCHEMA_VERSION = 15
LISTING_WORDS = frozenset({"show", "information_schema"})
"""Keywords of statements that list tables and views."""

COLUMNS = "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal ORDER BY table_oid, column_index"
EVERY = "every"
"""Section of columns.toml with the columns that have the same meaning in all tables and views."""


@cache
def schema() -> str:
    """Return the SQL script that creates an empty results database."""
    sets, probes = ", ".join(map(repr, STIMULI)), ", ".join(str((name, *row)) for name, row in STIMULUS_PROBES.items())
    uncounted = ", ".join(
        str((name, shown)) for name, conditions in UNCOUNTED_CONDITIONS.items() for shown in conditions
    )
    text = Path(__file__).with_name("schema.sql").read_text(encoding="utf-8")
    text = text.replace("(STIMULUS_SETS)", f"({sets})").replace("(VALUES STIMULUS_PROBES)", f"(VALUES {probes})")
    text = text.replace("(UNCOUNTED_CONDITIONS)", f"({uncounted})")
    return text.replace("(LEAST_PROBABILITY)", str(LEAST_PROBABILITY)).replace("(OCTAVE_PROBE)", repr(OCTAVE_PROBE))


@dataclass(frozen=True, slots=True)
class TableSchema:
    """Columns and key of a table in schema.sql."""

    columns: dict[str, str]
    """Column name -> SQL type, in the order of definition."""
    key: tuple[str, ...]
    """Columns that identify a row, apart from the id. Empty if the schema declares no key."""

    def others(self, *columns: str) -> list[str]:
        """Return the names of all columns except the given ones."""
        return [name for name in self.columns if name not in columns]


@cache
def tables() -> dict[str, TableSchema]:
    """Return the tables of schema.sql by name.

    Lists of columns elsewhere are derived from this result, so that a new column is included everywhere.
    """
    definitions = re.findall(r"^CREATE TABLE (\w+) \((.*?)\);$", schema(), re.MULTILINE | re.DOTALL)
    return {name: _parse_table(definition) for name, definition in definitions}


def _parse_table(definition: str) -> TableSchema:
    """Parse the text between the parentheses of CREATE TABLE."""
    columns, keys = dict[str, str](), list[tuple[str, ...]]()
    for part in re.split(r",(?![^(]*\))", definition):  # split at commas outside parentheses
        name, rest = part.strip().split(maxsplit=1)
        if name in ("PRIMARY", "UNIQUE"):
            keys.append(tuple(re.findall(r"\w+", rest.partition("(")[2])))
            continue
        columns[name] = rest.split(maxsplit=1)[0]
        if rest.endswith(" UNIQUE"):
            keys.append((name,))
    return TableSchema(columns, keys[0] if keys else ())


def schema_tables() -> tuple[str, ...]:
    """Return the names of all tables in the schema."""
    return tuple(tables())


def tables_with(column: str) -> tuple[str, ...]:
    """Return the names of the tables that have `column` as an integer id."""
    return tuple(name for name, table in tables().items() if table.columns.get(column) == "INTEGER")


@cache
def temporary_definitions() -> dict[str, str]:
    """Return the statement that creates each view and macro of the schema as a temporary object, by name.

    The order is that of schema.sql: each definition refers only to earlier ones.
    """
    statements = re.findall(r"^CREATE (VIEW|MACRO) (\w+)(.*?;)$", schema(), re.MULTILINE | re.DOTALL)
    return {name: f"CREATE TEMP {kind} {name}{rest}" for kind, name, rest in statements}


def text(value: str) -> str:
    """Quote a string literal for SQL."""
    return "'" + value.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Quote an identifier for SQL."""
    return '"' + name.replace('"', '""') + '"'


@lru_cache(1000)
def words_of(sql: str) -> frozenset[str]:
    """Return the identifiers and keywords in a statement, in lower case. Text literals and comments are excluded."""
    data, tokens = sql.encode(), duckdb.tokenize(sql)
    ends = [start for start, _ in tokens[1:]] + [len(data)]
    code = b" ".join(
        data[start:end].split(maxsplit=1)[0]  # drops a trailing comment, which DuckDB 1 includes in the token
        for (start, kind), end in zip(tokens, ends, strict=True)
        if kind in (duckdb.token_type.identifier, duckdb.token_type.keyword)
    )
    return frozenset(re.findall(r"\w+", code.decode(errors="replace").lower()))


def _clustered_interval(correct: list[int], counts: list[int]) -> list[float]:
    """Call `intervals.clustered_interval`, whose libraries take longer to import than most queries take to run."""
    from .intervals import clustered_interval

    return clustered_interval(correct, counts)


class TemporaryViews:
    """Temporary views and macros of one connection.

    A view is created when a statement first names it, because creating all of them takes longer than most queries. In a
    read-only connection, unqualified names never refer to objects in the file: each table is accessed through a
    temporary view. A writer cannot insert into a view, so its search path includes the tables of the file, after
    DuckDB's own catalog.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, read_only: bool) -> None:
        self._connection = connection
        ((self.file,),) = connection.execute("SELECT system.main.current_database()").fetchall()
        main = f"{identifier(self.file)}.main"
        connection.execute("SET search_path = ?", ["system.main" if read_only else f"system.main,{main}"])
        names = schema_tables() if read_only else ()
        self._definitions = {name: f"CREATE TEMP VIEW {name} AS FROM {main}.{name}" for name in names}
        self._definitions |= temporary_definitions()
        # Connections to the same file in one process share their Python functions. If a connection used a function that
        # a closed connection had registered, DuckDB would call freed code. Each connection therefore registers its own
        # function under a unique name, and its macro calls that function.
        self._function = f"clustered_interval_{uuid4().hex}"
        connection.create_function(self._function, _clustered_interval, ["BIGINT[]", "BIGINT[]"], "DOUBLE[]")
        self._definitions["clustered_interval"] = (
            f"CREATE TEMP MACRO clustered_interval(correct, counts) AS {self._function}(correct, counts)"
        )
        self.names = frozenset[str]()

    def close(self) -> None:
        """Remove the Python function. Call this before closing the connection."""
        with suppress(duckdb.Error):  # DuckDB cannot remove a function after an error in a transaction
            self._connection.remove_function(self._function)

    def make(self, sql: str) -> None:
        """Create the views and macros that a statement names, and those that they depend on."""
        words = words_of(sql)
        names = set(self._definitions) if words & LISTING_WORDS else words & self._definitions.keys()
        names -= self.names
        # Definitions refer only to earlier ones, so a single pass in reverse order finds all dependencies.
        for name, definition in reversed(self._definitions.items()):
            if name in names:
                names |= (words_of(definition) & self._definitions.keys()) - self.names
        for name, definition in self._definitions.items():
            if name in names:
                self._connection.execute(definition)
        self.names |= names


def explain_columns(connection: duckdb.DuckDBPyConnection) -> None:
    """Store the meaning of each column of each table and view as a comment in the database.

    Raises:
        KeyError: A column has no meaning in columns.toml.
    """
    meanings = read_meanings()
    comments = []
    for table, column in connection.execute(COLUMNS).fetchall():
        meaning = meanings.get((table, column)) or meanings[EVERY, column]
        comments.append(f"COMMENT ON COLUMN {table}.{column} IS {text(meaning)}")
    connection.execute("; ".join(comments))


def read_meanings() -> dict[tuple[str, str], str]:
    """Return the meaning of each column by its table or view, or `EVERY`, and its name."""
    sections = tomllib.loads(Path(__file__).with_name("columns.toml").read_text(encoding="utf-8"))
    return {
        (table, column): meaning
        for title, columns in sections.items()
        for table in title.split(", ")
        for column, meaning in columns.items()
    }
