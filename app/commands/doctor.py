"""`bandlens doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import api
from ..console import TableFormat, print_rows
from ..formats import Format
from .completion import complete_engine

Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="E",
        help="Ask about one engine, or auto, only; exit 1 if it is not ready.",
        autocompletion=complete_engine,
    ),
]


def doctor(engine: Engine = None, table_format: TableFormat = Format.table) -> None:
    """Say what this machine can run: engines, GPUs, versions, free space.

    Example, once before a long job or as a container starts: bandlens doctor --engine tensorrt
    """
    print_rows([{"what": subject, "found": finding} for subject, finding in api.models.doctor(engine)], table_format)
