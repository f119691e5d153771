"""Which statements a reader may give, namely those that can do nothing but read the database.

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

from ...core.errors import StoreError
from .catalogue import schema_macros

READING_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
"""Parts of a statement that read. The others insert, update, delete or copy, as a query's WITH can."""
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
"""Table functions of DuckDB that read nothing but the database. Macros of the schema may be called too."""
EFFECTS = frozenset({"nextval", "setval", "setseed", "sleep_ms", "write_log", "getenv", "getvariable"})
"""Scalar functions that do more than give a value."""
WRITING_WORDS = frozenset({"copy", "insert", "update", "delete", "merge", "create", "attach", "export", "import"})
HOW_TO_ASK = "ask with SELECT, FROM, PIVOT, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN"
EXPLAINED = re.compile(r"\s*EXPLAIN\s+(ANALYZE\b\s*|\([^()]*\)\s*)?", re.IGNORECASE)


def check_reading(connection: duckdb.DuckDBPyConnection, sql: str, path: Path) -> None:
    """Raise StoreError for a statement of `sql` that may do anything else than read."""
    for statement in connection.extract_statements(sql):
        try:
            kind = statement.type.name
        except ValueError:  # a type that DuckDB's Python does not know
            kind = statement.query.split(maxsplit=1)[0].upper()
        if kind == "SELECT":
            offence = _offence_of_tree(connection, statement.query)
        elif kind == "EXPLAIN":
            offence = _offence_of_explain(connection, statement.query)
        elif kind == "MULTI":  # PIVOT: DuckDB makes several statements of it, and gives no tree of them
            offence = _offence_of_words(connection, statement.query)
        else:
            offence = kind
        if offence:
            raise StoreError(f"{path} is open for reading alone, which {offence} is not; {HOW_TO_ASK}")


def _offence_of_tree(connection: duckdb.DuckDBPyConnection, sql: str) -> str | None:
    """Say what the syntax tree of a SELECT does beside reading; None where it reads alone."""
    # Every row is fetched: a result with rows left would keep the connection from what comes next.
    ((text,),) = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
    tree = json.loads(text)
    if tree.get("error"):
        return str(tree.get("error_message", "this statement")).rstrip("!")
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
            if name not in TABLE_FUNCTIONS | schema_macros():
                return f"the table function {name}()"
    return None


def _offence_of_explain(connection: duckdb.DuckDBPyConnection, sql: str) -> str | None:
    """Say what the statement after EXPLAIN does beside reading: DuckDB plans it, and with ANALYZE runs it."""
    statement = EXPLAINED.sub("", sql, count=1)
    try:
        kinds = [parsed.type.name for parsed in connection.extract_statements(statement)]
    except (duckdb.Error, ValueError):
        kinds = []
    if kinds == ["MULTI"]:
        return _offence_of_words(connection, statement)
    return (
        _offence_of_tree(connection, statement) if kinds == ["SELECT"] else "EXPLAIN of another statement than a query"
    )


def _offence_of_words(connection: duckdb.DuckDBPyConnection, sql: str) -> str | None:
    """Find a word of a statement that stands for more than reading; text and comments hold no such words."""
    data, tokens = sql.encode(), duckdb.tokenize(sql)
    ends = [start for start, _ in tokens[1:]] + [len(data)]
    words = [
        (kind.name, data[start:end].decode(errors="replace").strip().strip('"').lower())
        for (start, kind), end in zip(tokens, ends, strict=True)
        if kind.name != "comment"
    ]
    functions = {name for (name,) in connection.execute(FUNCTIONS).fetchall()} - TABLE_FUNCTIONS - schema_macros()
    for (kind, word), (_, next_word) in zip(words, [*words[1:], ("", "")], strict=True):
        is_call = next_word.startswith("(") and word in EFFECTS | functions
        if kind in ("keyword", "identifier") and (is_call or word in WRITING_WORDS):
            return f"{word} in PIVOT"
    return None


FUNCTIONS = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type IN ('table', 'pragma')"


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of parsed JSON, found without recursion, since the trees of somebody else may be deep."""
    pending = [tree]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield value
            pending += value.values()
        elif isinstance(value, list):
            pending += value
