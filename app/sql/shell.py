"""`bandlens sql --interactive`: a prompt with history and completion over one read-only database."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer, WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from ...analysis.database.open import open_store
from ...analysis.database.process import QueryProcess
from ...analysis.database.store import Store
from ...core.errors import BandlensError
from ...export.files import home
from .. import signals
from ..console import print_rows
from .query import print_answers

HELP = """\
A query ends with a semicolon and may have several lines. Tab completes names; the arrow keys walk through the history.
.tables            the views and tables
.schema [NAME]     the columns of one of them, or of all, with what they hold
.line              rows as lines of field and value, or as a table again
.quit              or Ctrl-D; help, quit and exit work without the dot"""

WORDS = {"help": ".help", "quit": ".quit", "exit": ".quit"}
"""Words that people type as commands, and that no query begins with -> the commands."""
KEYWORDS = (
    "SELECT", "FROM", "WHERE", "GROUP BY", "ORDER BY", "HAVING", "LIMIT", "JOIN", "LEFT JOIN", "USING", "ON", "AS",
    "WITH", "DISTINCT", "FILTER", "CASE", "WHEN", "THEN", "ELSE", "END", "AND", "OR", "NOT", "IS NULL", "PIVOT",
    "count(*)", "avg(", "sum(", "min(", "max(", "median(", "corr(", "round(", "QUALIFY", "OVER", "PARTITION BY", "DESC",
)  # fmt: skip

OBJECTS = """
SELECT view_name AS name, comment FROM duckdb_views() WHERE NOT internal
UNION ALL SELECT table_name, comment FROM duckdb_tables() WHERE NOT internal ORDER BY name
"""
COLUMNS = """
SELECT table_name AS name, column_name AS "column", data_type AS type, comment FROM duckdb_columns()
WHERE NOT internal ORDER BY name, column_index
"""
STUDY_MACROS = """
SELECT function_name || '(' AS name FROM duckdb_functions()
WHERE NOT internal AND function_type = 'table_macro' AND ends_with(function_name, '_of')
"""
"""Macros that take a study, as they are completed."""


def open_shell(process: QueryProcess) -> None:
    """`shell` over the database of the process, with a history that is kept from one prompt to the next."""
    home().mkdir(parents=True, exist_ok=True)
    with open_store(process.database, read_only=True) as store:
        shell(store, process, home() / "sql_history")


def shell(store: Store, process: QueryProcess, history: Path | None = None) -> None:
    """Read commands and queries, and answer them, until the end of input. An error is one line, and the next is read.

    Args:
        store: the database, whose names are completed.
        process: what answers queries of the same database.
        history: a file that keeps the lines that were typed.
    """
    if history:
        history.touch(0o600)  # queries are nobody else's business
    session_history: History = FileHistory(history) if history else InMemoryHistory()
    session: PromptSession[str] = PromptSession(
        history=session_history, completer=completer(store), complete_while_typing=False
    )
    print(f"{store.path}: read-only; .help lists the commands")
    line = False
    while (statement := _read(session)) is not None:
        try:
            if not statement:
                continue
            if statement == ".line":
                line = not line
            elif statement.startswith("."):
                _command(store, statement)
            else:
                print_answers(process, statement, line, ".line")
        except EOFError:
            return
        except KeyboardInterrupt:
            if not signals.forgive():
                raise
            print("interrupted")
        except BandlensError as error:
            print(error)


def completer(store: Store) -> Completer:
    """Make a completer of SQL's words and the names of views, tables, columns and macros."""
    columns = store.frame(COLUMNS)
    words = {*KEYWORDS, *columns["name"], *columns["column"], *store.frame(STUDY_MACROS)["name"]}
    return WordCompleter(sorted(words), ignore_case=True)


def _read(session: PromptSession[str]) -> str | None:
    """Read one command or one query, which may have several lines; None at the end of input."""
    lines: list[str] = []
    while True:
        try:
            lines.append(session.prompt("   ... " if lines else "bandlens> "))
        except KeyboardInterrupt:
            return ""
        except EOFError:
            return None
        text = "\n".join(lines).strip()
        if not text or text.startswith(".") or text.endswith(";") or text.lower() in WORDS:
            text = text.removesuffix(";").strip()
            return WORDS.get(text.lower(), text)


def _command(store: Store, text: str) -> None:
    name, *rest = text.split()
    commands: dict[str, Callable[[Store, list[str]], None]] = {
        ".help": lambda *_: print(HELP),
        ".tables": lambda store, _: print_rows(store.frame(OBJECTS).to_dicts()),
        ".schema": _schema,
        ".quit": _quit,
    }
    if name not in commands:
        print(f"unknown command {name}; there are {', '.join(commands)}")
    else:
        commands[name](store, rest)


def _schema(store: Store, names: list[str]) -> None:
    columns = store.frame(COLUMNS)
    every_name = columns["name"].unique(maintain_order=True).to_list()
    shown_names = [name for name in every_name if not names or name in names]
    if not shown_names:
        print(f"no table or view {names[0]}; there are {', '.join(every_name)}")
    for name in shown_names:
        print_rows(columns.filter(columns["name"] == name).drop("name").to_dicts(), title=name)


def _quit(_store: Store, _rest: list[str]) -> None:
    raise EOFError
