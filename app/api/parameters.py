"""Parameters that many functions have: paths, databases at them, and what a terminal has to know of types."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar, cast

import typer

from ...core.errors import no_database

if TYPE_CHECKING:
    from ...analysis.database.store import Store

File = str | PathLike[str]
Name = TypeVar("Name")
Layout = Literal["nhwc", "nchw"]
"""The order of the axes of a function's images: (n, height, width, 3) or (n, 3, height, width)."""
RESULTS = Path("results.duckdb")


def path_of(file: File | None) -> Path | None:
    """The path of a file, where one is given."""
    return None if file is None else Path(file)


def listed(names: Sequence[Name]) -> list[Name]:
    """The names as a list. One alone, as Python code may give it, is a list of it, and not of its letters."""
    name: object = names
    return [cast("Name", name)] if isinstance(name, (str, PathLike, int)) else list(names)


def reading(db: File) -> AbstractContextManager[Store]:
    """A results database, which is opened for reading."""
    from ...analysis.database.open import open_store

    return open_store(Path(db), read_only=True)


def existing(db: File) -> Path:
    """UsageError where there is no database, but a study file, say: opening one to write to it would make it.

    StoreError for a folder.
    """
    if not Path(db).exists():
        raise no_database(Path(db))
    if Path(db).is_dir() or Path(db).suffix == ".toml":
        from ...analysis.database.errors import explanation

        raise explanation(Path(db), "Is a directory")  # or that it is a study file
    return Path(db)


Database = Annotated[File, typer.Option("--db", envvar="BANDLENS_DB", help="The results database.")]
EngineOfStudy = Annotated[
    str | None, typer.Option(help="Instead of the study's: auto, or an engine that `doctor` lists.")
]
OnlyStudy = Annotated[str | None, typer.Option(help="Name, or name@version, in the database; by default the only one.")]
StudyOfProbes = Annotated[
    File | None, typer.Option(metavar="FILE", help="A study file, for the probes of your own that it names.")
]
PackedSet = Annotated[File, typer.Argument(metavar="SET", help="The folder of a packed set.")]
