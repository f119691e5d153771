"""`bandlens compare`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...core.errors import plural, some_of
from ..api import results
from ..printing import Format, TableFormat, condition_in_words, print_document, print_note, print_rows, print_tables
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
STAR = "*: p below 0.05 after Holm, of accuracies alone; --all has p, states, and what the two differ in"
"""The meaning of the column `*`."""


def print_comparison(
    comparison: Comparison,
    all_rows: Annotated[bool, typer.Option("--all")] = False,
    table_format: TableFormat = Format.table,
) -> None:
    """Examples: bandlens compare study@1 study@2 --db results.duckdb, bandlens compare study --checkpoints
    resnet50.a1_in1k,resnet50.a2_in1k

    Args:
        all_rows: list what shows no difference, too, with every column, as json does.
    """
    if table_format.is_for_programs:
        print_document(_document(comparison), table_format)
    else:
        _print(comparison, all_rows, table_format)


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


def _print(comparison: Comparison, all_rows: bool, table_format: Format) -> None:
    note, in_words = partial(print_note, table_format=table_format), table_format == Format.table
    note("\n".join(comparison.verdict.sentences))
    note(f"A: {comparison.a}\nB: {comparison.b}")
    _print_counts(comparison, note)
    excerpt = comparison if all_rows else comparison.beyond_chance()
    frames = {TABLES[name][1].capitalize(): getattr(excerpt, name) for name in TABLES}
    tables = {title: _rows_in_words(frame) for title, frame in frames.items() if len(frame)}
    if in_words and tables:
        print()
    if all_rows:
        print_tables(tables, table_format, titles=TITLES)
    elif tables:
        print_rows(_difference_rows(excerpt), table_format, titles=TITLES)
        note(f"\n{STAR}")
    hidden_counts = {name: len(getattr(comparison, name)) - len(getattr(excerpt, name)) for name in TABLES}
    if any(hidden_counts.values()):
        counts = ", ".join(f"{count:,} {TABLES[name][count > 1]}" for name, count in hidden_counts.items() if count)
        note(f"\nno difference found: {counts}; --all says what could have been (detectable)")


def _difference_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Rows of one table of accuracies by condition and of metrics, to three digits."""
    import polars as pl

    from ...analysis.comparison.cells import DIFFERS
    from ...analysis.comparison.verdict import difference_in_words, value_in_words

    cells = comparison.cells.rename({"top1_a": "value_a", "top1_b": "value_b"})
    rows = pl.concat([cells, comparison.metrics, comparison.conditions], how="diagonal_relaxed").with_columns(
        pl.col("value_a", "value_b").round(3), **{"*": pl.when(DIFFERS).then(pl.lit("*"))}
    )
    return [
        {name: row[name] for name in TITLES}
        | {"name": f"{row['metric'] or ''} {condition_in_words(row)}".strip()}
        | {side.upper(): value_in_words(row[f"value_{side}"], row[f"state_{side}"]) for side in "ab"}
        | {"difference": None if row["difference"] is None else difference_in_words(row | {"metric": ""})}
        | {"n": row["n"], "*": row["*"]}
        for row in rows.to_dicts()
    ]


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


def _rows_in_words(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows without the columns that are empty, and with conditions in words."""
    columns = [name for name in frame.columns if name == "cycles" or frame[name].null_count() < len(frame)]
    rows = frame.select(columns).to_dicts()
    if "parameters" in columns:
        rows = [row | {"probe": condition_in_words(row)} for row in rows]
    names = {name: name for name in columns if name not in ("parameters", "cycles")}
    if "parameters" in columns:
        names["probe"] = "condition"
    return [{title: row[name] for name, title in names.items()} for row in rows]


COMMANDS: dict[str, Any] = {"compare": command(results.compare, print_comparison)}
