"""The names in a results database: what schema.sql defines, and how little of a file's own definitions is used.

A file from somebody else can hold a view that lies or never ends, or a macro that is named like a function of DuckDB.
So nothing of a file is used but its tables. Names are looked up in DuckDB's own catalogue first, and each connection
makes the views and macros of schema.sql for itself, as temporary ones, which come before all others. Those that a file
holds are for people who open it with DuckDB.
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
"""Words of statements that list the names there are."""

COLUMNS = "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal ORDER BY table_oid, column_index"
EVERY = "every"
"""Title of the section of columns.toml that speaks of every table and view."""


@cache
def schema() -> str:
    """The SQL that makes an empty results database."""
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
    """A table of schema.sql."""

    columns: dict[str, str]
    """Column -> its type, in order."""
    key: tuple[str, ...]
    """The columns that tell its rows apart, other than the id; none where nothing in the schema says so."""

    def others(self, *columns: str) -> list[str]:
        """All columns but these."""
        return [name for name in self.columns if name not in columns]


@cache
def tables() -> dict[str, TableSchema]:
    """The tables of schema.sql by name. Lists of columns are taken from here, so a new column is in all of them."""
    definitions = re.findall(r"^CREATE TABLE (\w+) \((.*?)\);$", schema(), re.MULTILINE | re.DOTALL)
    return {name: _parse_table(definition) for name, definition in definitions}


def _parse_table(definition: str) -> TableSchema:
    """Parse what stands between the parentheses of CREATE TABLE."""
    columns, keys = dict[str, str](), list[tuple[str, ...]]()
    for part in re.split(r",(?![^(]*\))", definition):  # the commas that no parentheses enclose
        name, rest = part.strip().split(maxsplit=1)
        if name in ("PRIMARY", "UNIQUE"):
            keys.append(tuple(re.findall(r"\w+", rest.partition("(")[2])))
            continue
        columns[name] = rest.split(maxsplit=1)[0]
        if rest.endswith(" UNIQUE"):
            keys.append((name,))
    return TableSchema(columns, keys[0] if keys else ())


def schema_tables() -> tuple[str, ...]:
    """The names of the schema's tables."""
    return tuple(tables())


def tables_with(column: str) -> tuple[str, ...]:
    """The names of the schema's tables that have a column of ids."""
    return tuple(name for name, table in tables().items() if table.columns.get(column) == "INTEGER")


@cache
def temporary_definitions() -> dict[str, str]:
    """Name -> the statement that makes a view or macro of the schema as a temporary one. Each names earlier ones."""
    statements = re.findall(r"^CREATE (VIEW|MACRO) (\w+)(.*?;)$", schema(), re.MULTILINE | re.DOTALL)
    return {name: f"CREATE TEMP {kind} {name}{rest}" for kind, name, rest in statements}


def text(value: str) -> str:
    """A text as a statement has it."""
    return "'" + value.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A name as a statement has it."""
    return '"' + name.replace('"', '""') + '"'


@lru_cache(1000)
def words_of(sql: str) -> frozenset[str]:
    """The words of a statement, without those in texts and comments."""
    data, tokens = sql.encode(), duckdb.tokenize(sql)
    ends = [start for start, _ in tokens[1:]] + [len(data)]
    code = b" ".join(
        data[start:end].split(maxsplit=1)[0]  # a comment may follow, which is a token to DuckDB 2 alone
        for (start, kind), end in zip(tokens, ends, strict=True)
        if kind in (duckdb.token_type.identifier, duckdb.token_type.keyword)
    )
    return frozenset(re.findall(r"\w+", code.decode(errors="replace").lower()))


def _clustered_interval(correct: list[int], counts: list[int]) -> list[float]:
    """`intervals.clustered_interval`, whose libraries take longer to import than most queries take."""
    from .intervals import clustered_interval

    return clustered_interval(correct, counts)


class TemporaryViews:
    """The temporary views and macros of a connection.

    They are made where a statement names them, since to make all takes longer than most queries. A reader finds
    nothing of the file by its bare name: of each table it has a temporary view. A writer, who cannot write to a view,
    finds the file's tables, after all else.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, read_only: bool) -> None:
        self._connection = connection
        ((self.file,),) = connection.execute("SELECT system.main.current_database()").fetchall()
        main = f"{identifier(self.file)}.main"
        connection.execute("SET search_path = ?", ["system.main" if read_only else f"system.main,{main}"])
        names = schema_tables() if read_only else ()
        self._definitions = {name: f"CREATE TEMP VIEW {name} AS FROM {main}.{name}" for name in names}
        self._definitions |= temporary_definitions()
        # Connections to one file in one process share their functions, and one that outlives its connection would run
        # code that is gone. So each connection has a function of its own, and its macro calls that.
        self._function = f"clustered_interval_{uuid4().hex}"
        connection.create_function(self._function, _clustered_interval, ["BIGINT[]", "BIGINT[]"], "DOUBLE[]")
        self._definitions["clustered_interval"] = (
            f"CREATE TEMP MACRO clustered_interval(correct, counts) AS {self._function}(correct, counts)"
        )
        self.names = frozenset[str]()

    def close(self) -> None:
        """Remove the function of Python, before the connection is closed."""
        with suppress(duckdb.Error):  # after an error in a transaction nothing can be removed
            self._connection.remove_function(self._function)

    def make(self, sql: str) -> None:
        """Make what a statement names, and what that is made of."""
        words = words_of(sql)
        names = set(self._definitions) if words & LISTING_WORDS else words & self._definitions.keys()
        names -= self.names
        for name, definition in reversed(self._definitions.items()):
            if name in names:
                names |= (words_of(definition) & self._definitions.keys()) - self.names
        for name, definition in self._definitions.items():
            if name in names:
                self._connection.execute(definition)
        self.names |= names


def explain_columns(connection: duckdb.DuckDBPyConnection) -> None:
    """Write the meaning of every column of every table and view into a database; KeyError for one without a meaning."""
    meanings = read_meanings()
    comments = []
    for table, column in connection.execute(COLUMNS).fetchall():
        meaning = meanings.get((table, column)) or meanings[EVERY, column]
        comments.append(f"COMMENT ON COLUMN {table}.{column} IS {text(meaning)}")
    connection.execute("; ".join(comments))


def read_meanings() -> dict[tuple[str, str], str]:
    """The meaning of each column by the table or view, or EVERY, and its name."""
    sections = tomllib.loads(Path(__file__).with_name("columns.toml").read_text(encoding="utf-8"))
    return {
        (table, column): meaning
        for title, columns in sections.items()
        for table in title.split(", ")
        for column, meaning in columns.items()
    }
