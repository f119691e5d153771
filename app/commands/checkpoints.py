"""`bandlens checkpoints`: the 48, by name or category."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

from ...errors import BandlensError, CheckpointError
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
    rows = [
        {
            "name": checkpoint.name,
            "category": checkpoint.category,
            "published_top1": checkpoint.published_top1,
            "normalization": checkpoint.normalization,
            "licence": checkpoint.licence,
            "source": checkpoint.source,
        }
        for checkpoint in api.models.list_checkpoints(category)
    ]
    print_rows(rows, table_format)


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

    failed = for_each(api.models.select_checkpoints(names or [], every, category), fetch_and_print)
    if failed:
        raise CheckpointError(f"{len(failed)} not fetched: {', '.join(failed)}; run the same command to go on")


@app.command()
def verify(
    names: Names = None, every: Every = False, category: Category = None, table_format: TableFormat = Format.table
) -> None:
    """Compare the stored weights with the lock file; nothing is downloaded. Exit 1 unless all are there and unchanged.

    Example: bandlens checkpoints verify --all
    """
    chosen = api.models.select_checkpoints(names or [], every, category)
    rows = [row for checkpoint in chosen for row in api.models.verify_weights(checkpoint)]
    print_rows(
        [{"name": row.name, "status": row.status, "sha256": row.sha256, "file": row.file} for row in rows], table_format
    )
    bad = list(dict.fromkeys(row.name for row in rows if row.status != "ok"))
    if bad:
        raise CheckpointError(f"{len(bad)} not verified: {', '.join(bad)}; `bandlens checkpoints fetch` fetches them")


class Named(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


def for_each(chosen: Iterable[N], act: Callable[[N], Any], advance: Callable[[], None] = lambda: None) -> list[str]:
    """Act on each checkpoint or model; gives the names of those that failed, with a line on stderr for each.

    A single one fails with its own error.
    """
    chosen = list(chosen)
    if len(chosen) == 1:
        act(chosen[0])
        advance()
        return []
    failed = []
    for model in chosen:
        try:
            act(model)
        except BandlensError as error:
            log.error(f"bandlens: {model.name}: {error}")
            failed.append(model.name)
        advance()
    return failed
