"""The parts of a report, which hold plain text and frames, and the page that is made of them.

Everything is escaped here: text by the template, charts as JSON that no markup can end.
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
"""The characters of a text in a table above which it breaks into lines."""
CITATION = (
    "@software{bandlens, author = {{The bandlens maintainers}}, "
    "title = {bandlens: which image frequencies a classifier lives on}, "
    f"version = {{{__version__}}}, year = {{2026}}}}"
)
"""BibTeX of the program."""
PAGE_ROWS = 3000
"""The most rows that a table on the page shows."""
METRIC_COLUMNS = ("checkpoint", "category", "metric", "value", "low", "high", "state", "note")
"""Columns of a table of metrics."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Panels that belong together: a grid on the page; in files, each is by itself."""

    name: str
    """The figure's anchor on the page."""
    title: str
    caption: Sequence[str]
    """How to read it, in parts: the page says each once in a section."""
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
    def caption(self) -> str:
        """How to read the figures."""
        return " ".join(dict.fromkeys(chain.from_iterable(figure.caption for figure in self.figures)))


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


# The page


def render(title: str, sections: Sequence[Section]) -> str:
    """The page; it may run its own two scripts, by their hashes, and load nothing."""
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
    """The Vega-Lite of an Altair chart. Altair's validation would take half of a report's time; tests do it."""
    spec: dict[str, Any] = panel.to_dict(validate=False)
    return spec


def page_spec(spec: dict[str, Any], title: str, figure: Figure) -> dict[str, Any]:
    """A panel for the page: as wide as its place, and without the legend of models if the page has one."""
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
    """JSON for a script element: no text in it can close the element or open a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def table_rows(frame: pl.DataFrame) -> Markup:
    """The rows of a table, a column at a time: those of a thousand models have half a million cells."""
    columns = [_cells(column) for column in frame.head(PAGE_ROWS)]
    return Markup("".join(f"<tr>{''.join(row)}</tr>\n" for row in zip(*columns, strict=True)))  # noqa: S704


def _cells(column: pl.Series) -> list[str]:
    """Elements of a column's values; numbers need no escaping."""
    values = column.to_list()
    if column.dtype.is_numeric():
        return [f'<td class="n">{cell(value)}</td>' for value in values]
    # Names and settings come back in thousands of rows.
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
    """Title and lines of the subtitle of a chart, of what Vega-Lite calls its title. On the page, they break lines."""
    if not isinstance(title, dict):
        return str(title), []
    below = title.get("subtitle", [])
    return str(title["text"]), [below] if isinstance(below, str) else list(below)


def _trusted(text: str) -> Markup:
    """A text of the program, or one that is escaped for where it goes."""
    return Markup(text)  # noqa: S704


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
