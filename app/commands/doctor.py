"""`bandlens doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import api
from ..console import Json, print_rows
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


def doctor(engine: Engine = None, as_json: Json = False) -> None:
    """Say what this machine can run: engines, GPUs, versions, free space.

    Example, once before a long job or as a container starts: bandlens doctor --engine tensorrt
    """
    print_rows([{"what": subject, "found": finding} for subject, finding in api.models.doctor(engine)], as_json)
