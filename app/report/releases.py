"""The section of releases: the verdicts of `bandlens gate` on the study."""

from __future__ import annotations

import polars as pl

from ...analysis.comparison.gates import VERDICTS, count_verdicts
from .data import ReportData
from .sections import Section, Table

COLUMNS = (
    *("against", "checkpoint", "image_set", "probe", "parameters", "cycles", "slice", "measure", "n", "before", "now"),
    *("loss", "loss_low", "loss_high", "margin", "verdict", "needed", "flips", "relative_flips", "decided"),
)
"""Columns of the table of verdicts."""


def releases_section(results: ReportData) -> Section:
    """The counts of verdicts against each release before this one, the rows that do not pass, and all rows."""
    rows = results.releases.select(COLUMNS)
    text = [
        f"Against {against}: {', '.join(f'{len(part.filter(verdict=name)):,} {name}' for name in VERDICTS)}."
        for (against,), part in rows.group_by("against", maintain_order=True)
    ]
    tables = [
        Table("Verdicts by checkpoint", count_verdicts(rows, "loss")),
        Table("Rows that do not pass", rows.filter(pl.col("verdict") != "pass"), folded=True),
        Table("All rows", rows, folded=True),
    ]
    return Section("releases", "Does it answer no worse than the release before it?", text, tables=tables)
