"""`bandlens explore`."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from ...core.errors import plural
from .. import api
from .options import Database, ProbesOfStudy


def explore(
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--images",
            metavar="FOLDER",
            help="Where image sets lie, again for more.",
            show_default="beside the database",
        ),
    ] = None,
    study: ProbesOfStudy = None,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Address or name of this machine at which others open the page, too, with its token.",
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 is any that is free.")] = 0,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in a browser as well.")] = False,
    db: Database = Path("results.duckdb"),
) -> None:
    """Look at a results database in a browser: curves, correlations, and the photographs behind them.

    The page is served until Ctrl-C for whoever has the address with its token, on this machine alone unless --host
    names an address that other machines reach. Images are shown where their sets are found, perturbed again by the same
    code and seed.

    Example: bandlens explore --db results.duckdb --images sets
    """

    def tell(address: str, sets: int) -> None:
        hint = "" if sets else " beside the database; name their folder with --images"
        print(f"{address}\n{plural(sets, 'image set')} found{hint}; Ctrl-C ends it", flush=True)
        if browser:
            webbrowser.open(address)

    api.results.explore(db, images or (), study=study, host=host, port=port, tell=tell)
