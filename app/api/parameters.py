"""Parameters that many functions have: paths, databases at them, and what a terminal has to know of types.

The words that a shell completes are looked up on Tab, and what they need is imported then.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...core.errors import BandlensError, UsageError, quoted

if TYPE_CHECKING:
    from ...analysis.database.store import Store

File = str | PathLike[str]
RESULTS = Path("results.duckdb")


def path_of(file: File | None) -> Path | None:
    """The path of a file, where one is given."""
    return None if file is None else Path(file)


def reading(db: File) -> AbstractContextManager[Store]:
    """A results database, which is opened for reading."""
    from ...analysis.database.open import open_store

    return open_store(Path(db), read_only=True)


def existing(db: File) -> Path:
    """UsageError where there is no database: opening one to write to it would make it."""
    if not Path(db).exists():
        raise UsageError(f"no results database at {db}; `bandlens run STUDY.toml --db {quoted(db)}` makes one")
    return Path(db)


def complete_checkpoint(incomplete: str) -> list[str]:
    """Names of checkpoints, and words for those of a category."""
    from ...export.weights.study_checkpoints import checkpoints

    names = (checkpoint.name for checkpoint in checkpoints())
    categories = (f"category:{checkpoint.category}" for checkpoint in checkpoints())
    return _beginning((*names, *categories), incomplete)


def complete_engine(incomplete: str) -> list[str]:
    """Names of engines, `auto` among them."""
    from ...engine.backends.base import ENGINES

    return _beginning(("auto", *ENGINES), incomplete)


def complete_benchmark(incomplete: str) -> list[str]:
    """Names of benchmarks."""
    from ...core.protocol import BENCHMARKS

    return _beginning(BENCHMARKS, incomplete)


def complete_study(context: typer.Context, incomplete: str) -> list[str]:
    """Names and versions in the database of --db or $BANDLENS_DB; none where it cannot be read."""
    db = Path(context.params.get("db") or os.environ.get("BANDLENS_DB") or RESULTS)
    try:
        with reading(db) as store:
            versions = store.frame("SELECT study, label FROM study_version ORDER BY study_id")
    except BandlensError:
        return []
    return _beginning((*versions["study"], *versions["label"]), incomplete)


def _beginning(words: Iterable[str], start: str) -> list[str]:
    return [word for word in dict.fromkeys(words) if word.startswith(start)]


Database = Annotated[File, typer.Option("--db", envvar="BANDLENS_DB", help="The results database.")]
EngineOfStudy = Annotated[
    str | None,
    typer.Option(
        help="Instead of the study's: auto, or an engine that `doctor` lists.", autocompletion=complete_engine
    ),
]
EngineName = Annotated[str, typer.Option(autocompletion=complete_engine)]
StudyName = Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_study)]
"""A study, or one version of it."""
OnlyStudy = Annotated[
    str | None,
    typer.Option(
        help="Name, or name@version, in the database; by default the only one.", autocompletion=complete_study
    ),
]
StudyOfProbes = Annotated[
    File | None, typer.Option(metavar="FILE", help="A study file, for the probes of your own that it names.")
]
PackedSet = Annotated[File, typer.Argument(metavar="SET", help="The folder of a packed set.")]
