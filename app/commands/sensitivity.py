"""`bandlens sensitivity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import api
from ..console import TableFormat, log, print_tables, progress
from ..formats import Format
from .completion import complete_engine


def sensitivity(
    checkpoint: Annotated[str, typer.Argument(help="A model in the models folder.")],
    image_set: Annotated[Path, typer.Argument(metavar="SET", help="The folder of a packed set.")],
    models: Annotated[Path | None, typer.Option("--models", help="The models folder.")] = None,
    engine: Annotated[
        str, typer.Option("--engine", help="torch or torch-cuda: one with gradients.", autocompletion=complete_engine)
    ] = "torch",
    table_format: TableFormat = Format.table,
) -> None:
    """Print along which frequencies the loss of a model rises: its Fourier sensitivity by octave and by ring.

    The shares of the gradient's energy, means over images with 95 % intervals over clusters, add up to 1. They are
    printed and not stored.

    Example: bandlens sensitivity resnet50 sets/imagenet
    """
    result = api.models.sensitivity(checkpoint, image_set, models, engine=engine, progress=progress)
    print_tables(result.tables, table_format)
    if result.flat:
        log.info(f"{result.flat:,} images have no gradient, and count nothing")
