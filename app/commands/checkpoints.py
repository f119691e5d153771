"""`bandlens checkpoints`: the 48, by name or category."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ...core.errors import BandlensError, CheckpointError
from ...export.weights.registry import select
from .. import api
from ..console import TableFormat, log, print_lines, print_rows
from ..formats import Format
from .completion import complete_category, complete_checkpoint

if TYPE_CHECKING:
    from ...export.weights.registry import Checkpoint

app = typer.Typer(
    name="checkpoints",
    help="The 48 ResNet-50 checkpoints: list them, fetch them, verify them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

T = TypeVar("T")
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME…", help="Names as `list` shows them.", autocompletion=complete_checkpoint),
]
Every = Annotated[bool, typer.Option("--all", help="All 48.")]
Category = Annotated[
    str | None, typer.Option("--category", metavar="C", help="Those of one category.", autocompletion=complete_category)
]


@app.command("list")
def list_(category: Category = None, table_format: TableFormat = Format.table) -> None:
    """List the checkpoints.

    Example: bandlens checkpoints list --category contrastive
    """
    columns = ("name", "category", "published_top1", "normalization", "licence", "source")
    checkpoints = api.models.list_checkpoints(category)
    print_rows([{column: getattr(each, column) for column in columns} for each in checkpoints], table_format)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_checkpoint)],
    table_format: TableFormat = Format.table,
) -> None:
    """Show one checkpoint: where its files are published and stored, and how their keys are read.

    Example: bandlens checkpoints show resnet50_dino
    """
    rows = api.models.describe_checkpoint(name)
    if table_format == Format.table:
        print_lines(rows)
    else:
        print_rows(rows, table_format)


@app.command()
def fetch(names: Names = None, every: Every = False, category: Category = None) -> None:
    """Download weights and verify them; an interrupted download goes on.

    Examples: bandlens checkpoints fetch tv_resnet50, bandlens checkpoints fetch --category stylized
    """

    def fetch_and_print(checkpoint: Checkpoint) -> None:
        for path in api.models.fetch_weights(checkpoint):
            print(path)

    chosen = select(names or [], every, category)
    failed = for_each({checkpoint.name: checkpoint for checkpoint in chosen}, fetch_and_print)
    if failed:
        raise CheckpointError(f"{len(failed)} not fetched: {', '.join(failed)}; run the same command to go on")


@app.command()
def verify(
    names: Names = None, every: Every = False, category: Category = None, table_format: TableFormat = Format.table
) -> None:
    """Compare the stored weights with the lock file; nothing is downloaded. Exit 1 unless all are there and unchanged.

    Example: bandlens checkpoints verify --all
    """
    chosen = select(names or [], every, category)
    rows = [row for checkpoint in chosen for row in api.models.verify_weights(checkpoint)]
    print_rows(
        [{"name": row.name, "status": row.status, "sha256": row.sha256, "file": row.file} for row in rows], table_format
    )
    bad = list(dict.fromkeys(row.name for row in rows if row.status != "ok"))
    if bad:
        raise CheckpointError(f"{len(bad)} not verified: {', '.join(bad)}; `bandlens checkpoints fetch` fetches them")


def for_each(chosen: Mapping[str, T], act: Callable[[T], Any], advance: Callable[[], None] = lambda: None) -> list[str]:
    """Act on each checkpoint or model by name; gives the names of those that failed, with a line on stderr for each.

    A single one fails with its own error.
    """
    failed = []
    for name, model in chosen.items():
        try:
            act(model)
        except BandlensError as error:
            if len(chosen) == 1:
                raise
            log.error(f"bandlens: {name}: {error}")
            failed.append(name)
        advance()
    return failed
