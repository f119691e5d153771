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
    checkpoint: Annotated[
        list[str], typer.Option("--checkpoint", help="The model that made them; repeatable.", show_default=False)
    ],
    images: Annotated[
        Path, typer.Option("--images", help="An image set, or a table of file_name and label.", show_default=False)
    ],
    db: Database = Path("results.duckdb"),
    weights_sha256: Annotated[str, typer.Option("--weights-sha256", help="Of the weights that made them.")] = "unknown",
) -> None:
    """Import predictions on unperturbed images, into a study of each model; the database says where they came from.

    Example: bandlens import predictions predictions.parquet --checkpoint ResNet50 --images labels.parquet
    """
    from ...analysis.database.open import open_store
    from ...errors import UsageError
    from ..imported import UNKNOWN, find_images, read_predictions, store_predictions, study_with
    from ..study.file import is_study_name

    for name in checkpoint:
        if not is_study_name(name):
            raise UsageError(f"--checkpoint must be a line of text without @, which asks for a version, not {name!r}")
    if len(checkpoint) > 1 and weights_sha256 != UNKNOWN:
        raise UsageError(f"--weights-sha256 is of one model, and {len(checkpoint)} are imported; import it alone")
    found = find_images(images)
    parts = [read_predictions(file, name, found, weights_sha256) for name in checkpoint]
    with open_store(db) as store:
        studies = [study_with(store, part.cell) for part in parts]
        for part, cells in zip(parts, studies, strict=True):
            label = store_predictions(store, part, cells, found)
            query = "SELECT n, top1, low, high FROM accuracy_of(?) WHERE image_set = ?"
            n, top1, low, high = store.frame(query, [label, found.info.name]).row(0)
            about = f"top-1 {100 * top1:.3f} % ({100 * low:.2f} to {100 * high:.2f})"
            print(f"{db}: {label}, {n:,} predictions imported, {about}")
