"""Printing of every command: tables on a terminal, as CSV or JSON for programs, and as Markdown or LaTeX for papers.

Programs get every column and every digit, an interval as columns of its own. Readers get numbers of four digits and an
interval beside its value, `0.25 [0.2, 0.31]`; signs that Markdown, LaTeX or a terminal would obey are escaped.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import StrEnum
from shutil import get_terminal_size
from typing import Annotated, Any

import typer

from ...core.log import log
from ...core.untrusted import printable
from .table_layout import NUMBER, cell_text, fill, join_intervals, lay_out

Rows = Sequence[Mapping[str, Any]]
"""Rows of a table: column -> value."""


class Format(StrEnum):
    """How a command writes its tables."""

    table = "table"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"
    json = "json"

    @property
    def is_for_programs(self) -> bool:
        return self in (Format.csv, Format.json)


TableFormat = Annotated[
    Format,
    typer.Option(
        "--format", help="How tables are written: csv and json with all digits, markdown and latex with four."
    ),
]
_MARKDOWN = re.compile(r"[\\|`*<&~]|(?<![^\W_])_|_(?![^\W_])|\](?=\()")
"""Signs that Markdown obeys inside a cell: it leaves `_` between letters alone, and `]` but before `(`."""
_AFTER_A_ROW = re.compile(r"^(\s*)([\[*])", re.MULTILINE)
r"""Signs at the beginning of a line that LaTeX would take for arguments of the `\\` of the line before."""

_MINUS = re.compile(r"(?<=[ \[])-(?=\d)")
"""The sign of a negative number, which LaTeX sets as a hyphen outside of mathematics."""

_COLUMNS = re.compile(r"(?<={tabular}{)\w*")
"""The kinds of the columns of a tabular; tabulate knows no paragraphs, and none at all without rows."""
LONGEST_TEXT = 60
"""The most characters that stand on one line of a cell in LaTeX."""
PARAGRAPH = "p{60mm}"
"""The kind of a column with a longer text."""


def print_rows(
    rows: Rows,
    table_format: Format = Format.table,
    title: str | None = None,
    *,
    titles: Sequence[str] = (),
) -> None:
    """Print rows as an aligned table, or in the format that is asked for, with nothing beside them on stdout.

    On a terminal that is too narrow, the columns in `titles` become headings, and what has no room continues below (see
    `layout`).
    """
    if table_format == Format.json:
        print(json_text(list(rows)))
    elif not rows:
        print_note("(nothing)", table_format)
    elif table_format == Format.csv:
        print(csv_text(rows), end="")
    elif table_format == Format.table:
        _print_layout(rows, title, titles)
    else:
        print(paper_text({name: [row[name] for row in rows] for name in rows[0]}, table_format, title))


def print_text(text: str) -> None:
    """Print a text that a function of `api` returns."""
    print(text.rstrip("\n"))


def print_table(rows: Rows, table_format: TableFormat = Format.table) -> None:
    """Print the rows that a function of `api` returns, where nothing more is to be said."""
    print_rows(rows, table_format)


def print_tables(tables: Mapping[str, Rows], table_format: Format, *, titles: Sequence[str] = ()) -> None:
    """Print tables under their titles. CSV is one table, in which a first column `table` has the titles."""
    if table_format == Format.json:
        print(json_text(tables))
    elif table_format == Format.csv:
        print_rows([{"table": title, **row} for title, rows in tables.items() for row in rows], table_format)
    else:
        for place, (title, rows) in enumerate(tables.items()):
            if place:
                print()
            print_rows(rows, table_format, title, titles=titles)


def print_document(result: Any, table_format: Format) -> None:
    """Print all fields of a result of `api`. Whatever is no table is a row of the table `summary`, except in JSON."""
    if table_format == Format.json:
        print(json_text(result))
        return
    document = _plain(result)
    summary = {name: value for name, value in document.items() if not isinstance(value, list)}
    tables = {
        name: [row if isinstance(row, dict) else {name: row} for row in rows]
        for name, rows in document.items()
        if isinstance(rows, list) and rows
    }
    print_tables({"summary": [summary], **tables} if summary else tables, table_format)


def print_note(text: str, table_format: Format) -> None:
    """Print a sentence beside tables: on stdout where these are for the terminal, else on stderr."""
    if table_format == Format.table:
        print(folded(text))
    else:
        log.info(text.strip())


def folded(text: str, indent: str = "") -> str:
    """The text with its lines folded at the width of the terminal; a pipe gets them whole.

    A line that begins with a blank is a command or a drawing, and stays as it is.
    """
    width = _terminal_width()
    return "\n".join(line if line.startswith(" ") else fill(line, width, indent) for line in text.split("\n"))


def _terminal_width() -> int:
    # A pipe has no width: let the longest row decide instead of shortening anything.
    return get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize


def _print_layout(rows: Rows, title: str | None, titles: Sequence[str]) -> None:
    cells = {printable(name): [cell_text(row[name]) for row in rows] for name in rows[0]}
    numeric = {
        printable(name)
        for name in rows[0]
        if all(isinstance(row[name], (int, float)) or row[name] is None for row in rows)
    }
    print("\n\n".join(lay_out(cells, numeric, _terminal_width(), printable(title or ""), titles)))


def print_lines(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print each row as lines of field and value, with a blank line between two rows."""
    width = max((len(printable(name)) for name in (rows[0] if rows else ())), default=0)
    blocks = ["\n".join(f"{printable(name):<{width}}  {cell_text(row[name])}" for name in row) for row in rows]
    print("\n\n".join(blocks) or "(nothing)")


def csv_text(rows: Rows) -> str:
    """Rows as CSV: the columns of all rows in the order of their first appearance; lists and objects are JSON."""
    import polars as pl

    names = dict.fromkeys(name for row in rows for name in row)
    from ...analysis.database.spreadsheet import spreadsheet_csv

    # A column of texts and numbers becomes one of texts.
    columns = [pl.Series(name, [_csv_value(row.get(name)) for row in rows], strict=False) for name in names]
    return spreadsheet_csv(pl.DataFrame(columns))


def _csv_value(value: Any) -> Any:
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, default=str)
    return value if value is None or isinstance(value, (int, float)) else str(value)


def json_text(value: Any) -> str:
    """A value as JSON, which has neither NaN, here null, nor an infinity, here a word."""
    return json.dumps(_plain(value), indent=1, default=str)


def _plain(value: Any) -> Any:
    """The value for JSON: a frame is its rows, a dataclass its fields, unless it has words for itself."""
    if is_dataclass(value) and type(value).__str__ is object.__str__:
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "to_dicts"):
        return _plain(value.to_dicts())
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def paper_text(columns: Mapping[str, Sequence[Any]], table_format: str, title: str | None = None) -> str:
    """Columns of values as a Markdown table, or as a LaTeX tabular with the rules of booktabs.

    A title is a heading in Markdown; in LaTeX it is the caption of a table around the tabular.
    """
    from tabulate import tabulate

    cells = join_intervals({_line(name): [_line(cell_text(value)) for value in columns[name]] for name in columns})
    rows = list(zip(*cells.values(), strict=True))
    sides = ["right" if rows and all(map(NUMBER.fullmatch, column)) else "left" for column in cells.values()]
    names, heading = [*cells], _line(title or "")
    if table_format == Format.markdown:
        names, *texts = ([_escape_markdown(text) for text in row] for row in [names, *rows])
        drawing = tabulate(texts, names, "pipe", disable_numparse=True, colalign=sides if rows else None)
        return f"## {_escape_markdown(heading)}\n\n{drawing}" if heading else str(drawing)
    drawing = tabulate(rows, names, "latex_booktabs", disable_numparse=True, colalign=sides if rows else None)
    drawing = _MINUS.sub("$-$", _AFTER_A_ROW.sub(r"\1{\2}", drawing))
    kinds = (
        PARAGRAPH if any(len(cell) > LONGEST_TEXT for cell in column) else side[0]
        for column, side in zip(cells.values(), sides, strict=True)
    )
    drawing = _COLUMNS.sub("".join(kinds), drawing, count=1)
    return f"\\begin{{table}}\n\\caption{{{_escape_latex(heading)}}}\n{drawing}\n\\end{{table}}" if heading else drawing


def junit_text(title: str, suites: Mapping[str, Sequence[tuple[str, str, str]]]) -> str:
    """The verdicts of gates as JUnit's XML, which CI services read; one that is undecided counts as skipped.

    Args:
        title: the name of the whole.
        suites: checkpoint and image set -> name, verdict and message of each of their rows.
    """
    from xml.etree import ElementTree  # writes alone; what is read comes from nowhere

    root = ElementTree.Element("testsuites", name=printable(title))
    for suite, cases in suites.items():
        counts = Counter(verdict for _, verdict, _ in cases)
        numbers = {"tests": len(cases), "failures": counts["fail"], "skipped": counts["undecided"], "errors": 0}
        attributes = {"name": printable(suite)} | {name: str(number) for name, number in numbers.items()}
        suite_element = ElementTree.SubElement(root, "testsuite", attributes)
        for name, verdict, message in cases:
            case = ElementTree.SubElement(suite_element, "testcase", classname=printable(suite), name=printable(name))
            if verdict != "pass":
                kind = "failure" if verdict == "fail" else "skipped"
                ElementTree.SubElement(case, kind, message=printable(message))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _line(text: str) -> str:
    """The text on one line, without signs that a terminal would obey."""
    return printable(text.replace("\n", " "))


def _escape_markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\g<0>", text)


def _escape_latex(text: str) -> str:
    """The text without signs that LaTeX would obey."""
    from tabulate import LATEX_ESCAPE_RULES

    return "".join(LATEX_ESCAPE_RULES.get(sign, sign) for sign in text)
