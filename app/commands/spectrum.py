"""`bandlens images spectrum`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import api
from ..console import TableFormat, log, print_tables, progress
from ..formats import Format


def spectrum(
    image_set: Annotated[Path, typer.Argument(metavar="SET", help="The folder of a packed set.")],
    second: Annotated[Path | None, typer.Argument(metavar="SECOND", help="A set to compare it with.")] = None,
    db: Annotated[
        Path | None, typer.Option("--db", help="Results with octave shares of models on these images.")
    ] = None,
    study: Annotated[str, typer.Option("--study", help="Name or name@version of one study of --db.")] = "*",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="A chart: .svg, .pdf or .png.")] = None,
    table_format: TableFormat = Format.table,
) -> None:
    """Measure the power of a set's images by octave and direction, and what each octave tells of labels.

    `exponent` is that of the power law. `information` is the accuracy of a linear readout that was fitted to other
    clusters, beside its `chance`. With --db, `use` compares what models owe to octaves (`bandlens study octaves`) with
    that information: an octave that a model uses more than its information warrants is a candidate shortcut.

    Example: bandlens images spectrum sets/train sets/test --out spectrum.svg
    """
    result = api.images.spectrum(image_set, second, db=db, study=study, out=out, progress=progress)
    print_tables(result.tables, table_format, titles=("image_set", "checkpoint"))
    for note in result.notes:
        log.info(note)
