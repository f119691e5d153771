"""`bandlens verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...core.errors import StoreError, plural
from .. import api
from ..console import TableFormat, print_document, print_rows, progress
from ..formats import Format
from .options import Database, EngineOption, resolve_study

RECOMPUTED = ("first", "images", "differing", "confidence", "same_session")
"""Columns on a cell that was computed anew."""


def verify(
    study: Annotated[
        Path | None,
        typer.Argument(help="A study whose files are checked, and cells computed anew.", show_default=False),
    ] = None,
    db: Database = Path("results.duckdb"),
    cells: Annotated[int, typer.Option("--cells", min=0, help="How many random cells are computed anew.")] = 3,
    images: Annotated[int, typer.Option("--images", min=1, help="Of each of them, so many in a row.")] = 256,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the choice.")] = 0,
    engine: EngineOption = None,
    table_format: TableFormat = Format.table,
) -> None:
    """Check that a database agrees with itself; with a study, also its files, and some cells by computing them anew.

    On the machine that computed them, cells must be equal; on another as many images may differ as a gate lets pass.

    Example: bandlens verify study.toml --db results.duckdb --cells 10
    """
    work = resolve_study(study, engine, db) if study else None
    verified = api.studies.verify(work, db, cells=cells, images=images, seed=seed, progress=progress)
    checks = [
        {"check": check.name, "checked": check.checked, "problems": len(check.problems)} for check in verified.checks
    ]
    recomputed = [
        {"cell": str(part.cell)} | {column: getattr(part, column) for column in RECOMPUTED}
        for part in verified.recomputed
    ]
    if table_format != Format.table:
        document = {"checks": checks, "recomputed": recomputed, "problems": verified.problems}
        print_document(document, table_format)
    else:
        print_rows(checks)
        for part in verified.recomputed:
            verdict = "equal" if part.equal else f"{part.differing} differ, confidence by up to {part.confidence:.2g}"
            place = "" if part.same_session else ", on another machine or version"
            print(f"{part.cell}, images {part.first} to {part.first + part.images - 1}: {verdict}{place}")
    if verified.problems:
        raise StoreError(f"{db}: {plural(len(verified.problems), 'problem')}, the first: {verified.problems[0]}")
