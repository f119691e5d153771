"""Tables that leave the terminal: rows as CSV or JSON for programs, and as Markdown or LaTeX for papers.

Programs get every column and every digit, an interval as columns of its own. Readers get numbers of four digits and an
interval beside its value, `0.25 [0.2, 0.31]`; signs that Markdown, LaTeX or a terminal would obey are escaped.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from ..core.untrusted import printable
from .tables import NUMBER, cell_text, join_intervals

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


_MARKDOWN = re.compile(r"[\\|`*<&~]|(?<![^\W_])_|_(?![^\W_])|\](?=\()")
"""Signs that Markdown obeys inside a cell: it leaves `_` between letters alone, and `]` but before `(`."""
_AFTER_A_ROW = re.compile(r"^(\s*)([\[*])", re.MULTILINE)
r"""Signs at the beginning of a line that LaTeX would take for arguments of the `\\` of the line before."""

_MINUS = re.compile(r"(?<=[ \[])-(?=\d)")
"""The sign of a negative number, which LaTeX sets as a hyphen outside of mathematics."""


def csv_text(rows: Rows) -> str:
    """Rows as CSV: the columns of all rows in the order of their first appearance; lists and objects are JSON."""
    import polars as pl

    names = dict.fromkeys(name for row in rows for name in row)
    # A column of texts and numbers becomes one of texts.
    columns = [pl.Series(name, [_csv_value(row.get(name)) for row in rows], strict=False) for name in names]
    return pl.DataFrame(columns).write_csv()


def _csv_value(value: Any) -> Any:
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, default=str)
    return value if value is None or isinstance(value, (int, float)) else str(value)


def json_text(value: Any) -> str:
    """A value as JSON, which has neither NaN, here null, nor an infinity, here a word."""
    try:
        return json.dumps(value, indent=1, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_without_infinities(value), indent=1, default=str)


def _without_infinities(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_infinities(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_infinities(entry) for entry in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)


def paper_text(columns: Mapping[str, Sequence[Any]], table_format: str, title: str | None = None) -> str:
    """Columns of values as a Markdown table, or as a LaTeX tabular with the rules of booktabs.

    A title is a heading in Markdown; in LaTeX it is the caption of a table around the tabular.
    """
    from tabulate import tabulate

    cells = join_intervals({_line(name): [_line(cell_text(value)) for value in columns[name]] for name in columns})
    rows = list(zip(*cells.values(), strict=True))
    sides = ["right" if all(map(NUMBER.fullmatch, column)) else "left" for column in cells.values()] if rows else None
    names, heading = [*cells], _line(title or "")
    if table_format == Format.markdown:
        names, *texts = ([_escape_markdown(text) for text in row] for row in [names, *rows])
        drawing = tabulate(texts, names, "pipe", disable_numparse=True, colalign=sides)
        return f"## {_escape_markdown(heading)}\n\n{drawing}" if heading else str(drawing)
    drawing = tabulate(rows, names, "latex_booktabs", disable_numparse=True, colalign=sides)
    drawing = _MINUS.sub("$-$", _AFTER_A_ROW.sub(r"\1{\2}", drawing))
    if not rows:  # tabulate leaves out which columns there are
        drawing = drawing.replace("{tabular}{}", f"{{tabular}}{{{'l' * len(names)}}}", 1)
    return f"\\begin{{table}}\n\\caption{{{escape_latex(heading)}}}\n{drawing}\n\\end{{table}}" if heading else drawing


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


def escape_latex(text: str) -> str:
    """The text without signs that LaTeX would obey."""
    from tabulate import LATEX_ESCAPE_RULES

    return "".join(LATEX_ESCAPE_RULES.get(sign, sign) for sign in text)
