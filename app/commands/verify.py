"""`bandlens verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ...errors import StoreError
from ..console import Json, print_rows
from .options import Database, EngineOption, opened


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
    as_json: Json = False,
) -> None:
    """Check that a database agrees with itself; with a study, also its files, and some cells by computing them anew.

    On the machine that computed them, cells must be equal; on another as many images may differ as a gate lets pass.

    Example: bandlens verify study.toml --db results.duckdb --cells 10
    """
    from ..study.verify import verify_database, verify_study

    found = verify_study(opened(study, engine), db, cells, images, seed) if study else verify_database(db)
    checks = [{"check": one.name, "checked": one.checked, "problems": len(one.problems)} for one in found.checks]
    again = [
        {
            "cell": str(one.cell),
            "first": one.first,
            "images": one.images,
            "differing": one.differing,
            "confidence": one.confidence,
            "same_session": one.same_session,
        }
        for one in found.recomputed
    ]
    if as_json:
        print(json.dumps({"checks": checks, "recomputed": again, "problems": found.problems}, indent=1))
    else:
        print_rows(checks)
        for one in found.recomputed:
            said = "equal" if one.equal else f"{one.differing} differ, confidence by up to {one.confidence:.2g}"
            where = "" if one.same_session else ", on another machine or version"
            print(f"{one.cell}, images {one.first} to {one.first + one.images - 1}: {said}{where}")
    if found.problems:
        raise StoreError(f"{db}: {len(found.problems)} problems, the first: {found.problems[0]}")
