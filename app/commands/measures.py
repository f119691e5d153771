"""`bandlens measures`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import api
from ..console import TableFormat, print_rows
from ..formats import Format

app = typer.Typer(help="Numbers that are computed of decisions: what there is.", no_args_is_help=True)


@app.command("list")
def list_(
    study: Annotated[
        Path | None, typer.Option("--study", help="A study whose own measures are listed too.", show_default=False)
    ] = None,
    table_format: TableFormat = Format.table,
) -> None:
    """List the measures: name, title, unit, what each is a number of, and whether `correlate` takes it.

    Example: bandlens measures list --study study.toml
    """
    print_rows(api.results.list_measures(study), table_format)
