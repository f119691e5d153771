"""`bandlens studies`, `merge`, `verify` and `sql`: what results databases hold, put together, checked and asked."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from ....core.errors import StoreError, UsageError, amount, plural, quoted
from ....core.untrusted import read_text, words_of
from ...api import results
from ...api.parameters import RESULTS, Database, File, path_of, reading
from ..command_factory import command
from ..tables import Format, TableFormat, print_document, print_lines, print_rows, print_text

if TYPE_CHECKING:
    from polars import DataFrame

    from ....analysis.database.integrity import Check
    from ....analysis.database.merge import Merged
    from ....analysis.database.study_versions import Deletion

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
    if table_format != Format.table:
        print_document(merged, table_format)
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


def print_sample(out: Path) -> None:
    """Example: bandlens sample --out sample.duckdb"""
    print(f"{out}: real results on imagenet-sample-images, whose pictures do not come along")
    print(f"next: bandlens explore --db {quoted(out)}, or studies list, report, sql, compare")


AnswerFormat = Literal["table", "csv", "tsv", "markdown", "latex", "json", "parquet", "arrow"]
STDIN = Path("-")


def answer(
    query: Annotated[str | None, typer.Argument()] = None,
    *,
    file: Annotated[File | None, typer.Option("--file", "-f", metavar="FILE")] = None,
    db: Database = RESULTS,
    format: AnswerFormat | None = None,  # noqa: A002
    out: File | None = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0)] = 60,
) -> None:
    """Ask the results database. The query can read it and nothing else: no other file, no network, no change.

    Views: accuracy, curve, flip, metric. Tables: prediction, cell, checkpoint, image_set, image, label, condition, …

    Several statements are answered one after another, with an empty line between two answers. Without a query, standard
    input holds it, if that is no terminal. Without --db, it is the database that $BANDLENS_DB names.

    Examples: bandlens sql -f query.sql --format markdown, bandlens sql "SELECT probe, cutoff, top1 FROM accuracy ORDER
    BY ALL" --format csv

    Args:
        query: a SELECT, or several with ; between them, in DuckDB's SQL.
        file: statements from a file; - is standard input.
        format: how to write the answer; by default by the ending of --out, or table.
        out: a file instead of the terminal.
        timeout: how long an answer may take, with fetching and writing its rows; 0 is no limit.
    """
    file, out = path_of(file), path_of(out)
    if query is None and file is None and not sys.stdin.isatty():
        file = STDIN
    if (query is None) == (file is None):
        raise UsageError('give one query, such as "FROM accuracy", or a --file with one')
    if query is not None and query.endswith(".sql"):
        raise UsageError(f"{query} is a file of a query; give it with --file")
    ending = out.suffix.removeprefix(".") if out else ""
    answer_format = format or (ending if ending in get_args(AnswerFormat) else "table")
    if out is not None and answer_format == "table":
        raise UsageError(
            f"cannot write {out} as a table; give --format csv, tsv, markdown, latex, json, parquet or arrow"
        )
    if out is None and answer_format in ("parquet", "arrow") and sys.stdout.isatty():
        raise UsageError(f"{answer_format.capitalize()} is not for a terminal; name a file with --out")
    if not math.isfinite(timeout):
        raise UsageError(f"--timeout is a number of seconds, or 0 for no limit, not {timeout}")
    try:  # the query as it was typed, whatever the locale took its bytes for
        text = _content(file or STDIN) if query is None else os.fsencode(query).decode()
    except UnicodeError:
        raise UsageError("the query is not UTF-8; write it in that encoding") from None
    with reading(db) as store:
        from ..query_output import print_answers, write_answers

        if answer_format == "table":
            print_answers(store, text, timeout)
        else:
            write_answers(store, text, timeout, answer_format, out)


def _content(file: Path) -> str:
    """The query in a file, or in what is piped in; UsageError where it cannot be read."""
    try:
        return read_text(Path("/dev/stdin") if file == STDIN else file, pipe=True)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read a query from {file}: {words_of(error)}; give --file a text file of SQL"
        ) from None


COMMANDS: dict[str, Any] = {
    "studies": {
        "list": command(results.list_studies, print_studies),
        "show": command(results.stored_study, print_text, "Example: bandlens studies show mine@1 > mine.toml"),
        "rename": command(results.rename_study, print_renamed),
        "delete": command(delete),
    },
    "sample": command(results.sample, print_sample),
    "merge": command(results.merge, print_merged, raise_contradictions=False),
    "verify": command(results.verify, print_checks),
    "sql": command(answer),
}
