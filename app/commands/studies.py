"""`bandlens studies`: what a results database holds, by study."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ...errors import UsageError, amount
from ..console import Json, print_rows
from .completion import complete_study
from .options import Database

app = typer.Typer(
    name="studies",
    help="The studies in a results database: list, show, rename and delete them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Wanted = Annotated[
    str,
    typer.Argument(metavar="NAME", help="A study, or one version of it: name@version.", autocompletion=complete_study),
]


@app.command("list")
def list_(db: Database = Path("results.duckdb"), json: Json = False) -> None:
    """List every version of every study: its cells, how many are complete, and how many no other version has.

    Example: bandlens studies list --db results.duckdb
    """
    from ...analysis.database.open import open_store
    from ...analysis.database.studies import list_studies

    with open_store(db, read_only=True) as store:
        rows = list_studies(store).to_dicts()
    print_rows([{name: _minute(name, value) for name, value in row.items()} for row in rows], json)


@app.command()
def show(name: Wanted, db: Database = Path("results.duckdb")) -> None:
    """Print the file that a version was run from last; of a name, that of the newest version.

    Example: bandlens studies show mine@1 > mine.toml
    """
    from ...analysis.database.open import open_store
    from ...analysis.database.studies import study_label, study_versions

    with open_store(db, read_only=True) as store:
        (chosen,) = study_versions(store, study_label(store, name))["study_id"]
        print(store.frame("SELECT toml FROM study WHERE id = ?", [chosen]).item().rstrip("\n"))


@app.command()
def rename(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A study.", autocompletion=complete_study)],
    to: Annotated[str, typer.Argument(metavar="NEW", help="What all of its versions shall be called.")],
    db: Database = Path("results.duckdb"),
) -> None:
    """Give a study another name. The next run of a file with the old name begins a new study, of the same cells.

    Example: bandlens studies rename mine first_try
    """
    from ...analysis.database.open import open_store
    from ...analysis.database.studies import rename_study
    from ..study.file import is_study_name

    if not is_study_name(to):
        raise UsageError(f"a study's name is a line of text without @, which asks for a version, not {to!r}")
    _there(db)
    with open_store(db) as store:
        versions = rename_study(store, name, to)
    print(f"{name} is now {to}: {versions} version{'' if versions == 1 else 's'}")


@app.command()
def delete(
    name: Wanted,
    db: Database = Path("results.duckdb"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a version of a study, or all versions of a name, with the predictions that nothing else uses.

    Cells that other versions or studies have, or that a gate has compared, stay. It asks first.

    Example: bandlens studies delete mine@1
    """
    from ...analysis.database.open import open_store
    from ...analysis.database.studies import delete_study, free_bytes

    _there(db)
    with open_store(db) as store:
        told = delete_study(store, name, dry_run=True)
        what = f"{', '.join(told.labels)}: {told.cells} cells with {told.predictions:,} predictions"
        stay = f"{told.kept} cells stay, which something else uses"
        if not yes:
            if not sys.stdin.isatty():
                raise UsageError(f"{what} would go, and {stay}; give --yes to delete them")
            if not typer.confirm(f"{what} go, and {stay}. Delete?"):
                print("nothing was deleted")
                return
        delete_study(store, name)
        free = free_bytes(store)
    print(f"deleted {what}; {stay}")
    print(f"{amount(free)} of {amount(db.stat().st_size)} are free now; `bandlens vacuum` gives them back")


def vacuum(db: Database = Path("results.duckdb")) -> None:
    """Give the room of what was deleted back to the disk. The database is written anew, and needs room for both.

    Example: bandlens vacuum --db results.duckdb
    """
    from ...analysis.database.vacuum import vacuum as vacuum_file

    _there(db)
    before, after = vacuum_file(db)
    print(f"{db}: {amount(before)} before, {amount(after)} now")


def _there(db: Path) -> None:
    """UsageError where there is no database: opening one to write to it would make it."""
    if not db.exists():
        raise UsageError(f"no results database at {db}; `bandlens run STUDY.toml --db {db}` makes one")


def _minute(name: str, value: object) -> object:
    return str(value)[:16] if name.endswith("_run") else value
