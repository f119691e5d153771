"""Published figures: imported, related, joined with a study's own, and set beside them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...core.errors import UsageError
from .parameters import RESULTS, Database, File, path_of, reading

if TYPE_CHECKING:
    import polars as pl


def published_values(db: File | None = None) -> pl.DataFrame:
    """The figures of all sources that ship, and of those that were imported into a results database."""
    from ...analysis.published.sources import atlas

    if db is None:
        return atlas()
    with reading(db) as store:
        return atlas(store)


@dataclass(frozen=True, slots=True)
class Publication:
    """The number of values and models that were imported of a source."""

    values: int
    models: int
    source: str
    """The title of the source."""
    terms: str
    """The licence, and its meaning for those who import the source."""
    trials: int = 0
    """The number of people's single trials, which `bandlens analyze` sets models beside."""


def import_published(
    source: str, folder: Annotated[File | None, typer.Argument(metavar="DIR")] = None, db: Database = RESULTS
) -> Publication:
    """Read a source's files into a results database, for SQL and other commands.

    A source that ships needs no DIR.

    Args:
        source: a source that `published show` lists.
        folder: the folder of the source's files.
        db: the results database; made if there is none.
    """
    from ...analysis.database.open import open_store
    from ...analysis.published.imports import read_import
    from ...analysis.published.sources import find_source, shipped_values

    described, path = find_source(source), path_of(folder)
    if path is not None:
        values, trials = read_import(described, path)
    elif described.ships:
        values, trials = shipped_values([source]), None
    else:
        raise UsageError(
            f"{source} does not ship; give the folder of its files: bandlens published import {source} DIR"
        )
    with open_store(Path(db)) as store:
        store.write_source(source, values, trials)
    return Publication(
        len(values), values["model"].n_unique(), described.title, described.terms, 0 if trials is None else len(trials)
    )


ImportedSources = Annotated[File | None, typer.Option(help="Also the sources imported into this results database.")]


def show_published(
    model: Annotated[str | None, typer.Argument()] = None, db: ImportedSources = None
) -> dict[str, pl.DataFrame]:
    """Print the sources of published figures, or all figures of a model, with how far sources are apart.

    With --db and no model also which published model each checkpoint is, by its weights, study or name.

    Args:
        model: a model, by its name in any source, or a checkpoint of --db.

    Returns tables by name: `figures` of a model; or `sources`, and `checkpoints` of the database with the published
    model that each one is.
    """
    from ...analysis.published.sources import count_figures, join_study, published_name, values_of_model

    values = published_values(db)
    with nullcontext() if db is None else reading(db) as store:
        if model is None:
            checkpoints = {"checkpoints": join_study(store, "*", values)} if store else {}
            return {"sources": count_figures(values), **checkpoints}
        return {"figures": values_of_model(values, published_name(store, model, values) if store else model)}
