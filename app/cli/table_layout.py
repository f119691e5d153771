"""A table on a terminal: whatever the width, every number and every state is shown.

A table that is too wide is changed in this order until it fits:

1. An interval is joined to its value, as in `0.25 [0.2, 0.31]`, and a column with the same value in every row is taken
   out and named with that value.
2. Text goes on in the next line.
3. The columns of `titles` become the heading of a table for each of their combinations.
4. What still has no room continues in further blocks, and each of them repeats the columns that name the rows.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import product, takewhile, zip_longest
from typing import Any

from ...core.untrusted import printable

TEXT_WIDTH = 26
"""The width in which text stands at least, except where the names of rows leave no room for numbers."""
NARROW_TEXT = 16
"""The same where a table then has room in one block."""
NAME_WIDTH = 8
"""The same where they leave none."""
STATES = frozenset(("state", "state_a", "state_b", "status", "verdict"))
"""Columns that say what a number is worth, or how a check ended."""
ESTIMATES = frozenset(("difference", "kappa", "top1", "value"))
"""Columns that an interval `low`, `high` beside them belongs to."""
NUMBER = re.compile(r"([-+−\d.,e %\[\]…*]|inf|nan|True|False)*")
"""The text of a number, of several, or of an interval."""

Table = Mapping[str, Sequence[str]]
"""Column -> the text of its cells."""


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


def lay_out(
    table: Table, numeric: Container[str], width: int, heading: str = "", titles: Sequence[str] = ()
) -> Iterator[str]:
    """Lay out a table in `width` characters: the heading, blocks and what is said of all rows, each a text.

    A single column or number that is wider stays as it is.
    """
    repeated: dict[str, str] = {}
    if _width(_widths(table).values(), width) > width:
        table = join_intervals(table)
        repeated = {
            name: cells[0]
            for name, cells in table.items()
            if name not in STATES and len(set(cells)) == 1 and (len(cells) > 1 or cells[0] == "-")
        }
        if len(repeated) == len(table):  # all rows are alike: one column shows how many there are
            del repeated[next(iter(table))]
        table = {name: cells for name, cells in table.items() if name not in repeated}
    names = [name for name in table if name in titles]
    if 0 < len(names) < len(table) and _width(_widths(table).values(), TEXT_WIDTH) > width:
        for part_heading, part in _split(table, names):
            yield from lay_out(part, numeric, width, ": ".join(filter(None, (heading, part_heading))))
    else:
        if heading:
            yield fill(heading, width)
        for block in _blocks(table, width):
            yield draw(block, numeric)
    if repeated:
        yield fill(f"in every row: {', '.join(f'{name} = {value}' for name, value in repeated.items())}", width)


def fill(text: str, width: int, indent: str = "") -> str:
    """Wrap a text to lines of `width` characters; a word with hyphens stays whole."""
    return (
        textwrap.fill(text, width, break_on_hyphens=False, initial_indent=indent, subsequent_indent=2 * indent) or text
    )


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
    columns = dict[str, Sequence[str]]()
    for name in names:
        if name in ends:
            cells = zip(table[name], *(table[end] for end in ends[name]), strict=True)
            columns[f"{name} [low, high]"] = [
                value if low == high == "-" else f"{value} [{low}, {high}]" for value, low, high in cells
            ]
        elif not any(name in pair for pair in ends.values()):
            columns[name] = table[name]
    return columns


def _is_text(name: str, cells: Sequence[str]) -> bool:
    """Whether a column may be wrapped: it has neither states nor numbers alone."""
    return name not in STATES and not all(map(NUMBER.fullmatch, cells))


def _widths(table: Table) -> dict[str, tuple[int, int]]:
    """The least width of each column, and that without wrapping."""
    widest = {name: max(map(columns_of, (name, *cells))) for name, cells in table.items()}
    return {name: (len(name) if _is_text(name, table[name]) else size, size) for name, size in widest.items()}


def _width(widths: Iterable[tuple[int, int]], text_width: int) -> int:
    """The width of a block of columns with the space around them, where text stands in `text_width`."""
    return 1 + sum(3 + min(max_width, max(text_width, min_width)) for min_width, max_width in widths)


def _split(table: Table, names: Sequence[str]) -> Iterator[tuple[str, Table]]:
    """Split a table by the values of the columns `names`, without the columns that are empty then."""
    rows_of: dict[tuple[str, ...], list[int]] = {}
    for row, values in enumerate(zip(*(table[name] for name in names), strict=True)):
        rows_of.setdefault(values, []).append(row)
    for values, rows in rows_of.items():
        part = {name: [cells[row] for row in rows] for name, cells in table.items() if name not in names}
        filled = {name: cells for name, cells in part.items() if {*cells} != {"-"}}
        yield ", ".join(value for value in values if value != "-"), filled or part


def _blocks(table: Table, width: int) -> Iterator[Table]:
    """Split a table into blocks of the columns that have room, and wrap their texts as far as each has to."""
    widths = _widths(table)
    texts = [name for name, _ in takewhile(lambda column: _is_text(*column), table.items())] or [*table][:1]
    enough, rows = 1, len(table[texts[0]])
    while enough < len(texts) and len({*zip(*(table[name] for name in texts[:enough]), strict=True)}) < rows:
        enough += 1
    for count, text_width in product(range(enough, 0, -1), range(TEXT_WIDTH, NAME_WIDTH - 1, -1)):
        keys = texts[:count]
        column_widths = [_width([widths[name]], text_width) - 1 for name in table if name not in keys]
        if _width((widths[name] for name in keys), text_width) + max(column_widths, default=0) <= width:
            break
    sizes = range(text_width, NARROW_TEXT - 1, -1)
    text_width = next((size for size in sizes if _width(widths.values(), size) <= width), text_width)
    blocks = [[*keys]]
    for name in table:
        if name not in keys:
            names = [*blocks[-1], name]
            if len(names) > len(keys) + 1 and _width((widths[name] for name in names), text_width) > width:
                blocks.append([*keys])
            blocks[-1].append(name)
    for names in blocks:
        sizes = range(width, text_width, -1)
        limit = next((size for size in sizes if _width((widths[name] for name in names), size) <= width), text_width)
        limits = {name: max(limit, widths[name][0]) for name in names}
        yield {
            name: [fill(cell, limits[name]) for cell in table[name]] if limits[name] < widths[name][1] else table[name]
            for name in names
        }
