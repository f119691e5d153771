"""The layout of a table on a terminal: whatever the width, every number and every state is shown.

A table that is too wide is changed in this order until it fits:

1. An interval is joined to its value, as in `0.25 [0.2, 0.31]`.
2. A column that is empty is left out; one that has the same value in every row is taken out and named with that value.
3. Text is shortened to 24 characters: a setting loses the names of its parameters and its unit, words continue on the
   next line, and a long name loses its middle, unless two names would then be the same.
4. The columns of `titles` become the heading of a table for each of their combinations.
5. Columns of text are left out from the right, and named.
6. What still has no room continues in further blocks, and each of them repeats the columns that tell rows apart.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.untrusted import printable

SHORTEST = 24
"""Characters to which text is shortened."""
LEAST = 8
"""Characters to which the names of rows are shortened where they leave no room for numbers."""
STATES = frozenset(("state", "state_a", "state_b", "status", "verdict"))
"""Columns that say what a number is worth, or how a check ended."""
SETTINGS = frozenset(("at", "condition", "parameters", "setting"))
"""Columns of conditions in words, such as `critical_band noise_sd=0.08, frequency=3`."""
ESTIMATES = frozenset(("difference", "kappa", "top1", "value"))
"""Columns that an interval `low`, `high` beside them belongs to."""
NUMBER = re.compile(r"([-+−\d.,e %\[\]…*]|inf|nan|True|False)*")
"""The text of a number, of several, or of an interval."""
UNNEEDED = re.compile(r"\b\w+=| cycles/image$")
"""The name of a parameter in a setting, and the unit of a cut."""
PROSE = re.compile(r" |^[{\[]")
"""A text of several words, or JSON: it continues on the next line, where a name is cut."""

Table = Mapping[str, Sequence[str]]
"""Column -> the text of its cells."""


@dataclass(frozen=True, slots=True)
class TableLayout:
    """A table as it is printed."""

    parts: Sequence[tuple[str, Sequence[Table]]]
    """The heading of each part, and its blocks; the heading is empty where there is one part."""
    repeated: Mapping[str, str] = field(default_factory=dict)
    """Columns that were taken out, each with the value that it has in every row."""
    left_out: Sequence[str] = ()
    """Columns that were left out: empty ones, and text."""


@dataclass(frozen=True, slots=True)
class TextColumn:
    """A column of a table, and the number of characters that it takes."""

    name: str
    cells: Sequence[str]
    widest: int
    fixed: bool
    """Whether it holds states or numbers, which are neither shortened nor left out."""

    @classmethod
    def measure(cls, name: str, cells: Sequence[str]) -> TextColumn:
        """Measure a column as it stands in a table."""
        fixed = name in STATES or all(NUMBER.fullmatch(cell) for cell in cells)
        return cls(name, cells, max(map(columns_of, (name, *cells))), fixed)

    def width(self, longest: int | None = None) -> int:
        """Characters with the space around it as rich draws SIMPLE_HEAD, where its text is at most `longest` long."""
        text = self.widest if longest is None or self.fixed else min(self.widest, max(longest, len(self.name)))
        return 3 + text

    def shortened(self, longest: int) -> Sequence[str]:
        """The cells, of which no line is longer than `longest` or the name of the column."""
        longest = max(longest, len(self.name))
        return (
            self.cells if self.fixed or self.widest <= longest else shorten(self.cells, longest, self.name in SETTINGS)
        )


def cell_text(value: Any) -> str:
    """A value as it stands in a table that people read: a float has four digits, and no value is a hyphen."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def columns_of(text: str) -> int:
    """The columns of a terminal that a text takes."""
    if text.isascii() and text.isprintable():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def lay_out(table: Table, width: int, titles: Sequence[str] = ()) -> TableLayout:
    """Lay out a table in `width` characters. A single column or number that is wider stays as it is."""
    if _width(_measured(table)) <= width:
        return TableLayout([("", [table])])
    columns = _measured(join_intervals(table))
    order = [column.name for column in columns]
    rows = len(columns[0].cells)
    empty = [column for column in columns if set(column.cells) == {"-"}]
    same = [column for column in columns if rows > 1 and column not in empty and len(set(column.cells)) == 1]
    repeated, left_out = dict[str, str](), list[str]()
    for column in (*empty, *same):
        if _width(columns) <= width or len(columns) == 1:
            break
        columns.remove(column)
        if column in empty:
            left_out.append(column.name)
        else:
            repeated[column.name] = column.cells[0]
    headings = list[TextColumn]()
    if _width(columns, SHORTEST) > width:
        headings = [column for column in columns if column.name in titles][: len(columns) - 1]
        columns = [column for column in columns if column not in headings]
    keys, longest = _keys(columns, headings, width)
    for column in reversed(columns[:]):
        if _width(columns, longest) <= width:
            break
        if column not in keys and not column.fixed:
            columns.remove(column)
            left_out.append(column.name)
    blocks = [_shrink(block, width, longest) for block in _fold(columns, keys, width, longest)]
    left_out.sort(key=order.index)
    return TableLayout(list(_parts(headings, blocks, {key.name for key in keys})), repeated, left_out)


def join_intervals(table: Table) -> Table:
    """Join the columns of an interval to the column of its value, which gets the name `NAME [low, high]`.

    NAME_low and NAME_high belong to NAME, and low and high to the column before them if it is one of ESTIMATES.
    """
    names = list(table)
    ends = dict[str, tuple[str, str]]()
    for place, low in enumerate(names):
        prefix = low.removesuffix("low")
        high = f"{prefix}high"
        estimate = prefix.removesuffix("_") if prefix else names[place - 1]
        if low.endswith("low") and high in table and estimate in (table if prefix else ESTIMATES):
            ends[estimate] = (low, high)
    joined = dict[str, Sequence[str]]()
    for name in names:
        if name in ends:
            cells = zip(table[name], *(table[end] for end in ends[name]), strict=True)
            joined[f"{name} [low, high]"] = [
                value if low == high == "-" else f"{value} [{low}, {high}]" for value, low, high in cells
            ]
        elif not any(name in pair for pair in ends.values()):
            joined[name] = table[name]
    return joined


def shorten(texts: Sequence[str], longest: int, setting: bool = False) -> list[str]:
    """Shorten texts to lines of at most `longest` characters, so that different ones stay different.

    A setting loses the names of its parameters, or the unit of its cut, first. Words continue on the next line; a long
    name loses its middle, or continues on the next line where that would make two texts the same.
    """
    distinct = len(set(texts))
    if setting and len({UNNEEDED.sub("", text) for text in texts}) == distinct:
        texts = [UNNEEDED.sub("", text) for text in texts]
    cut = {text: _wrap(text, longest) if PROSE.search(text) else _cut(text, longest) for text in texts}
    alike = Counter(cut.values())
    return [cut[text] if alike[cut[text]] == 1 else _wrap(text, longest) for text in texts]


def _wrap(text: str, longest: int) -> str:
    return "\n".join(textwrap.wrap(text, longest, break_on_hyphens=False)) or text


def _cut(text: str, longest: int) -> str:
    head, tail = longest // 2, (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:head]}…{text[len(text) - tail :]}"


def _measured(table: Table) -> list[TextColumn]:
    return [TextColumn.measure(name, cells) for name, cells in table.items()]


def _width(columns: Sequence[TextColumn], longest: int | None = None) -> int:
    return 1 + sum(column.width(longest) for column in columns)


def _keys(
    columns: Sequence[TextColumn], headings: Sequence[TextColumn], width: int
) -> tuple[Sequence[TextColumn], int]:
    """The columns that tell the rows apart, and the length of text with which they leave room for any other."""
    keys = list[TextColumn]()
    rows, names = 0, list(zip(*(column.cells for column in headings), strict=True)) or [()] * len(columns[0].cells)
    for column in columns:
        longer = [(*name, cell) for name, cell in zip(names, column.cells, strict=True)]
        if not keys or len(set(longer)) > rows:
            keys.append(column)
            rows, names = len(set(longer)), longer
    for kept in range(len(keys), 0, -1):
        for longest in range(SHORTEST, LEAST - 1, -1):
            widest = max((column.width(longest) for column in columns if column not in keys[:kept]), default=0)
            if _width(keys[:kept], longest) + widest <= width:
                return keys[:kept], longest
    return keys[:1], LEAST


def _fold(
    columns: Sequence[TextColumn], keys: Sequence[TextColumn], width: int, longest: int
) -> list[list[TextColumn]]:
    """Split a table into blocks that fit, each of which begins with the columns `keys`."""
    blocks = [list(keys)]
    for column in (column for column in columns if column not in keys):
        if len(blocks[-1]) > len(keys) and _width([*blocks[-1], column], longest) > width:
            blocks.append(list(keys))
        blocks[-1].append(column)
    return blocks


def _shrink(block: Sequence[TextColumn], width: int, shortest: int) -> Table:
    """Shorten the texts of a block until it fits: the longest ones first, and those of its first column last."""
    first, *rest = block
    for longest in range(width, shortest - 1, -1):
        if _width(rest, longest) + first.width() <= width:
            return {first.name: first.cells} | {column.name: column.shortened(longest) for column in rest}
    others = _width(rest, shortest)
    return {first.name: first.shortened(max(shortest, width - others - 3))} | {
        column.name: column.shortened(shortest) for column in rest
    }


def _parts(
    headings: Sequence[TextColumn], blocks: Sequence[Table], keys: Collection[str]
) -> Iterator[tuple[str, Sequence[Table]]]:
    """Split blocks into a part for each combination of values in `headings`, in the order of the rows.

    A part has no block that is empty but for the columns `keys`.
    """
    if not headings:
        yield "", blocks
        return
    places: dict[tuple[str, ...], list[int]] = {}
    for place, values in enumerate(zip(*(column.cells for column in headings), strict=True)):
        places.setdefault(values, []).append(place)
    for values, rows in places.items():
        heading = ", ".join(value for value in values if value != "-")
        part = [{name: [cells[row] for row in rows] for name, cells in block.items()} for block in blocks]
        filled = [block for block in part if any({*block[name]} != {"-"} for name in block if name not in keys)]
        yield heading, filled or part[:1]
