"""A table on a terminal: whatever the width, every number and every state is shown.

A table that is too wide is changed in this order until it fits:

1. An interval is joined to its value, as in `0.25 [0.2, 0.31]`.
2. A column with the same value in every row is taken out and named with that value; empty ones go first.
3. Text goes on in the next line after 24 characters; a setting loses the names of its parameters and its unit.
4. The columns of `titles` become the heading of a table for each of their combinations.
5. What still has no room continues in further blocks, and each of them repeats the columns that tell rows apart.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product, zip_longest
from typing import Any

from ..core.untrusted import printable

SHORTEST = 24
"""Characters after which text goes on in the next line."""
SHORTEST_KEY = 8
"""The same where the names of rows leave no room for numbers."""
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

Table = Mapping[str, Sequence[str]]
"""Column -> the text of its cells."""


@dataclass(frozen=True, slots=True)
class TableLayout:
    """A table as it is printed."""

    parts: Sequence[tuple[str, Sequence[Table]]]
    """The heading of each part, and its blocks; the heading is empty where there is one part."""
    repeated: Mapping[str, str] = field(default_factory=dict)
    """Columns that were taken out, each with the value that it has in every row."""


def cell_text(value: Any) -> str:
    """A value as it stands in a table that people read: a float has four digits, and no value is a hyphen."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def columns_of(text: str) -> int:
    """The columns of a terminal that a text takes: two for a wide letter, none for one that joins another."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text
    )


def draw(block: Table, numeric: Container[str]) -> str:
    """A block of a table as lines, in which the columns `numeric` stand at the right."""
    columns = [[[name], *(cell.split("\n") for cell in cells)] for name, cells in block.items()]
    sizes = [max(columns_of(line) for cell in column for line in cell) for column in columns]
    lines = []
    for row in zip(*columns, strict=True):
        for texts in zip_longest(*row, fillvalue=""):
            cells = []
            for name, text, size in zip(block, texts, sizes, strict=True):
                blank = " " * (size - columns_of(text))
                cells.append(f"{blank}{text}" if name in numeric else f"{text}{blank}")
            lines.append(f"  {'   '.join(cells)}".rstrip())
    rule = " " + "─" * (sum(sizes) + 3 * len(sizes) - 1)
    return "\n".join([lines[0], rule, *lines[1:]])


def lay_out(table: Table, width: int, titles: Sequence[str] = ()) -> TableLayout:
    """Lay out a table in `width` characters. A single column or number that is wider stays as it is."""
    if _Widths(table).block(table) <= width:
        return TableLayout([("", [table])])
    columns, repeated, headings = dict(join_intervals(table)), dict[str, str](), dict[str, Sequence[str]]()
    widths = _Widths(columns)
    for name, cells in sorted(columns.items(), key=lambda column: set(column[1]) != {"-"}):  # empty columns first
        if widths.block(columns) <= width or len(columns) == 1:
            break
        if len(set(cells)) == 1 and (len(cells) > 1 or cells[0] == "-"):
            repeated[name] = cells[0]
            del columns[name]
    if widths.block(columns, SHORTEST) > width:
        names = [name for name in columns if name in titles][: len(columns) - 1]
        headings = {name: columns.pop(name) for name in names}
    keys, longest = _keys(columns, headings, widths, width)
    blocks = [[*keys]]
    for name in columns:
        if name not in keys:
            if len(blocks[-1]) > len(keys) and widths.block([*blocks[-1], name], longest) > width:
                blocks.append([*keys])
            blocks[-1].append(name)
    wrapped = [_wrap_block({name: columns[name] for name in names}, widths, width, longest) for names in blocks]
    return TableLayout(list(_parts(headings, wrapped, keys)), repeated)


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


def wrap(texts: Sequence[str], longest: int, column: str = "") -> list[str]:
    """Wrap texts to lines of at most `longest` characters.

    Those of a column of SETTINGS lose what is UNNEEDED first, unless that is all that tells two of them apart.
    """
    short = [UNNEEDED.sub("", text) for text in texts]
    texts = short if column in SETTINGS and len(set(short)) == len(set(texts)) else texts
    return ["\n".join(textwrap.wrap(text, longest, break_on_hyphens=False)) or text for text in texts]


class _Widths:
    """The widths of the columns of a table."""

    def __init__(self, table: Table) -> None:
        self.widest = {name: max(map(columns_of, (name, *cells))) for name, cells in table.items()}
        self.fixed = {
            name for name, cells in table.items() if name in STATES or all(NUMBER.fullmatch(cell) for cell in cells)
        }
        """Columns of states and numbers, which are not wrapped."""

    def column(self, name: str, longest: int | None = None) -> int:
        """Characters of a column with the space around it, where its text is at most `longest` long."""
        widest = self.widest[name]
        return 3 + (widest if longest is None or name in self.fixed else min(widest, max(longest, len(name))))

    def block(self, names: Iterable[str], longest: int | None = None) -> int:
        """Characters of a block of columns."""
        return 1 + sum(self.column(name, longest) for name in names)


def _keys(columns: Table, headings: Table, widths: _Widths, width: int) -> tuple[Sequence[str], int]:
    """The columns that tell the rows apart, and the length of text with which they leave room for any other."""
    keys = list[str]()
    count, names = 0, list(zip(*headings.values(), strict=True)) or [()] * len(next(iter(columns.values())))
    for name, cells in columns.items():
        longer = [(*row, cell) for row, cell in zip(names, cells, strict=True)]
        if not keys or len(set(longer)) > count:
            keys.append(name)
            count, names = len(set(longer)), longer
    for number, longest in product(range(len(keys), 0, -1), range(SHORTEST, SHORTEST_KEY - 1, -1)):
        others = (widths.column(name, longest) for name in columns if name not in keys[:number])
        if widths.block(keys[:number], longest) + max(others, default=0) <= width:
            return keys[:number], longest
    return keys[:1], SHORTEST_KEY


def _wrap_block(block: Table, widths: _Widths, width: int, shortest: int) -> Table:
    """Wrap the texts of a block to the longest lines with which it fits, or to the shortest."""
    longest = next((size for size in range(width, shortest, -1) if widths.block(block, size) <= width), shortest)
    return {
        name: cells
        if widths.column(name, longest) == widths.column(name)
        else wrap(cells, max(longest, len(name)), name)
        for name, cells in block.items()
    }


def _parts(headings: Table, blocks: Sequence[Table], keys: Container[str]) -> Iterator[tuple[str, Sequence[Table]]]:
    """Split blocks into a part for each combination of values in `headings`, in the order of the rows.

    A part has no block that is empty but for the columns `keys`.
    """
    if not headings:
        yield "", blocks
        return
    places: dict[tuple[str, ...], list[int]] = {}
    for place, values in enumerate(zip(*headings.values(), strict=True)):
        places.setdefault(values, []).append(place)
    for values, rows in places.items():
        part = [{name: [cells[row] for row in rows] for name, cells in block.items()} for block in blocks]
        filled = [block for block in part if any({*block[name]} != {"-"} for name in block if name not in keys)]
        yield ", ".join(value for value in values if value != "-"), filled or part[:1]
