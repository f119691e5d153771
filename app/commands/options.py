"""Options that several commands have, and a study as they open it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
GATE_IMAGES = 1000
"""Images of each set that a gate takes unless told otherwise."""
Database = Annotated[Path, typer.Option("--db", envvar="BANDLENS_DB", help="The results database.")]


def opened(file: Path, engine: str | None) -> Work:
    """Resolve a study on this machine; where its engine is `auto`, stderr says what that stands for, and why."""
    from ...engine.device.devices import choose_engine
    from ..study.file import AUTO, Study
    from ..study.resolve import resolve

    study = Study.read(file)
    study = replace(study, engine=engine or study.engine)
    work = resolve(study)
    if study.engine == AUTO:
        choice = choose_engine()
        log.info(f"engine: {choice.engine} ({choice.why})")
    return work
