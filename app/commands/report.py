"""`bandlens report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...core.errors import amount, plural
from .. import api
from ..api.options import complete_study
from ..console import progress
from .options import Database


def report(
    db: Database = Path("results.duckdb"),
    out: Annotated[Path, typer.Option("--out", help="The report, an HTML file.")] = Path("report.html"),
    study: Annotated[
        str | None,
        typer.Option(
            "--study",
            help="Name, or name@version.",
            show_default="the one that ran last",
            autocompletion=complete_study,
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            help="Show what changed: another results database, or another study or name@version of this one.",
            show_default=False,
        ),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Show published models, too, and yours among them.")
    ] = False,
    figures: Annotated[
        str | None,
        typer.Option(
            "--figures",
            metavar="NAME,…|all",
            help="Charts to write as SVG, PDF and PNG files, 3.5 or 7 in wide.",
            show_default="none",
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--folder", help="Where --figures go.")] = Path("figures"),
    photograph: Annotated[
        Path | None,
        typer.Option("--photograph", help="For the contact sheet.", show_default="a cat of scikit-image"),
    ] = None,
) -> None:
    """Write one HTML file to look at and send: curves, critical bands, correlations, conditions, provenance.

    It holds everything that it shows and asks for nothing from the network. Metrics are those of `bandlens analyze`.

    Example: bandlens report --db results.duckdb --out report.html
    """
    written = api.results.report(
        db,
        out,
        study,
        against=against,
        published=published,
        figures=figures.split(",") if figures else (),
        folder=folder,
        photograph=photograph,
        progress=progress,
    )
    print(f"{out}: {plural(written.sections, 'section')}, {plural(written.charts, 'chart')}, {amount(written.bytes)}")
    if figures:
        print(f"{folder}: {plural(len(written.figures), 'file')}")
