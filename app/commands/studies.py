"""`bandlens studies`: what a results database holds, by study."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...core.errors import UsageError, amount, plural, quoted
from .. import api
from ..api.options import complete_study
from ..console import TableFormat, print_rows
from ..formats import Format
from .options import Database

if TYPE_CHECKING:
    from ...analysis.database.studies import Deletion

app = typer.Typer(
    name="studies",
    help="The studies in a results database: list, show, rename and delete them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

StudyName = Annotated[
    str,
    typer.Argument(metavar="NAME", help="A study, or one version of it: name@version.", autocompletion=complete_study),
]


@app.command("list")
def list_(db: Database = Path("results.duckdb"), table_format: TableFormat = Format.table) -> None:
    """List every version of every study: its cells, how many are complete, and how many no other version has.

    Example: bandlens studies list --db results.duckdb
    """
    rows = api.results.list_studies(db).to_dicts()
    print_rows([{name: _minute(name, value) for name, value in row.items()} for row in rows], table_format)


@app.command()
def show(name: StudyName, db: Database = Path("results.duckdb")) -> None:
    """Print the file that a version was run from last; of a name, that of the newest version.

    Example: bandlens studies show mine@1 > mine.toml
    """
    print(api.results.stored_study(name, db).rstrip("\n"))


@app.command()
def rename(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A study.", autocompletion=complete_study)],
    to: Annotated[str, typer.Argument(metavar="NEW", help="What all of its versions shall be called.")],
    db: Database = Path("results.duckdb"),
) -> None:
    """Give a study another name. The next run of a file with the old name begins a new study, of the same cells.

    Example: bandlens studies rename mine first_try
    """
    versions = api.results.rename_study(name, to, db)
    print(f"{name} is now {to}: {plural(versions, 'version')}")


@app.command()
def delete(
    name: StudyName,
    db: Database = Path("results.duckdb"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a version of a study, or all versions of a name: with the predictions that nothing else uses.

    Cells that other versions or studies have, or that a gate has compared, stay. It asks first.

    Example: bandlens studies delete mine@1
    """

    def confirm(deletion: Deletion) -> bool:
        going, staying = _deletion_in_words(deletion)
        if yes:
            return True
        if not sys.stdin.isatty():
            raise UsageError(f"{going} would go, and {staying}; give --yes to delete them")
        return typer.confirm(f"{going} go, and {staying}. Delete?")

    deleted = api.results.delete_study(name, db, confirm=confirm)
    if deleted is None:
        print("nothing was deleted")
        return
    deletion, free = deleted
    going, staying = _deletion_in_words(deletion)
    print(f"deleted {going}; {staying}")
    print(
        f"{amount(free)} of {amount(db.stat().st_size)} are free now; "
        f"`bandlens merge {quoted(db)} --out NEW.duckdb` makes a copy without them"
    )


def _deletion_in_words(deletion: Deletion) -> tuple[str, str]:
    """The versions with their cells and predictions, and the cells that stay."""
    return (
        f"{', '.join(deletion.labels)}: {plural(deletion.cells, 'cell')} with "
        f"{plural(deletion.predictions, 'prediction')}",
        f"{plural(deletion.kept, 'cell')} {'stays' if deletion.kept == 1 else 'stay'}, which something else uses",
    )


def _minute(name: str, value: object) -> object:
    return str(value)[:16] if name.endswith("_run") else value
