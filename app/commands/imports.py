"""`bandlens import`: what was made elsewhere, as cells of a results database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Database

app = typer.Typer(help="Bring what was made elsewhere into a results database.", no_args_is_help=True)


@app.callback()
def root() -> None:
    pass


@app.command()
def predictions(
    file: Annotated[Path, typer.Argument(help="Parquet or CSV: file_name, predicted_class, predicted_probability.")],
    checkpoint: Annotated[str, typer.Option("--checkpoint", help="The model that made them.", show_default=False)],
    images: Annotated[
        Path, typer.Option("--images", help="An image set, or a table of file_name and label.", show_default=False)
    ],
    db: Database = Path("results.duckdb"),
    weights_sha256: Annotated[str, typer.Option("--weights-sha256", help="Of the weights that made them.")] = "unknown",
) -> None:
    """Import predictions on unperturbed images, as the study CHECKPOINT; the database says where they came from.

    Example: bandlens import predictions predictions.parquet --checkpoint ResNet50 --images labels.parquet
    """
    from ...analysis.database.open import open_store
    from ..imported import find_images, read_predictions, store_predictions

    found = find_images(images)
    part = read_predictions(file, checkpoint, found, weights_sha256)
    with open_store(db) as store:
        label = store_predictions(store, part, found)
        rows = store.frame("SELECT n, top1, low, high FROM accuracy_of(?)", [label])
    n, top1, low, high = rows.row(0)
    print(f"{db}: {label}, {n:,} predictions imported, top-1 {100 * top1:.3f} % ({100 * low:.2f} to {100 * high:.2f})")
