"""Options that several commands have, and a study as they open it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import api
from ..console import log
from .completion import complete_engine

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


def resolve_study(file: Path, engine: str | None) -> Work:
    """Resolve a study on this machine; where its engine is `auto`, stderr says what that stands for, and why."""
    study = api.studies.read_study(file, engine)
    work = api.studies.resolve(study)
    if study.engine == "auto":
        choice = api.models.choose_engine()
        log.info(f"engine: {choice.engine} ({choice.why})")
    return work
