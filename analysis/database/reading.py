"""Which statements a reader may give: those that can do nothing but read the database.

DuckDB refuses what would change a database that is open for reading, and files elsewhere. But it lets some statements
write into the folder in which it puts what does not fit into memory, and some functions change the process. So a
statement is judged by what its syntax tree does, and not by its first word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb

from ...errors import StoreError

READING_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
"""Parts of a statement that read. Others insert, update, delete or copy, as a query's WITH can."""
TABLE_FUNCTIONS = frozenset(
    {
        *("range", "generate_series", "unnest", "repeat", "repeat_row", "json_each", "json_tree", "summary"),
        *("histogram", "histogram_values", "icu_calendar_names", "pg_timezone_names", "test_all_types"),
        *("duckdb_columns", "duckdb_constraints", "duckdb_databases", "duckdb_dependencies", "duckdb_extensions"),
        *("duckdb_functions", "duckdb_indexes", "duckdb_keywords", "duckdb_memory", "duckdb_schemas"),
        *("duckdb_sequences", "duckdb_settings", "duckdb_tables", "duckdb_temporary_files", "duckdb_types"),
        *("duckdb_variables", "duckdb_views", "pragma_collations", "pragma_database_size", "pragma_metadata_info"),
        *("pragma_platform", "pragma_show", "pragma_storage_info", "pragma_table_info", "pragma_version"),
    }
)
"""DuckDB's own that read nothing but the database; macros of the schema come beside them."""
EFFECTS = frozenset({"nextval", "setval", "setseed", "sleep_ms", "write_log", "getenv", "getvariable"})
"""Functions of a value that do more than give one."""
WRITING_WORDS = frozenset({"copy", "insert", "update", "delete", "merge", "create", "attach", "export", "import"})
HOW_TO_ASK = "ask with SELECT, FROM, PIVOT, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN"
EXPLAINED = re.compile(r"\s*EXPLAIN\s+(ANALYZE\b\s*|\([^()]*\)\s*)?", re.IGNORECASE)


def check_reading(connection: duckdb.DuckDBPyConnection, sql: str, path: Path) -> None:
    """StoreError for a statement of `sql` that may do anything else than read."""
    for statement in connection.extract_statements(sql):
        try:
            kind = statement.type.name
        except ValueError:  # one that DuckDB's Python does not know
            kind = statement.query.split(maxsplit=1)[0].upper()
        if kind == "SELECT":
            offence = _of_tree(connection, statement.query)
        elif kind == "EXPLAIN":
            offence = _of_explained(connection, statement.query)
        elif kind == "MULTI":  # PIVOT, which DuckDB makes several statements of, and gives no tree for
            offence = _of_words(connection, statement.query)
        else:
            offence = kind
        if offence:
            raise StoreError(f"{path} is open for reading alone, which {offence} is not; {HOW_TO_ASK}")


def _of_tree(connection: duckdb.DuckDBPyConnection, sql: str) -> str | None:
    """What the syntax tree of a SELECT does beside reading."""
    (text,) = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchone() or ("",)
    tree = json.loads(text)
    if tree.get("error"):
        return str(tree.get("error_message", "this statement")).rstrip("!")
    macros = _macros(connection)
    for node in _nodes(tree):
        kind = str(node.get("type", ""))
        if kind.endswith("_NODE") and kind not in READING_NODES:
            return kind.removesuffix("_NODE").removesuffix("_QUERY")
        name = str(node.get("function_name", "")).lower()
        if name in EFFECTS:
            return f"{name}()"
        if kind == "TABLE_FUNCTION":
            function = node.get("function")
            name = str(function.get("function_name", "")).lower() if isinstance(function, dict) else ""
            if name not in TABLE_FUNCTIONS | macros:
                return f"the table function {name}()"
    return None


def _of_explained(connection: duckdb.DuckDBPyConnection, sql: str) -> str | None:
    """EXPLAIN plans what it is given, and with ANALYZE runs it: that has to be a query, whichever of them it is."""
    inner = EXPLAINED.sub("", sql, count=1)
    try:
        kinds = [statement.type.name for statement in connection.extract_statements(inner)]
    except (duckdb.Error, ValueError):
        kinds = []
    if kinds == ["MULTI"]:
        return _of_words(connection, inner)
    return _of_tree(connection, inner) if kinds == ["SELECT"] else "EXPLAIN of another statement than a query"


def _of_words(connection: duckdb.DuckDBPyConnection, sql: str) -> str | None:
    """The word of a statement that stands for more than reading; text and comments are none."""
    data, tokens = sql.encode(), duckdb.tokenize(sql)
    ends = [start for start, _ in tokens[1:]] + [len(data)]
    words = [
        (kind.name, data[start:end].decode(errors="replace").strip().strip('"').lower())
        for (start, kind), end in zip(tokens, ends, strict=True)
        if kind.name != "comment"
    ]
    functions = {name for (name,) in connection.execute(FUNCTIONS).fetchall()} - TABLE_FUNCTIONS - _macros(connection)
    for (kind, word), (_, after) in zip(words, [*words[1:], ("", "")], strict=True):
        called = after.startswith("(") and word in EFFECTS | functions
        if kind in ("keyword", "identifier") and (called or word in WRITING_WORDS):
            return f"{word} in PIVOT"
    return None


FUNCTIONS = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type IN ('table', 'pragma')"
MACROS = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type LIKE '%macro' AND NOT internal"


def _macros(connection: duckdb.DuckDBPyConnection) -> set[str]:
    return {name.lower() for (name,) in connection.execute(MACROS).fetchall()}


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of parsed JSON, without recursion: trees of others may be deep."""
    pending = [tree]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            yield one
            pending += one.values()
        elif isinstance(one, list):
            pending += one
