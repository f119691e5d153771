"""Charts as files for papers: each panel as SVG and PDF, as wide as one column of a journal or two."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Container, Iterable
from itertools import chain, count
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from ...analysis.charts.style import CONFIG, words
from ...errors import UsageError
from ...export.files import write_bytes
from ...untrusted import regular
from .accuracy import slug
from .page import heading, spec_of, vega_lite_version
from .sections import Figure

SCALE = 2
"""Pixels of a PNG for each pixel of the chart."""
ONE_COLUMN, TWO_COLUMNS = 3.5, 7.0
"""Inches that a chart is wide, in a column of a journal and in two."""
POINTS = 0.7
"""Points that a pixel takes on paper: type of 10 to 12 pixels is printed at 7 to 8.4 pt, a column has 360 pixels."""
LETTER, BOLD_LETTER = 6, 7.5
"""Pixels that an average letter takes at most, in labels and in titles."""
MOST_LETTERS = 120
"""Letters that the name of a file has at most."""
INDEX, COLUMNS = "figures.csv", ("file", "width_in", "title", "caption")
ENDINGS = ("svg", "pdf")


def make_folder(folder: Path) -> None:
    """Make the folder before the work begins, so that one that cannot be made costs no time. UsageError says why."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make {folder}: {error.strerror}; name another folder with --figures") from None


def write_png(figures: Iterable[Figure], out: Path) -> None:
    """Write the panels of several figures as one picture, two panels a row."""
    import vl_convert

    chart = alt.concat(*(panel for figure in figures for panel in figure.panels.values()), columns=2)
    chart = chart.resolve_scale(color="independent", shape="independent")  # each figure has a meaning for them
    spec = spec_of(chart) | {"config": CONFIG}
    write_bytes(out, vl_convert.vegalite_to_png(spec, scale=SCALE, vl_version=vega_lite_version()))


def write_figures(figures: Iterable[Figure], folder: Path, advance: Callable[[float], None]) -> list[Path]:
    """Write each panel as an SVG and a PDF file called after what it shows, and list them in figures.csv.

    Those of an earlier list that are not written again are removed, so that all of a folder's charts are of one report.
    """
    import vl_convert

    rows: dict[str, dict[str, Any]] = {}
    for figure in figures:
        inches = TWO_COLUMNS if figure.columns == 1 else ONE_COLUMN
        for name, panel in figure.panels.items():
            title = figure.title if len(figure.panels) == 1 else f"{figure.title}: {words(name)}"
            svg = vl_convert.vegalite_to_svg(printed(panel, figure, inches), vl_version=vega_lite_version())
            file = _unlike(slug(title)[:MOST_LETTERS], rows)
            _write(folder / f"{file}.svg", in_points(svg, "pt").encode())
            _write(folder / f"{file}.pdf", vl_convert.svg_to_pdf(in_points(svg, "")))  # whose unit is the point
            rows[file] = {"file": file, "width_in": inches, "title": title, "caption": figure.caption}
            advance(1)
    for file in _listed(folder / INDEX) - {*rows}:
        for ending in ENDINGS:
            (folder / f"{file}.{ending}").unlink(missing_ok=True)
    _write(folder / INDEX, pl.DataFrame(list(rows.values()), COLUMNS).write_csv().encode())
    return [folder / f"{file}.{ending}" for file in rows for ending in ENDINGS] + [folder / INDEX]


def printed(panel: Any, figure: Figure, inches: float) -> dict[str, Any]:
    """Vega-Lite of a panel so many inches wide: the lines of its title are broken, and its legend lies below."""
    spec = spec_of(panel)
    width = inches * 72 / POINTS
    title, below = heading(spec.get("title", ""))
    longest = max(map(len, figure.legend), default=MOST_LETTERS)
    legend = {"orient": "bottom", "columns": max(1, int(width / (30 + LETTER * longest)))}
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
    """The picture with its size in points on paper, instead of pixels on a screen."""

    def shorter(size: re.Match[str]) -> str:
        width, height = (POINTS * float(side) for side in size.groups())
        return f'width="{width:g}{unit}" height="{height:g}{unit}"'

    return re.sub(r'width="([\d.]+)" height="([\d.]+)"', shorter, svg, count=1)


def _listed(index: Path) -> set[str]:
    """Names without endings in the list of an earlier report; none where the file is no such list."""
    try:
        rows = pl.read_csv(regular(index), infer_schema=False)
    except (OSError, ValueError, pl.exceptions.PolarsError):
        return set()
    if tuple(rows.columns) != COLUMNS:
        return set()
    return {file for file in rows["file"].drop_nulls() if re.fullmatch("[a-z0-9-]+", file)}  # as `slug` makes them


def _unlike(name: str, taken: Container[str]) -> str:
    """The name, or with a number behind it where it is taken."""
    numbered = (f"{name}-{number}" for number in count(2))
    return next(free for free in chain([name], numbered) if free not in taken)


def _write(file: Path, content: bytes) -> None:
    try:
        write_bytes(file, content)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}; make room, or choose another --figures") from None
