"""Export charts for publications: each panel as SVG, PDF and PNG, one or two journal columns wide."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import polars as pl
import vl_convert

from ...analysis.charts.grammar import CONFIG, DOTS_PER_INCH, svg_of, words
from ...analysis.database.spreadsheet import spreadsheet_csv
from ...core.errors import UnknownName, writing
from ...core.files import write_bytes
from .page import Figure, heading, slug, spec_of

ALL_FIGURES = "all"
"""Name that selects every figure."""
ONE_COLUMN, TWO_COLUMNS = 3.5, 7.0
"""Width of a chart in one and in two journal columns, in inches."""
POINTS = 0.7
"""Size of a pixel in print, in points. Text of 10 to 12 pixels is printed at 7 to 8.4 pt. A column has 360 pixels."""
LETTER, BOLD_LETTER = 6, 7.5
"""Maximum average width of a character in labels and in titles, in pixels."""
LABELS_WIDTH = 110
"""Maximum width of axis labels to the left of a legend below the chart, in pixels. The axis title is not included."""
MOST_LETTERS = 120
"""Maximum length of a file name in characters."""
INDEX, COLUMNS = "figures.csv", ("file", "width_in", "title", "caption")
ENDINGS = ("svg", "pdf", "png")


@dataclass(frozen=True, slots=True)
class FigureFile:
    """A panel that is exported. Its files are named after its title."""

    name: str
    """Name of its files without extensions."""
    title: str
    figure: Figure
    panel: Any

    @property
    def inches(self) -> float:
        return TWO_COLUMNS if self.figure.columns == 1 else ONE_COLUMN


def choose_figures(figures: Iterable[Figure], names: Sequence[str]) -> list[FigureFile]:
    """Select the panels to export, and choose their file names.

    Args:
        figures: Figures of the report.
        names: File names of panels. The title of a figure, written as a file name, selects all of its panels, and `all`
            selects all figures.

    Raises:
        UnknownName: If no figure has one of the names.
    """
    files: dict[str, FigureFile] = {}
    for figure in figures:
        for panel_name, panel in figure.panels.items():
            title = figure.title if len(figure.panels) == 1 else f"{figure.title}: {words(panel_name)}"
            name = distinct_name(slug(title)[:MOST_LETTERS], files)
            files[name] = FigureFile(name, title, figure, panel)
    groups = dict.fromkeys(slug(file.figure.title) for file in files.values())
    for name in names:
        if name != ALL_FIGURES and name not in files and name not in groups:
            choices = dict.fromkeys((ALL_FIGURES, *groups, *files))
            raise UnknownName("figure", name, choices, f"`--figures {ALL_FIGURES}` writes each, and {INDEX} lists them")
    return [file for file in files.values() if not {ALL_FIGURES, file.name, slug(file.figure.title)}.isdisjoint(names)]


def write_figures(
    files: Sequence[FigureFile], folder: Path, advance: Callable[[float], None], sources: Sequence[Path] = ()
) -> list[Path]:
    """Write each panel as SVG, PDF and PNG, and a list as figures.csv, with the file permissions of `sources`."""
    names = [file.name for file in files]
    with writing(folder, "choose another --folder"):
        for file in files:
            svg = svg_of(printed(file.panel, file.figure, file.inches))
            for ending in ENDINGS:
                write_bytes(folder / f"{file.name}.{ending}", _converted(svg, ending), sources)
            advance(1)
        rows = [(file.name, file.inches, file.title, " ".join(file.figure.caption)) for file in files]
        write_bytes(folder / INDEX, spreadsheet_csv(pl.DataFrame(rows, COLUMNS, orient="row")).encode(), sources)
    return [folder / f"{name}.{ending}" for name in names for ending in ENDINGS] + [folder / INDEX]


def _converted(svg: str, ending: str) -> bytes:
    """Convert a chart to SVG, PDF or PNG at its print size."""
    if ending == "svg":
        return in_points(svg, "pt").encode()
    in_pixels = in_points(svg, "")  # without a unit, the converters read points in a PDF and 1/72 inch in a PNG
    if ending == "pdf":
        return bytes(vl_convert.svg_to_pdf(in_pixels))
    return bytes(vl_convert.svg_to_png(in_pixels, ppi=DOTS_PER_INCH))


def printed(panel: Any, figure: Figure, inches: float) -> dict[str, Any]:
    """Convert a panel to Vega-Lite of the given width, with wrapped titles and the legend below the chart."""
    spec = spec_of(panel)
    width = inches * 72 / POINTS
    title, below = heading(spec.get("title", ""))
    letters = max(map(len, figure.legend), default=MOST_LETTERS)
    legend = {"orient": "bottom", "columns": max(1, int((width - LABELS_WIDTH) / (30 + LETTER * letters)))}
    lines = {"text": textwrap.wrap(title, int(width / BOLD_LETTER))}
    if below:
        lines["subtitle"] = [part for line in below for part in textwrap.wrap(line, int(width / LETTER))]
    return spec | {
        "width": width,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "title": lines,
        "config": CONFIG | {"axis": CONFIG["axis"] | {"labelLimit": width / 2}, "legend": CONFIG["legend"] | legend},
    }


def in_points(svg: str, unit: str) -> str:
    """Set the size of an SVG to its print size in points, instead of pixels on a screen."""

    def shorter(size: re.Match[str]) -> str:
        width, height = (POINTS * float(side) for side in size.groups())
        return f'width="{width:g}{unit}" height="{height:g}{unit}"'

    return re.sub(r'width="([\d.]+)" height="([\d.]+)"', shorter, svg, count=1)


def distinct_name(name: str, names: Container[str]) -> str:
    """Return the name, with a number appended if it is already in use."""
    numbered_names = (f"{name}-{number}" for number in count(2))
    return next(free for free in chain([name], numbered_names) if free not in names)
