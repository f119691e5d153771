"""The names in a results database: what schema.sql defines, and how little of a file's own definitions is used.

A file from somebody else can hold a view that lies or never ends, or a macro that is named like a function of DuckDB.
So nothing of a file is used but its tables. Names are looked up in DuckDB's own catalogue first, and each connection
makes the views and macros of schema.sql for itself, as temporary ones, which come before all others. Those that a file
holds are for people who open it with DuckDB.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache, lru_cache
from pathlib import Path

import duckdb

from ...core.errors import StoreError, some_of
from ...core.protocol import LEAST_PROBABILITY, OCTAVE_PROBE, STIMULI, STIMULUS_PROBES, UNCOUNTED_CONDITIONS

SCHEMA_VERSION = 14
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


@cache
def schema_tables() -> tuple[str, ...]:
    """The names of the schema's tables."""
    return tuple(re.findall(r"^CREATE TABLE (\w+)", schema(), re.MULTILINE))


@cache
def tables_with(column: str) -> tuple[str, ...]:
    """The names of the schema's tables that have a column of ids."""
    tables = re.findall(r"^CREATE TABLE (\w+) \((.*?)\);$", schema(), re.MULTILINE | re.DOTALL)
    return tuple(name for name, columns in tables if re.search(rf"\b{column} INTEGER\b", columns))


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
        tables = schema_tables() if read_only else ()
        self._definitions = {name: f"CREATE TEMP VIEW {name} AS FROM {main}.{name}" for name in tables}
        self._definitions |= temporary_definitions()
        self.names = frozenset[str]()

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


def check_tables(connection: duckdb.DuckDBPyConnection, path: Path, file: str, exact: bool) -> None:
    """StoreError for a file that holds no results, or those of another schema, or whose tables are none.

    Args:
        connection: names are looked up in DuckDB's own catalogue, see `TemporaryViews`.
        path: names the file in errors.
        file: its name in the connection.
        exact: everything that has a part in storing rows has to be as bandlens makes it: a trigger could delete some.
    """
    tables = {name for (name,) in connection.execute(PLAIN_TABLES, [file]).fetchall()}
    if "meta" not in tables:
        raise StoreError(f"{path} is not a results database; name another file")
    query = f"SELECT schema_version, bandlens FROM {identifier(file)}.main.meta LIMIT 1"  # noqa: S608
    rows = connection.execute(query).fetchall()
    version, bandlens = rows[0] if rows else (None, None)
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema version {version} (written by bandlens {bandlens}), and this is version "
            f"{SCHEMA_VERSION}; run the study again with a new --db"
        )
    differences = [f"table {name}" for name in schema_tables() if name not in tables]
    if exact:
        changes = frozenset(connection.execute(DEFINITIONS, [file]).fetchall()) ^ _schema_definitions()
        differences = sorted({f"{kind} {name.removeprefix('main.')}" for kind, name, _ in changes})
    if differences:
        raise StoreError(
            f"{path} is not as bandlens made it: {some_of(differences)}; put that right with DuckDB, or run the study "
            "again with a new --db"
        )


@cache
def _schema_definitions() -> frozenset[tuple[str, str, str]]:
    """The kind, name and definition, as DuckDB writes it, of an empty database's tables and sequence."""
    statements = re.findall(r"^CREATE (?:TABLE|SEQUENCE) .*?;$", schema(), re.MULTILINE | re.DOTALL)
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        connection.execute("".join(statements))
        return frozenset(connection.execute(DEFINITIONS, ["memory"]).fetchall())


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
