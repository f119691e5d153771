"""Data classes for the parts of a report, and rendering of the HTML page.

The parts contain plain text and data frames. All escaping happens here: the template escapes text, and charts are JSON
that cannot close its script element.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from itertools import chain
from typing import Any

import polars as pl
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from ...analysis.charts.grammar import begin_libraries, colors, series_of
from ...core import __version__

WRAPPED_LETTERS = 40
"""Maximum number of characters of a table cell without line breaks."""
CITATION = (
    "@software{bandlens, author = {{The bandlens maintainers}}, "
    "title = {bandlens: which image frequencies a classifier lives on}, "
    f"version = {{{__version__}}}, year = {{2026}}}}"
)
"""BibTeX entry of this software."""
PAGE_ROWS = 3000
"""Maximum number of rows of a table on the page."""
METRIC_COLUMNS = ("checkpoint", "category", "metric", "value", "low", "high", "state", "note")
"""Columns of a table of metrics."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A group of panels, which the page shows as a grid. Exported files contain one panel each."""

    name: str
    """Anchor of the figure on the page."""
    title: str
    caption: Sequence[str]
    """How to read the figure, in parts. The page shows each part only once per section."""
    panels: Mapping[str, Any]
    """Short title -> Altair chart."""
    columns: int
    """Columns of the grid. In exported files, panels of a figure with one column are two journal columns wide."""
    table: pl.DataFrame
    """Numbers that the figure shows."""
    legend: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Model or category -> color and shape of its marks. Readers can select an entry."""
    models: Sequence[str] = ()
    """Models that readers can select from a list, in addition to the legend."""
    folded: bool = False
    """Whether the figure is collapsed, and drawn only when a reader expands it."""


@dataclass(frozen=True, slots=True)
class Table:
    """A data frame that the page shows as a table."""

    title: str
    frame: pl.DataFrame
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Tile:
    """Small image with a caption."""

    source: str
    """Image as a data: URI."""
    caption: str
    description: str
    """Alternative text for screen readers."""


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page: text, figures, tables and images."""

    name: str
    """Anchor of the section on the page."""
    title: str
    text: Sequence[str]
    """Paragraphs."""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    tiles: Mapping[str, Sequence[Tile]] = field(default_factory=dict)
    """Title of a row -> its images."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Names and values, shown as a list."""
    listing: str = ""
    """Preformatted text, such as the study file."""

    @property
    def caption(self) -> str:
        """How to read the figures, without repeated parts."""
        return " ".join(dict.fromkeys(chain.from_iterable(figure.caption for figure in self.figures)))


def slug(text: str) -> str:
    """Convert text to a file name or anchor with only lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


def key(rows: pl.DataFrame) -> dict[str, Any]:
    """Return the arguments of `Figure` for selecting models: a legend if there are several, and possibly a list."""
    models = rows["checkpoint"].unique().sort().to_list()
    if len(models) < 2:
        return {}
    field = series_of(rows)
    legend = colors(models if field == "model" else rows["category"].unique().sort())
    return {"legend": legend, "models": () if field == "model" else models}


# Page


def render(title: str, sections: Sequence[Section]) -> str:
    """Render the page. Its content security policy allows only its two scripts, by hash, and no network access."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"cell": cell, "rows": table_rows}
    program, libraries = _asset("page.js"), begin_libraries().result()
    libraries = libraries.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    headings, specs = dict[str, tuple[str, list[str]]](), dict[str, dict[str, Any]]()
    for figure in (figure for section in sections for figure in section.figures):
        for number, panel in enumerate(figure.panels.values()):
            spec, name = spec_of(panel), f"{figure.name}-{number}"
            headings[name] = heading(spec.pop("title", ""))
            specs[name] = page_spec(spec, headings[name][0], figure)
    return environment.from_string(_asset("page.html")).render(
        title=title,
        sections=sections,
        style=_trusted(_asset("page.css")),
        libraries=_trusted(libraries),
        program=_trusted(program),
        headings=headings,
        specs=_trusted(safe_json(specs)),
        hashes=[_hash(libraries), _hash(program)],
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        citation=CITATION,
        most_rows=PAGE_ROWS,
    )


def spec_of(panel: Any) -> dict[str, Any]:
    """Convert an Altair chart to Vega-Lite, without validation, which would take half of the time. Tests validate."""
    spec: dict[str, Any] = panel.to_dict(validate=False)
    return spec


def page_spec(spec: dict[str, Any], title: str, figure: Figure) -> dict[str, Any]:
    """Adapt a panel to the page: it fills the available width and omits its legend if the page shows one."""
    if figure.legend:
        for part in (spec, *spec.get("layer", [])):
            encoding = part.get("encoding", {})
            for channel in {"color", "shape"} & encoding.keys():
                if encoding[channel].get("type") != "quantitative":
                    encoding[channel]["legend"] = None
    return spec | {
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "description": f"{figure.title}: {title}",
    }


def safe_json(value: Any) -> str:
    """Convert a value to JSON for a script element. No text in it can close the element or open a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def table_rows(frame: pl.DataFrame) -> Markup:
    """Render the rows of a table column by column, because tables of a thousand models have half a million cells."""
    columns = [_cells(column) for column in frame.head(PAGE_ROWS)]
    return Markup("".join(f"<tr>{''.join(row)}</tr>\n" for row in zip(*columns, strict=True)))  # noqa: S704


def _cells(column: pl.Series) -> list[str]:
    """Return the HTML elements of a column. Numbers need no escaping."""
    values = column.to_list()
    if column.dtype.is_numeric():
        return [f'<td class="n">{cell(value)}</td>' for value in values]
    # Cache the elements, because names and settings are repeated in thousands of rows.
    return list(map(cache(_text_cell), values))


def _text_cell(value: Any) -> str:
    words = ' class="long"' if isinstance(value, str) and len(value) > WRAPPED_LETTERS else ""
    return f"<td{words}>{escape(cell(value))}</td>"


def cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def heading(title: Any) -> tuple[str, list[str]]:
    """Return the title and the lines of the subtitle from a Vega-Lite title. The page wraps them."""
    if not isinstance(title, dict):
        return str(title), []
    below = title.get("subtitle", [])
    return str(title["text"]), [below] if isinstance(below, str) else list(below)


def _trusted(text: str) -> Markup:
    """Mark text as safe HTML: either part of this program, or already escaped for its context."""
    return Markup(text)  # noqa: S704


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
