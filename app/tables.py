"""A table on a terminal: whatever the width, every number and every state is shown.

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
import unicodedata
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest
from typing import Any

from ..core.untrusted import printable

SHORTEST = 24
"""Characters to which text is shortened."""
SHORTEST_KEY = 8
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
    if _width(table) <= width:
        return TableLayout([("", [table])])
    table = join_intervals(table)
    columns, repeated, left_out = dict(table), dict[str, str](), list[str]()
    for name in sorted(table, key=lambda name: set(table[name]) != {"-"}):  # empty columns first
        if _width(columns) <= width or len(columns) == 1:
            break
        values = set(table[name])
        if values == {"-"}:
            left_out.append(name)
        elif len(values) == 1 and len(table[name]) > 1:
            repeated[name] = table[name][0]
        else:
            continue
        del columns[name]
    headings = dict[str, Sequence[str]]()
    if _width(columns, SHORTEST) > width:
        names = [name for name in columns if name in titles][: len(columns) - 1]
        headings = {name: columns.pop(name) for name in names}
    keys, longest = _keys(columns, headings, width)
    for name in reversed([*columns]):
        if _width(columns, longest) <= width:
            break
        if name not in keys and not _measure(name, tuple(columns[name]))[1]:
            del columns[name]
            left_out.append(name)
    blocks = [_shrink(block, width, longest) for block in _fold(columns, keys, width, longest)]
    return TableLayout(list(_parts(headings, blocks, keys)), repeated, sorted(left_out, key=[*table].index))


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
    if setting and len({UNNEEDED.sub("", text) for text in texts}) == len(set(texts)):
        texts = [UNNEEDED.sub("", text) for text in texts]
    head, tail = longest // 2, (longest - 1) // 2
    lines = {text: "\n".join(textwrap.wrap(text, longest, break_on_hyphens=False)) or text for text in texts}
    cuts = {
        text: text if len(text) <= longest else f"{text[:head]}…{text[len(text) - tail :]}"
        for text in lines
        if not PROSE.search(text)
    }
    alike = Counter((lines | cuts).values())
    return [cuts[text] if text in cuts and alike[cuts[text]] == 1 else lines[text] for text in texts]


@lru_cache(maxsize=1024)
def _measure(name: str, cells: tuple[str, ...]) -> tuple[int, bool]:
    """The width of a column, and whether it holds states or numbers, which are neither shortened nor left out."""
    fixed = name in STATES or all(NUMBER.fullmatch(cell) for cell in cells)
    return max(map(columns_of, (name, *cells))), fixed


def _size(name: str, cells: Sequence[str], longest: int | None = None) -> int:
    """Characters of a column with the space around it, where its text is at most `longest` long."""
    widest, fixed = _measure(name, tuple(cells))
    return 3 + (widest if longest is None or fixed else min(widest, max(longest, len(name))))


def _width(columns: Table, longest: int | None = None) -> int:
    return 1 + sum(_size(name, cells, longest) for name, cells in columns.items())


def _keys(columns: Table, headings: Table, width: int) -> tuple[Sequence[str], int]:
    """The columns that tell the rows apart, and the length of text with which they leave room for any other."""
    keys = list[str]()
    count, names = 0, list(zip(*headings.values(), strict=True)) or [()] * len(next(iter(columns.values())))
    for name, cells in columns.items():
        longer = [(*row, cell) for row, cell in zip(names, cells, strict=True)]
        if not keys or len(set(longer)) > count:
            keys.append(name)
            count, names = len(set(longer)), longer
    for number in range(len(keys), 0, -1):
        key_columns = {name: columns[name] for name in keys[:number]}
        for longest in range(SHORTEST, SHORTEST_KEY - 1, -1):
            sizes = (_size(name, cells, longest) for name, cells in columns.items() if name not in key_columns)
            if _width(key_columns, longest) + max(sizes, default=0) <= width:
                return keys[:number], longest
    return keys[:1], SHORTEST_KEY


def _fold(columns: Table, keys: Sequence[str], width: int, longest: int) -> list[dict[str, Sequence[str]]]:
    """Split a table into blocks that fit, each of which begins with the columns `keys`."""
    blocks = [{name: columns[name] for name in keys}]
    for name in columns:
        if name not in keys:
            if len(blocks[-1]) > len(keys) and _width({**blocks[-1], name: columns[name]}, longest) > width:
                blocks.append({key: columns[key] for key in keys})
            blocks[-1][name] = columns[name]
    return blocks


def _shrink(block: Table, width: int, shortest: int) -> Table:
    """Shorten the texts of a block until it fits: the longest ones first, and those of its first column last."""
    first, *names = block
    columns = {name: block[name] for name in names}
    room = width - _size(first, block[first])
    longest = next((number for number in range(width, shortest - 1, -1) if _width(columns, number) <= room), None)
    lengths = dict.fromkeys(names, longest or shortest)
    if longest is None:
        lengths[first] = max(shortest, width - _width(columns, shortest) - 3)
    return {name: _shorten_column(name, cells, lengths.get(name)) for name, cells in block.items()}


def _shorten_column(name: str, cells: Sequence[str], longest: int | None) -> Sequence[str]:
    """The cells, of which no line is longer than `longest` or the name of the column."""
    widest, fixed = _measure(name, tuple(cells))
    limit = max(longest or widest, len(name))
    return cells if fixed or widest <= limit else shorten(cells, limit, name in SETTINGS)


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
