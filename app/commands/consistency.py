"""`bandlens consistency`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import api
from ..console import TableFormat, print_rows, print_tables, progress
from ..formats import Format
from .options import Database


def consistency(
    images: Annotated[str, typer.Argument(help="A stimulus set, benchmark or image set of the database.")],
    db: Database = Path("results.duckdb"),
    probe: Annotated[
        str | None, typer.Option("--probe", help="Models under every condition of it, and where kappa is highest.")
    ] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Every two subjects, even where there are humans.")] = False,
    table_format: TableFormat = Format.table,
) -> None:
    """Print how consistent the errors of models and humans are: kappa of right and wrong, with 95 % intervals.

    Models are those with a clean run on the images; humans are there after `bandlens published import humans`. With
    humans, the means of kappa over them, with intervals over images, and the lowest and highest kappa of a pair;
    without, or with --pairs, every two subjects, and the most that their accuracies allow.

    With --probe, of models that a study ran on the images under it: at which setting do they err most as humans do?

    Example: bandlens consistency cue-conflict --db results.duckdb
    """
    if probe is not None:
        print_tables(api.results.consistency_under(images, probe, db), table_format, titles=("checkpoint",))
        return
    rows = api.results.consistency(images, db, pairs=pairs, progress=progress)
    print_rows(rows, table_format, titles=("images", "condition"))
