"""`bandlens studies`, `merge` and `verify`: what results databases hold, put together and checked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...core.errors import StoreError, UsageError, amount, plural, quoted
from ..api import results
from ..api.parameters import RESULTS, Database, File
from ..printing import Format, TableFormat, print_document, print_lines, print_rows, print_text
from ..terminal import command

if TYPE_CHECKING:
    from polars import DataFrame

    from ...analysis.database.integrity import Check
    from ...analysis.database.merge import Merged
    from ...analysis.database.study_versions import Deletion

MOST_LINES = 20
"""The most contradictions that people are shown; --format json has all."""


def print_studies(versions: DataFrame, table_format: TableFormat = Format.table) -> None:
    """Example: bandlens studies list --db results.duckdb"""
    rows = versions.to_dicts()
    print_rows([row | {name: str(row[name])[:16] for name in ("first_run", "last_run")} for row in rows], table_format)


def print_renamed(versions: int, name: str, to: str) -> None:
    """Example: bandlens studies rename mine first_try"""
    print(f"{name} is now {to}: {plural(versions, 'version')}")


def delete(name: str, db: Database = RESULTS, yes: Annotated[bool, typer.Option("--yes", "-y")] = False) -> None:
    """Delete a version of a study, or all versions of a name: with the predictions that nothing else uses.

    Cells that other versions or studies have, or that a gate has compared, stay. It asks first.

    Example: bandlens studies delete mine@1

    Args:
        name: a study, or one version of it: name@version.
        yes: do not ask.
    """

    def confirm(deletion: Deletion) -> bool:
        going, staying = _deletion_in_words(deletion)
        if yes:
            return True
        if not sys.stdin.isatty():
            raise UsageError(f"{going} would go, and {staying}; give --yes to delete them")
        return typer.confirm(f"{going} go, and {staying}. Delete?")

    deleted = results.delete_study(name, db, confirm=confirm)
    if deleted is None:
        print("nothing was deleted")
        return
    deletion, free = deleted
    going, staying = _deletion_in_words(deletion)
    print(f"deleted {going}; {staying}")
    print(
        f"{amount(free)} of {amount(Path(db).stat().st_size)} are free now; "
        f"`bandlens merge {quoted(db)} --out NEW.duckdb` makes a copy without them"
    )


def _deletion_in_words(deletion: Deletion) -> tuple[str, str]:
    """The versions with their cells and predictions, and the cells that stay."""
    return (
        f"{', '.join(deletion.labels)}: {plural(deletion.cells, 'cell')} with "
        f"{plural(deletion.predictions, 'prediction')}",
        f"{plural(deletion.remaining_cells, 'cell')} {'stays' if deletion.remaining_cells == 1 else 'stay'}, "
        "which something else uses",
    )


def print_merged(merged: Merged, databases: Sequence[File], table_format: TableFormat = Format.table) -> None:
    """Example: bandlens merge here.duckdb there.duckdb --out both.duckdb"""
    counts = {"cells": merged.cells, "shared": merged.shared, "predictions": merged.predictions}
    if table_format != Format.table:
        document = {"studies": merged.studies, **counts, "contradicted": len(merged.contradictions)}
        print_document(document | {"contradictions": merged.contradictions}, table_format)
    elif merged.contradictions:
        print_lines(merged.contradictions[:MOST_LINES])
    out = merged.raise_contradictions().out
    if table_format == Format.table:
        old_size = amount(sum(Path(database).stat().st_size for database in databases))
        analyze = f"; `bandlens analyze --db {quoted(out)}` computes its metrics" if len(databases) > 1 else ""
        print(
            f"{out}: {plural(len(merged.studies), 'study')}, {plural(merged.predictions, 'prediction')} of "
            f"{plural(merged.cells, 'cell')}, {merged.shared:,} of them in several databases; "
            f"{amount(out.stat().st_size)} instead of {old_size}{analyze}"
        )


def print_checks(checks: Sequence[Check], db: File, table_format: TableFormat = Format.table) -> None:
    """Example: bandlens verify --db results.duckdb"""
    rows = [{"check": check.name, "checked": check.checked, "problems": len(check.problems)} for check in checks]
    problems = [problem for check in checks for problem in check.problems]
    print_document({"checks": rows, "problems": problems}, table_format)
    if problems:
        raise StoreError(f"{db}: {plural(len(problems), 'problem')}, the first: {problems[0]}")


COMMANDS: dict[str, Any] = {
    "studies": {
        "list": command(results.list_studies, print_studies),
        "show": command(results.stored_study, print_text, "Example: bandlens studies show mine@1 > mine.toml"),
        "rename": command(results.rename_study, print_renamed),
        "delete": command(delete),
    },
    "merge": command(results.merge, print_merged, raise_contradictions=False),
    "verify": command(results.verify, print_checks),
}
