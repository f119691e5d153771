"""`bandlens checkpoints`: the 48, by name or category."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Protocol, TypeVar

import typer

from ...errors import BandlensError, CheckpointError
from ...export.weights.registry import Checkpoint, by_category, checkpoint, checkpoints, key_rule, select
from ..console import Json, log, print_lines, print_rows
from .completion import complete_category, complete_checkpoint

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
def list_(category: Category = None, json: Json = False) -> None:
    """List the checkpoints.

    Example: bandlens checkpoints list --category contrastive
    """
    chosen = checkpoints() if category is None else by_category(category)
    rows = [
        {
            "name": one.name,
            "category": one.category,
            "published_top1": one.published_top1,
            "normalization": one.normalization,
            "licence": one.licence,
            "source": one.source,
        }
        for one in chosen
    ]
    print_rows(rows, json)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_checkpoint)], json: Json = False
) -> None:
    """Show one checkpoint: where its files are published and stored, and how their keys are read.

    Example: bandlens checkpoints show resnet50_dino
    """
    from ...export.weights.fetch import local_files, verify

    one = checkpoint(name)
    stored = {row.file: row for row in verify(one)}
    rows = [
        {
            "name": one.name,
            "category": one.category,
            "published_top1": one.published_top1,
            "normalization": one.normalization,
            "licence": one.licence,
            "source": str(part.source),
            "rule": part.rule,
            "containers": ", ".join(key_rule(part.rule).containers),
            "drops": "; ".join(why for _, why in key_rule(part.rule).drop),
            "file": str(path),
            "sha256": stored[path].sha256,
            "status": stored[path].status,
        }
        for part, path in local_files(one)
    ]
    if json:
        print_rows(rows, as_json=True)
        return
    print_lines(rows)


@app.command()
def fetch(names: Names = None, every: Every = False, category: Category = None) -> None:
    """Download weights, going on where an earlier download stopped, and verify them.

    Examples: bandlens checkpoints fetch tv_resnet50, bandlens checkpoints fetch --category stylized
    """
    from ...export.weights.fetch import fetch as fetch_one

    def fetch_and_print(one: Checkpoint) -> None:
        for path in fetch_one(one):
            print(path)

    failed = for_each(select(names or [], every, category), fetch_and_print)
    if failed:
        raise CheckpointError(f"{len(failed)} not fetched: {', '.join(failed)}; run the same command to go on")


@app.command()
def verify(names: Names = None, every: Every = False, category: Category = None, json: Json = False) -> None:
    """Compare the stored weights with the lock file; nothing is downloaded. Exit 1 unless all are there and unchanged.

    Example: bandlens checkpoints verify --all
    """
    from ...export.weights.fetch import verify as verify_one

    rows = [row for one in select(names or [], every, category) for row in verify_one(one)]
    print_rows([{"name": row.name, "status": row.status, "sha256": row.sha256, "file": row.file} for row in rows], json)
    bad = list(dict.fromkeys(row.name for row in rows if row.status != "ok"))
    if bad:
        raise CheckpointError(f"{len(bad)} not verified: {', '.join(bad)}; `bandlens checkpoints fetch` fetches them")


class Named(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


def for_each(chosen: Iterable[N], act: Callable[[N], Any], advance: Callable[[], None] = lambda: None) -> list[str]:
    """Do something for each checkpoint or model; the names of those that failed, with a line on stderr for each.

    A single one fails with its own error.
    """
    chosen = list(chosen)
    if len(chosen) == 1:
        act(chosen[0])
        advance()
        return []
    failed = []
    for one in chosen:
        try:
            act(one)
        except BandlensError as error:
            log.error(f"bandlens: {one.name}: {error}")
            failed.append(one.name)
        advance()
    return failed
