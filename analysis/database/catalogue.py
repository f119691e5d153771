"""Comparison of what a results database defines with what schema.sql defines.

A file from somebody else can hold a view, or a macro named like a function, that reads what this user can read, or
never ends. So nothing that it defines is run before all of it has been compared. The comparison itself names functions
too, and so it looks names up in DuckDB's own catalogue alone: see `names_of_duckdb`. Listing a catalogue writes
definitions out, and binds and evaluates none of them.

`python -P -m bandlens.analysis.database.catalogue > analysis/database/catalogue.json` writes the digest of the schema's
definitions again: making an empty database takes ten times as long as reading that.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path

import duckdb

from ...core.errors import StoreError, some_of
from ...core.protocol import STIMULI, STIMULUS_PROBES

SCHEMA_VERSION = 12
Entry = tuple[str, str]
"""The kind of a thing that a file defines, and its name; with its schema where that is not main."""
Definition = tuple[str, str, str]
"""Kind, name, and the definition as DuckDB writes it. An overloaded macro has several."""

DEFINITIONS = """
    WITH definitions(kind, space, name, definition, file) AS (
        SELECT 'table', schema_name, table_name, sql, database_name FROM duckdb_tables()
        UNION ALL SELECT 'view', schema_name, view_name, sql, database_name FROM duckdb_views()
        UNION ALL SELECT 'index', schema_name, index_name, sql, database_name FROM duckdb_indexes()
        UNION ALL SELECT 'trigger', schema_name, trigger_name, sql, database_name FROM duckdb_triggers()
        UNION ALL SELECT 'schema', 'main', concat_ws('.', parent_schema, schema_name), '', database_name
        FROM duckdb_schemas()
        UNION ALL SELECT 'type', schema_name, type_name, concat_ws(' ', logical_type, labels), database_name
        FROM duckdb_types() WHERE concat_ws(' ', type_name, logical_type) NOT IN
            (SELECT concat_ws(' ', type_name, logical_type) FROM duckdb_types() WHERE database_name = 'system')
        UNION ALL SELECT 'sequence', schema_name, sequence_name,
            concat_ws(' ', min_value, max_value, increment_by, cycle), database_name
        FROM duckdb_sequences()
        UNION ALL SELECT 'macro', schema_name, function_name,
            concat_ws(' ', function_type, parameters, parameter_types, varargs, macro_definition), database_name
        FROM duckdb_functions()
    )
    SELECT kind, IF(space = 'main', '', space || '.') || name AS name, coalesce(definition, '') AS definition
    FROM definitions WHERE file = ? ORDER BY ALL
"""
"""This lists all that a file can define: DuckDB stores no other kinds of things in one."""
SCHEMA_FILE = Path(__file__).with_name("schema.sql")
DIGEST_FILE = Path(__file__).with_name("catalogue.json")


def schema() -> str:
    """The SQL that makes an empty results database."""
    sets, probes = ", ".join(map(repr, STIMULI)), ", ".join(str((name, *row)) for name, row in STIMULUS_PROBES.items())
    text = SCHEMA_FILE.read_text(encoding="utf-8")
    return text.replace("(STIMULUS_SETS)", f"({sets})").replace("(VALUES STIMULUS_PROBES)", f"(VALUES {probes})")


@cache
def schema_macros() -> frozenset[str]:
    """Names of the macros that the schema defines: a file that opens has these, and no others."""
    return frozenset(re.findall(r"^CREATE MACRO (\w+)", schema(), re.MULTILINE))


@contextmanager
def names_of_duckdb(connection: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Look names up in DuckDB's own catalogue, and in no file's; gives the name of the connection's file.

    A macro that a file names like a function of DuckDB, or like an operator, would be called in its place.
    """
    ((file,),) = connection.execute("SELECT system.main.current_database()").fetchall()
    connection.execute("SET search_path = 'system.main'")
    try:
        yield str(file)
    finally:
        connection.execute("RESET search_path")


def differences(connection: duckdb.DuckDBPyConnection, file: str | None = None) -> dict[Entry, str]:
    """How what a file defines differs from the schema: for each thing, 'added', 'changed' or 'missing'.

    `file` is the name of an attached file; by default it is that of the connection's own.
    """
    definitions = _definitions(connection, file)
    if _digest(definitions) == _schema_digest():
        return {}
    file_entries, schema_entries = _by_entry(definitions), _by_entry(_schema_definitions())
    states: dict[Entry, str] = {}
    for entry in sorted(file_entries.keys() | schema_entries.keys()):
        if entry not in schema_entries:
            states[entry] = "added"
        elif entry not in file_entries:
            states[entry] = "missing"
        elif file_entries[entry] != schema_entries[entry]:
            states[entry] = "changed"
    return states


def check_definitions(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """StoreError for a file that holds no results, those of another schema, or anything that bandlens did not make.

    Nothing that `path` defines is run. duckdb.Error is raised where its definitions cannot be listed.
    """
    states = differences(connection)
    if states.get(("table", "meta")) == "missing":
        raise StoreError(f"{path} is a DuckDB file but not a results database; name another file")
    version, made_by = _version(connection, ("table", "meta") in states)
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{path} has schema version {version} (written by bandlens {made_by}), and this is version "
            f"{SCHEMA_VERSION}; run the study again with a new --db, or make one of its shards with `bandlens rebuild`"
        )
    if states:
        what = some_of([f"{kind} {name} ({state})" for (kind, name), state in states.items()])
        raise StoreError(
            f"{path} is not as bandlens made it, and nothing of it was run: {what}; put that right with DuckDB, "
            "or make a new one of its shards with `bandlens rebuild`"
        )


def _version(connection: duckdb.DuckDBPyConnection, changed: bool) -> tuple[object, object]:
    """The schema version of a file, and the bandlens that wrote it.

    `changed` says that the table meta is not the schema's. Columns that would be computed as they are read are not
    read: the version is then that of this schema, and the table's definition is what is wrong with the file.
    """
    with names_of_duckdb(connection) as file:
        if changed:
            query = (
                "SELECT sql ILIKE '%GENERATED%' FROM duckdb_tables() WHERE (database_name, table_name) = (?, 'meta')"
            )
            if connection.execute(query, [file]).fetchall() != [(False,)]:
                return SCHEMA_VERSION, ""
        quoted = file.replace('"', '""')
        rows = connection.execute(f'SELECT schema_version, bandlens FROM "{quoted}".main.meta LIMIT 1').fetchall()  # noqa: S608
    return rows[0] if rows else (None, None)


def _definitions(connection: duckdb.DuckDBPyConnection, file: str | None = None) -> list[Definition]:
    with names_of_duckdb(connection) as connected_file:
        return connection.execute(DEFINITIONS, [file or connected_file]).fetchall()


def _by_entry(definitions: list[Definition]) -> dict[Entry, list[str]]:
    entries: dict[Entry, list[str]] = defaultdict(list)
    for kind, name, definition in definitions:
        entries[kind, name].append(definition)
    return entries


def _digest(definitions: list[Definition]) -> str:
    return sha256(json.dumps(definitions).encode()).hexdigest()


def _schema_digest() -> str:
    """The digest of the schema's definitions: that of the file, if it is of this schema.sql and this DuckDB."""
    content = json.loads(DIGEST_FILE.read_text(encoding="utf-8"))
    if all(content.get(name) == value for name, value in _sources().items()):
        return str(content["definitions"])
    return _digest(_schema_definitions())


def _sources() -> dict[str, str]:
    """Digest of the schema, and the version of DuckDB that writes definitions out: they depend on both alone."""
    return {"duckdb": duckdb.__version__, "schema": sha256(schema().encode()).hexdigest()}


@cache
def _schema_definitions() -> list[Definition]:
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        connection.execute(schema())
        return _definitions(connection)


def main() -> None:
    json.dump(_sources() | {"definitions": _digest(_schema_definitions())}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
