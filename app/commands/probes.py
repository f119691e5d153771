"""`bandlens probes`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import Json, print_rows

app = typer.Typer(help="Perturbations: what there is, and what it looks like.", no_args_is_help=True)

Study = Annotated[
    Path | None,
    typer.Option("--study", help="The probes of this study instead of the published grid.", show_default=False),
]


@app.command("list")
def list_(
    study: Study = None,
    attacks: Annotated[
        bool, typer.Option("--attacks", help="The attacks only: those of --study, or all with the published budget.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the conditions of the published grid, or of a study with its attacks.

    Example: bandlens probes list --json
    """
    from ...probes.grid import KNOWN, make_grid
    from ..pictures.sheet import grid_of

    grid = (
        make_grid({name: {} for name, family in KNOWN.items() if family.attack}, Path())
        if attacks and study is None
        else grid_of(study)
    )
    rows = [
        {
            "probe": condition.probe,
            "parameters": condition.facts.setting,
            "what": grid.family(condition).summary,
        }
        for condition in (*(() if attacks else grid.conditions), *grid.attacks)
    ]
    print_rows(rows, as_json)


@app.command()
def preview(
    image: Annotated[Path, typer.Argument(help="A photograph.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The contact sheet, a PNG file.")] = Path("sheet.png"),
    study: Study = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the noise.", min=0)] = 0,
) -> None:
    """Draw a photograph under every condition, labelled, on one contact sheet.

    Example: bandlens probes preview photo.jpg --out sheet.png
    """
    from ..pictures.sheet import draw_sheet, grid_of, read_photograph

    grid = grid_of(study)
    drawn = draw_sheet(read_photograph(image), grid, seed, out)
    some = "" if drawn == len(grid.conditions) else f"{drawn} of "
    print(f"{out}: {image.name} under {some}{len(grid.conditions)} conditions")
