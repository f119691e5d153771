"""`bandlens compare`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...core.errors import plural, some_of
from ..api import results
from ..printing import (
    Format,
    TableFormat,
    condition_in_words,
    print_document,
    print_note,
    print_tables,
)
from ..terminal import command

if TYPE_CHECKING:
    import polars as pl

    from ...analysis.comparison.runs import Comparison

MOST_CELLS = 10
"""The number of cells of one run alone that are listed."""
TITLES = ("checkpoint", "image_set")
"""Columns that become headings on a terminal without room for them."""
TABLES = {
    "cells": ("cell", "cells"),
    "metrics": ("metric", "metrics"),
    "conditions": ("metric of conditions", "metrics of conditions"),
}
"""Table of a comparison -> what one of its rows is called, and what several are, which is its title."""
CELL_COLUMNS = (
    "p_holm", "changed", "top1_a", "top1_b", "n", "lost", "gained", "kappa", "p", "p_bh", "detectable",
    "differs_in", "note",
)  # fmt: skip
"""Columns of a cell after the condition and the difference."""


def print_comparison(
    comparison: Comparison,
    all_rows: Annotated[bool, typer.Option("--all")] = False,
    table_format: TableFormat = Format.table,
) -> None:
    """Examples: bandlens compare study@1 study@2 --db results.duckdb, bandlens compare study --checkpoints
    resnet50.a1_in1k,resnet50.a2_in1k

    Args:
        all_rows: list what shows no difference, too, as json does.
    """
    if table_format.is_for_programs:
        print_document(_document(comparison), table_format)
    else:
        _print(comparison, comparison if all_rows else comparison.beyond_chance(), table_format)


def _document(comparison: Comparison) -> dict[str, Any]:
    frames = {name: getattr(comparison, name).drop("cycles", strict=False) for name in (*TABLES, "only_a", "only_b")}
    return {
        "a": comparison.a,
        "b": comparison.b,
        "verdict": comparison.verdict.sentences,
        "same_cells": comparison.same,
        "compared_cells": len(comparison.cells),
        **{name: frame.to_dicts() for name, frame in frames.items()},
        "no_metrics": comparison.no_metrics,
    }


def _print(comparison: Comparison, excerpt: Comparison, table_format: Format) -> None:
    note, in_words = partial(print_note, table_format=table_format), table_format == Format.table
    note("\n".join(comparison.verdict.sentences))
    note(f"A: {comparison.a}\nB: {comparison.b}")
    _print_counts(comparison, note)
    tables = {
        f"Cells: {checkpoint} on {image_set}": _cell_rows(cells, in_words)
        for (checkpoint, image_set), cells in excerpt.cells.group_by("checkpoint", "image_set", maintain_order=True)
    }
    frames = {name: getattr(excerpt, name) for name in TABLES if name != "cells"}
    tables |= {TABLES[name][1].capitalize(): _rows_in_words(frame) for name, frame in frames.items() if len(frame)}
    if in_words and tables:
        print()
    print_tables(tables, table_format, titles=TITLES)
    hidden_counts = {name: len(getattr(comparison, name)) - len(getattr(excerpt, name)) for name in TABLES}
    if any(hidden_counts.values()):
        counts = ", ".join(f"{count:,} {TABLES[name][count > 1]}" for name, count in hidden_counts.items() if count)
        note(f"\nno difference found: {counts}; --all says what could have been (detectable)")


def _print_counts(comparison: Comparison, note: Callable[[str], None]) -> None:
    """Say how many cells both runs have, how many of them differ or cannot be compared, and which one run alone has."""
    from ...analysis.comparison.cells import DIFFERS

    count_differing = len(comparison.cells.filter(DIFFERS))
    shared = comparison.same + len(comparison.cells)
    cell_counts = [f"{count_differing} differ{'s' if count_differing == 1 else ''} in accuracy (p < 0.05 after Holm)"]
    if comparison.same:
        cell_counts.insert(0, f"{comparison.same} {'is' if comparison.same == 1 else 'are'} one and the same")
    note(f"Both have {plural(shared, 'cell')}: {', '.join(cell_counts)}")
    for reason, count in comparison.cells["note"].drop_nulls().value_counts().sort("note").rows():
        note(f"{count} of them {'is' if count == 1 else 'are'} not compared: {reason}")
    for side, cells in (("A", comparison.only_a), ("B", comparison.only_b)):
        if len(cells):
            count = f"{len(cells)} {'cell is' if len(cells) == 1 else 'cells are'}"
            names = [f"{row['checkpoint']} {row['image_set']} {condition_in_words(row)}" for row in cells.to_dicts()]
            note(f"{count} in {side} only: {some_of(names, MOST_CELLS, '; ')}")


def _cell_rows(cells: pl.DataFrame, in_words: bool) -> list[dict[str, Any]]:
    """Rows of one checkpoint and image set, which a table need not repeat.

    With the difference and its interval `in_words`, 80 columns have room for both.
    """
    from ...analysis.comparison.verdict import difference_in_words

    columns = [name for name in ("difference", *CELL_COLUMNS) if name in _filled_columns(cells)]
    rows = cells.to_dicts()
    if in_words:
        rows = [row | {"difference": None if row["difference"] is None else difference_in_words(row)} for row in rows]
    elif "difference" in columns:
        columns[1:1] = ["low", "high"]
    return [{"condition": condition_in_words(row)} | {name: row[name] for name in columns} for row in rows]


def _rows_in_words(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows without the columns that are empty, and with conditions in words."""
    columns = [column for column in frame.columns if column == "cycles" or column in _filled_columns(frame)]
    rows = frame.select(columns).to_dicts()
    if "parameters" in columns:
        rows = [row | {"probe": condition_in_words(row)} for row in rows]
    names = {name: name for name in columns if name not in ("parameters", "cycles")}
    if "parameters" in columns:
        names["probe"] = "condition"
    return [{title: row[name] for name, title in names.items()} for row in rows]


def _filled_columns(frame: pl.DataFrame) -> list[str]:
    return [column for column in frame.columns if frame[column].null_count() < len(frame)]


COMMANDS: dict[str, Any] = {"compare": command(results.compare, print_comparison)}
