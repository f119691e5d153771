"""Options that several commands have, and a study as they open it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import api
from ..api.options import complete_engine, complete_study
from ..console import log

if TYPE_CHECKING:
    from ..study.resolve import Work

EngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="Instead of the study's: auto, or an engine that `doctor` lists.",
        autocompletion=complete_engine,
    ),
]
StudyFile = Annotated[Path, typer.Argument(help="The study: a TOML file.", show_default=False)]
Database = Annotated[Path, typer.Option("--db", envvar="BANDLENS_DB", help="The results database.")]
OneStudy = Annotated[
    str | None,
    typer.Option(
        "--study",
        help="Name, or name@version, in the database.",
        show_default="the only one",
        autocompletion=complete_study,
    ),
]
NewestStudies = Annotated[
    str,
    typer.Option(
        "--study", help="Name, or name@version; * is the newest version of each.", autocompletion=complete_study
    ),
]
ProbesOfStudy = Annotated[
    Path | None, typer.Option("--study", metavar="FILE", help="A study file, for the probes of your own that it names.")
]


def resolve_study(file: Path, engine: str | None, db: Path) -> Work:
    """Resolve a study on this machine; stderr says which engine and batch were chosen for it, and why."""
    work = api.studies.resolve(file, engine, db)
    for line in work.choices:
        log.info(line)
    return work
