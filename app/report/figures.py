"""Figures as files for papers: SVG, PNG and PDF."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import altair as alt

from ...analysis.charts.style import CONFIG
from ...errors import UsageError
from ...export.files import write_bytes
from .page import vega_lite_version
from .sections import Figure

SCALE = 2
"""Pixels of a PNG for each pixel of the chart."""


def picture(figure: Figure) -> dict[str, Any]:
    """Vega-Lite of the whole figure, legends included."""
    panels = list(figure.panels)
    chart = panels[0] if len(panels) == 1 else alt.concat(*panels, columns=figure.columns)
    return dict(chart.to_dict()) | {"config": CONFIG}


def make_folder(folder: Path) -> None:
    """Make the folder before the work begins, so that one that cannot be made costs no time. UsageError says why."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make {folder}: {error.strerror}; name another folder with --figures") from None


def write_png(figures: Iterable[Figure], out: Path) -> None:
    """Write the panels of several figures as one picture, two panels a row."""
    import vl_convert

    chart = alt.concat(*(panel for figure in figures for panel in figure.panels), columns=2)
    chart = chart.resolve_scale(color="independent", shape="independent")  # each figure has a meaning for them
    spec = dict(chart.to_dict()) | {"config": CONFIG}
    write_bytes(out, vl_convert.vegalite_to_png(spec, scale=SCALE, vl_version=vega_lite_version()))


def write_figures(figures: Iterable[Figure], folder: Path, advance: Callable[[float], None]) -> list[Path]:
    """Write each figure as NAME.svg, .png and .pdf."""
    import vl_convert

    written: list[Path] = []
    for figure in figures:
        svg = vl_convert.vegalite_to_svg(picture(figure), vl_version=vega_lite_version())
        contents = {
            "svg": svg.encode(),
            "png": vl_convert.svg_to_png(svg, scale=SCALE),
            "pdf": vl_convert.svg_to_pdf(svg),
        }
        for ending, content in contents.items():
            file = folder / f"{figure.name}.{ending}"
            try:
                write_bytes(file, content)
            except OSError as error:
                raise UsageError(
                    f"cannot write {file}: {error.strerror}; make room, or choose another --figures"
                ) from None
            written.append(file)
        advance(1)
    return written
