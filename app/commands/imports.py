"""`bandlens import`: what was made elsewhere, as cells of a results database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...core.errors import plural
from .. import api
from .options import Database

app = typer.Typer(help="Bring what was made elsewhere into a results database.", no_args_is_help=True)


@app.callback()
def root() -> None:
    pass


@app.command()
def predictions(
    file: Annotated[Path, typer.Argument(help="Parquet or CSV: file_name, predicted_class, predicted_probability.")],
    checkpoint: Annotated[
        list[str], typer.Option("--checkpoint", help="The model that made them; repeatable.", show_default=False)
    ],
    images: Annotated[
        Path, typer.Option("--images", help="An image set, or a table of file_name and label.", show_default=False)
    ],
    db: Database = Path("results.duckdb"),
    attributes: Annotated[
        Path | None,
        typer.Option("--attributes", metavar="CSV", help="Columns path, name, value, of the images of a table."),
    ] = None,
    weights_sha256: Annotated[str, typer.Option("--weights-sha256", help="Of the weights that made them.")] = "unknown",
) -> None:
    """Import predictions on unperturbed images, into a study of each model; the database says where they came from.

    Example: bandlens import predictions predictions.parquet --checkpoint ResNet50 --images labels.parquet
    """
    for imported in api.studies.import_predictions(
        file, checkpoint, images, db, attributes=attributes, weights_sha256=weights_sha256
    ):
        interval = f"{100 * imported.low:.2f} to {100 * imported.high:.2f}"
        print(
            f"{db}: {imported.label}, {plural(imported.images, 'prediction')} imported, "
            f"top-1 {100 * imported.top1:.3f} % ({interval})"
        )
