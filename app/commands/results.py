"""`bandlens measures`, `report`, `explore` and `cite`: what a results database holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...core.errors import amount, plural
from ..api import results
from ..console import print_table
from ..terminal import command

if TYPE_CHECKING:
    from ..api.files import File
    from ..report.build import Written


def print_text(text: str) -> None:
    """Example: bandlens cite mine@1 --db results.duckdb > study.bib"""
    print(text)


def print_written(written: Written, folder: File) -> None:
    """Example: bandlens report --db results.duckdb --out report.html"""
    sections, charts = plural(written.sections, "section"), plural(written.charts, "chart")
    print(f"{written.out}: {sections}, {charts}, {amount(written.bytes)}")
    if written.figures:
        print(f"{folder}: {plural(len(written.figures), 'file')}")


def print_address(address: str, sets: int) -> None:
    """Say where the explorer's page is, as soon as it is served."""
    hint = "" if sets else " beside the database; name their folder with --images"
    print(f"{address}\n{plural(sets, 'image set')} found{hint}; Ctrl-C ends it", flush=True)


def print_nothing(_: None) -> None:
    """Example: bandlens explore --db results.duckdb --images sets"""


COMMANDS: dict[str, Any] = {
    "measures": {
        "list": command(results.list_measures, print_table, "Example: bandlens measures list --study study.toml")
    },
    "report": command(results.report, print_written),
    "explore": command(results.explore, print_nothing, tell=print_address),
    "cite": command(results.cite, print_text),
}
