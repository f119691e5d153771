"""`bandlens init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...core.errors import some_of
from .. import api
from ..console import log


def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="The new study file.")] = Path("study.toml"),
) -> None:
    """Write a study file for your models and images, asking nothing.

    It names the exported models, those in the folder `models` beside FILE or else in $BANDLENS_HOME/models, and the
    image sets in FILE's folder and below; with nothing there it has names to replace. A file that is there is kept.

    Example: bandlens init study.toml
    """
    study, lack = api.studies.write_study(file)
    print(f"{file}: {some_of(study.checkpoints)} on {some_of(study.images)}; next: bandlens plan {file}")
    if lack:
        log.info(lack)
