"""`bandlens gate`: verdicts on a release, or on a precision, as tables, JSON and JUnit's XML."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ....core.errors import BandlensError, Undecided, UnknownName, UsageError, duration, plural, writing
from ....core.files import write_bytes
from ....probes.grid import condition_in_words
from ...api import studies
from ...api.parameters import File
from ..command_factory import command
from ..tables import Format, Rows, TableFormat, junit_text, print_document, print_note, print_tables

if TYPE_CHECKING:
    from ....analysis.comparison.gates import Gated


class Gates(TyperGroup):
    """The commands of gates, of which none needs to be spelt: a precision alone has `--candidate` and `--reference`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take a first word that is no command for a study."""
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            if args[1:] and not any(word.startswith("-") for word in args[:2]):  # two words: the first is a command
                hint = f"if it is a study, write: {ctx.command_path} {args[0]} --against {args[1]}"
                raise UnknownName("command", args[0], self.commands, hint)
            options = {word.partition("=")[0] for word in args}
            is_precision = bool({"--candidate", "--reference"} & options)
            if is_precision and "--against" in options:
                raise UsageError(
                    "--against judges a release, and --candidate and --reference a precision; leave either out"
                )
            args = ["precision" if is_precision else "release", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Gates,
    help="Judge a release by the one before it (`gate STUDY --against …`), or a precision by another: exit status 0 if "
    "every row passes, 1 if one fails, 2 if nothing could be judged, 3 if none fails and one has too few images to "
    "tell. See docs/guide/decide.md.",
    no_args_is_help=True,
)

OPEN_ROW_COLUMNS = (
    *("checkpoint", "image_set", "condition", "slice", "measure", "n", "before", "now"),
    *("loss", "loss_low", "loss_high", "flips", "flips_low", "flips_high", "relative_flips"),
    *("verdict", "decides", "p", "needed", "note"),
)
"""Columns of the rows that do not pass, where they are not empty."""
MOST_ROWS = 10
"""The number of rows that do not pass and are listed for people, those with the largest losses first."""


def print_verdicts(
    gated: Gated,
    junit: Annotated[File | None, typer.Option(metavar="FILE")] = None,
    table_format: TableFormat = Format.table,
) -> None:
    """Exit status 0 if all pass, 1 if one fails, 2 if nothing could be judged, 3 if none fails and one has too few
    images to tell.

    Examples: bandlens gate study.toml --against main.duckdb --margin 0.01 --junit gate.xml, bandlens gate precision
    study.toml --candidate openvino:int8 --reference openvino:fp32 --images 5000

    Args:
        junit: write the verdicts as JUnit's XML, too.
    """
    counts = gated.counts
    from ....analysis.comparison.gates import decision_of

    rows = [{"condition": condition_in_words(row)} | row | decision_of(row) for row in gated.rows.to_dicts()]
    if junit is not None:
        _write_junit(Path(junit), gated.label, rows, gated.databases)
    headline = gated.headline
    facts = {"rule": gated.rule, "differs_in": gated.differs_in, "same_cells": gated.same, "lacking": gated.lacking}
    if table_format.is_for_programs:
        document = {"compared": gated.label, **counts, **facts, "worst": gated.worst and dict(gated.worst)}
        document |= {"run": gated.run_summary, "checkpoints": _summaries(gated), "rows": rows}
        print_document(document, table_format)
    else:
        _print(gated, headline, rows, facts, table_format)
    if gated.run_summary:
        gated.run_summary.raise_failures()
    if counts["fail"]:
        raise BandlensError(f"{headline}; {_failure_in_words(gated)}")
    if counts["undecided"]:
        raise Undecided(f"{headline}; {_images_in_words(rows)}: take more images, or widen the limits")


def _failure_in_words(gated: Gated) -> str:
    """Say what a row that fails has shown."""
    if gated.size == "flips":
        return "a row that fails exceeds its limit beyond chance"
    from ....analysis.comparison.gates import FLIPS

    flips = ", or more negative flips than the limit" if FLIPS in gated.rows["measure"] else ""
    return f"a row that fails has a loss beyond chance, which may reach the margin{flips}"


def _images_in_words(rows: Rows) -> str:
    """How many images would decide the undecided rows, as far as that can be said."""
    undecided = [row for row in rows if row["verdict"] == "undecided"]
    # A slice needs more images of its own, so that what all rows together need is a multiple of what they have.
    times = [row["needed"] / row["n"] for row in undecided if row["needed"]]
    unknown, words = len(undecided) - len(times), []
    if times:
        quantity = f"{len(times):,} of them" if unknown else "all"
        words.append(f"about {ceil(10 * max(times)) / 10:,.1f} times as many images would decide {quantity}")
    if unknown:
        reason = "they are at the limit, or have one image or cluster"
        words.append(f"{unknown:,} cannot say how many images would decide, since {reason}")
    return "; ".join(words)


def _summaries(gated: Gated) -> list[dict[str, Any]]:
    """Verdicts counted by checkpoint and image set, and where the loss, or the share of flips, is largest."""
    from ....analysis.comparison.gates import count_verdicts

    return [
        {name: row[name] for name in row if name not in ("probe", "parameters", "cycles")}
        | {"at": condition_in_words(row)}
        for row in count_verdicts(gated.rows, gated.size).to_dicts()
    ]


def _print(gated: Gated, headline: str, rows: Rows, facts: dict[str, Any], table_format: Format) -> None:
    note, run = partial(print_note, table_format=table_format), gated.run_summary
    if run:
        note(
            f"ran {run.ran:,} of {plural(run.cells, 'cell')}, {plural(run.predictions, 'prediction')} in "
            f"{duration(run.seconds)}"
        )
    note(gated.rule)
    if gated.same:
        note(f"{gated.same:,} cells are one and the same in both")
    if gated.lacking:
        note(f"not judged: {gated.lacking}")
    if gated.differs_in:
        note(f"the two differ in: {gated.differs_in}")
    order = {"fail": 0, "undecided": 1}
    open_rows = [row for row in rows if row["verdict"] in order]
    open_rows.sort(key=lambda row: (order[row["verdict"]], -(row[gated.size] or 0)))
    verdict = next((verdict for verdict in ("fail", "undecided") if gated.counts[verdict]), "pass").upper()
    tables = {headline if table_format == Format.table else f"{verdict}: {headline}": _summaries(gated)}
    if gated.worst:
        loss_row = {"condition": condition_in_words(gated.worst), **gated.worst}
        columns = ("checkpoint", "image_set", "condition", "slice", "measure", "loss", "loss_low", "loss_high")
        tables["The surest loss, whose interval begins highest and allows for the choice"] = [
            {name: loss_row[name] for name in columns}
        ]
    if open_rows:
        open_columns = [name for name in OPEN_ROW_COLUMNS if any(row[name] not in (None, "") for row in open_rows)]
        tables["Rows that do not pass"] = [{name: row[name] for name in open_columns} for row in open_rows[:MOST_ROWS]]
    if table_format != Format.table:  # notes go elsewhere, and a pull request shows the tables alone
        facts = facts | {"rows_not_listed": max(0, len(open_rows) - MOST_ROWS)}
        tables["Limits, and what is not judged"] = [facts]
    print_tables(tables, table_format, titles=("checkpoint", "image_set"))
    if len(open_rows) > MOST_ROWS:
        note(f"{len(open_rows) - MOST_ROWS:,} more do not pass; --format json lists all")


def _write_junit(file: Path, title: str, rows: Rows, databases: Sequence[Path]) -> None:
    """Write the verdicts as JUnit's XML; whoever may not read the databases may not read the file either."""
    suites: dict[str, list[tuple[str, str, str]]] = {}
    for row in rows:
        name = ", ".join(filter(None, (row["condition"], row["slice"], row["measure"])))
        numbers = (f"{name} {row[name]:.4g}" for name in ("loss", "flips") if row[name] is not None)
        parts = [row["note"], *numbers, row["decides"], None if row["p"] is None else f"p {row['p']:.2g} after Holm"]
        parts.append(f"about {row['needed']:,} images would decide" if row["needed"] else None)
        message = f"{row['verdict']}: {'; '.join(filter(None, parts))}"
        suites.setdefault(f"{row['checkpoint']} on {row['image_set']}", []).append((name, row["verdict"], message))
    with writing(file, "name another with --junit"):
        write_bytes(file, junit_text(title, suites).encode(), databases)


app.command("release")(command(studies.gate, print_verdicts))
app.command("precision")(command(studies.gate_precision, print_verdicts))
COMMANDS: dict[str, Any] = {"gate": app}
