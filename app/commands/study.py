"""`bandlens study`."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import api


def study(
    name: Annotated[str, typer.Argument(help="grid, paper, or one of the others below.", show_default=False)],
) -> None:
    """Print the file of a study that comes along, to be changed and run.

    grid: the 52 published conditions on ImageNet. paper: the grid, an attack, and every other benchmark clean.

    human-probes: the stimuli of experiments with people. fourier-map: errors under single waves. shape-under-filters:
    shape bias against cutoff. reliance: accuracy without shape, texture, or colour. octaves: all sets of seven octaves.

    Example: bandlens study grid > grid.toml
    """
    print(api.studies.study_text(name), end="")
