"""`bandlens cite`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import api
from .completion import complete_study
from .options import Database


def cite(
    study: Annotated[
        str, typer.Argument(help="A study, as name or name@version.", autocompletion=complete_study, show_default=False)
    ],
    db: Database = Path("results.duckdb"),
) -> None:
    """Print BibTeX of a study: the program, its models and its images, with their licences.

    Example: bandlens cite mine@1 --db results.duckdb > study.bib
    """
    print(api.results.cite(study, db))
