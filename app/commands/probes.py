"""`bandlens probes`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import api
from ..console import TableFormat, print_note, print_rows
from ..formats import Format

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
    table_format: TableFormat = Format.table,
) -> None:
    """List the conditions of the published grid, or of a study with its attacks.

    Example: bandlens probes list --format csv
    """
    rows = api.images.list_conditions(study, attacks=attacks)
    if table_format != Format.table:
        print_rows(rows, table_format)
        return
    firsts = {row["probe"]: row for row in reversed(rows)}
    print_rows([row if row is firsts[row["probe"]] else row | {"what": ""} for row in rows])
    if study is None and not attacks:
        print_note(f"more probes for a study: {', '.join(api.images.unlisted_probes(rows))}", table_format)


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
    drawn, conditions = api.images.preview(image, out, study, seed=seed)
    print(f"{out}: {image.name} under {'' if drawn == conditions else f'{drawn} of '}{conditions} conditions")
