"""The parts that a report is made of. Sections hold plain text and frames; page.py alone makes HTML of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from ...analysis.charts.grammar import colors, series_of

METRIC_COLUMNS = ("checkpoint", "category", "metric", "value", "low", "high", "state", "note")
"""Columns of a table of metrics."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Panels that belong together: a grid on the page; in files, each is by itself."""

    name: str
    """The figure's anchor on the page."""
    title: str
    caption: str
    panels: Mapping[str, Any]
    """Title in a word or two -> an Altair chart."""
    columns: int
    """Columns of the grid; in a file, a panel that has a row for itself is as wide as two columns of a journal."""
    table: pl.DataFrame
    """The numbers that the figure shows."""
    legend: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Name of a model or category -> colour and shape; what can be picked."""
    models: Sequence[str] = ()
    """Models that can be picked from a list, beside the legend."""
    folded: bool = False
    """Drawn when it is opened: for what few will look at."""


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    frame: pl.DataFrame
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Tile:
    """A small picture with its caption."""

    source: str
    """data: URI."""
    caption: str
    description: str


@dataclass(frozen=True, slots=True)
class Section:
    name: str
    title: str
    text: Sequence[str]
    """Paragraphs."""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    tiles: Mapping[str, Sequence[Tile]] = field(default_factory=dict)
    """Row title -> pictures."""
    facts: Mapping[str, str] = field(default_factory=dict)
    listing: str = ""
    """Text to show as it is: the study file."""

    @property
    def is_filled(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self.figures or self.tables or self.tiles or self.facts)


def slug(text: str) -> str:
    """The text as a file name and anchor: lower-case letters, digits and hyphens alone."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


def key(rows: pl.DataFrame) -> dict[str, Any]:
    """Arguments of a figure with which a reader picks: a legend where there are several models, and a list of these."""
    models = rows["checkpoint"].unique().sort().to_list()
    if len(models) < 2:
        return {}
    field = series_of(rows)
    legend = colors(models if field == "model" else rows["category"].unique().sort())
    return {"legend": legend, "models": () if field == "model" else models}
