"""`bandlens analyze`, `measures`, `consistency`, `report`, `explore` and `cite`: what a results database holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ...core.errors import amount, plural, some_of
from ...core.protocol import MODEL_VS_HUMAN, UNCOUNTED_CONDITIONS
from ..api import results
from ..console import log
from ..printing import (
    Format,
    Rows,
    TableFormat,
    condition_in_words,
    print_note,
    print_rows,
    print_table,
    print_tables,
    print_text,
)
from ..terminal import command

if TYPE_CHECKING:
    from polars import DataFrame

    from ..api.parameters import File
    from ..report.build import Written


TITLES = ("study", "checkpoint", "image_set")
"""Columns that become headings on a terminal without room for them."""
CONDITION_COLUMNS = (
    *(*TITLES, "metric", "condition", "value", "low", "high", "state"),
    *("difference", "difference_low", "difference_high", "n", "note"),
)
"""Columns of the table of conditions, each with its parameters in words."""

MOST_NAMES = 10
"""The number of metrics or checkpoints that a reason lists."""


def print_metrics(metrics: DataFrame, conditions: bool, table_format: TableFormat = Format.table) -> None:
    """Example: bandlens analyze --db results.duckdb --format csv"""
    rows = metrics.to_dicts()
    if not rows:
        log.info(
            "no metric has its conditions yet; `bandlens plan STUDY.toml` says what is missing, and which it will have"
        )
    if conditions and not table_format.is_for_programs:
        rows = [row | {"condition": condition_in_words(row)} for row in rows]
        rows = [{name: row[name] for name in CONDITION_COLUMNS} for row in rows]
    else:
        omissions = ("study_id", "checkpoint_id", "image_set_id", "condition_id", "cycles")
        rows = metrics.drop(*omissions, strict=False).to_dicts()
    valueless = metrics.filter(metrics["value"].is_null())
    if not table_format.is_for_programs:
        rows = [row for row in rows if row["value"] is not None]
    print_rows(rows, table_format, titles=(*TITLES, "metric") if conditions else TITLES)
    if len(valueless) and not table_format.is_for_programs:
        print_note("\n".join(["", *_reasons(valueless)]), table_format)


def _reasons(valueless: DataFrame) -> Iterator[str]:
    """Yield a line for each reason why numbers have no value."""
    for (state, note), rows in valueless.group_by("state", "note", maintain_order=True):
        metrics, *subjects = (
            some_of(rows[column].drop_nulls().unique(maintain_order=True), MOST_NAMES)
            for column in ("metric", "checkpoint", "image_set", "study")
        )
        yield f"no value ({state}) of {metrics} by {', '.join(filter(None, subjects))}: {note}"


def print_consistency(
    tables: Mapping[str, Rows], images: str, convention: str, table_format: TableFormat = Format.table
) -> None:
    """Example: bandlens consistency cue-conflict --db results.duckdb"""
    if "kappa" in tables:
        if not tables["kappa"]:
            has_more = convention == MODEL_VS_HUMAN and images in UNCOUNTED_CONDITIONS
            advice = " of a condition that counts; --convention all counts all" if has_more else ""
            log.info(f"no two judged the same images{advice}")
        print_rows(tables["kappa"], table_format, titles=("images", "condition", "convention"))
    else:
        print_tables(tables, table_format, titles=("checkpoint", "convention"))


def print_written(report: Written, folder: File) -> None:
    """Example: bandlens report --db results.duckdb --out report.html"""
    sections, charts = plural(report.sections, "section"), plural(report.charts, "chart")
    print(f"{report.out}: {sections}, {charts}, {amount(report.bytes)}")
    if report.figures:
        print(f"{folder}: {plural(len(report.figures), 'file')}")


def print_address(address: str, sets: int) -> None:
    """Say where the explorer's page is, as soon as it is served."""
    hint = "" if sets else " beside the database; name their folder with --images"
    print(f"{address}\n{plural(sets, 'image set')} found{hint}; Ctrl-C ends it", flush=True)


COMMANDS: dict[str, Any] = {
    "measures": {
        "list": command(results.list_measures, print_table, "Example: bandlens measures list --study study.toml")
    },
    "analyze": command(results.analyze, print_metrics),
    "consistency": command(results.consistency, print_consistency),
    "report": command(results.report, print_written),
    "explore": command(
        results.explore, example="Example: bandlens explore --db results.duckdb --images sets", tell=print_address
    ),
    "cite": command(results.cite, print_text, "Example: bandlens cite mine@1 --db results.duckdb > study.bib"),
}
