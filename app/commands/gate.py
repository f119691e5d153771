"""`bandlens gate`: verdicts on a release, or on a precision, as tables, JSON and JUnit's XML."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ...core.errors import BandlensError, Undecided, plural, unwritable
from .. import api
from ..console import (
    TableFormat,
    condition_in_words,
    duration,
    print_document,
    print_note,
    print_tables,
    progress,
)
from ..formats import Format, Rows, junit_text
from ..study import GATE_IMAGES
from .options import Database

if TYPE_CHECKING:
    from ...analysis.comparison.gates import Gated


class Gates(TyperGroup):
    """The commands of gates, of which `release` need not be spelt."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take a first word that is no command for a study."""
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["release", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Gates,
    help="Judge a release by the one before it (`gate STUDY --against …`), or a precision by another: exit status 0 if "
    "every row passes, 1 if one fails, 3 if none fails and one has too few images to tell. See docs/guide/compare.md.",
    no_args_is_help=True,
)

Junit = Annotated[
    Path | None, typer.Option("--junit", help="Write the verdicts as JUnit's XML, too.", show_default="no file")
]
SHOWN = (
    *(
        "checkpoint",
        "image_set",
        "condition",
        "slice",
        "measure",
        "n",
        "before",
        "now",
        "loss",
        "loss_low",
        "loss_high",
    ),
    *("flips", "flips_low", "flips_high", "relative_flips", "verdict", "needed"),
)
"""Columns of the rows that do not pass, where they are not empty."""
MOST_ROWS = 60
"""The number of rows that do not pass and are listed for people: a comment on a pull request has no room for all."""


@app.command()
def release(
    study: Annotated[
        str,
        typer.Argument(
            help="The study: a TOML file, or one that was run, as name or name@version.", show_default=False
        ),
    ],
    against: Annotated[
        str,
        typer.Option(
            help="The release before: name or name@version in the database, or another database.", show_default=False
        ),
    ] = "",
    margin: Annotated[
        float | None,
        typer.Option(help="The loss that a release has to stay below.", show_default="the study's, or 0.01"),
    ] = None,
    flips: Annotated[
        float | None, typer.Option(help="The largest share of negative flips.", show_default="the study's, or any")
    ] = None,
    slices: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND", help="Judge by `class`, or `attribute`, too.", show_default="the study's, or none"
        ),
    ] = None,
    junit: Junit = None,
    db: Database = Path("results.duckdb"),
    table_format: TableFormat = Format.table,
) -> None:
    """Find out whether a release answers no worse than the one before it.

    Each condition passes, fails or is undecided: exit status 0 if all pass, 1 if one fails, 3 if none fails and one has
    too few images to tell. Predictions that lack are run first; verdicts are kept in the view `release_gate`.

    Example: bandlens gate study.toml --against main.duckdb --margin 0.01 --junit gate.xml
    """
    gated = api.studies.gate(study, against, db, margin=margin, flips=flips, slices=slices or (), progress=progress)
    _report(gated, junit, table_format)


@app.command()
def precision(
    study: Annotated[Path, typer.Argument(help="The study: a TOML file.", show_default=False)],
    candidate: Annotated[
        str | None,
        typer.Option(
            help="What is in question: a precision of the study's engine, or ENGINE:PRECISION.",
            show_default="the study's precision",
        ),
    ] = None,
    reference: Annotated[str, typer.Option(help="What is trusted, likewise.")] = "fp32",
    checkpoints: Annotated[
        list[str] | None,
        typer.Option(
            "--checkpoint", metavar="C", help="One of the study's checkpoints; may be repeated.", show_default="all"
        ),
    ] = None,
    images: Annotated[
        int, typer.Option(min=0, help="Of each image set, drawn from all classes evenly; 0 takes all.")
    ] = GATE_IMAGES,
    junit: Junit = None,
    db: Database = Path("results.duckdb"),
    table_format: TableFormat = Format.table,
) -> None:
    """Find out whether a faster precision gives a study's answers: both run on the same perturbed images.

    Exit status 0 if every checkpoint and condition passes, 1 if one fails, 3 if none fails and one has too few images
    to tell. The limits are those of the study's table [gate]: flips = 0.01, accuracy = 0.003. Rows are kept in the view
    `gate`. At fp32 an image costs as much as in a study: gate a few checkpoints of each architecture, on some images.
    What passes on them may be run on all.

    Example: bandlens gate precision study.toml --candidate openvino:int8 --reference openvino:fp32 --images 5000
    """
    gated = api.studies.gate_precision(
        study, candidate, reference, db, checkpoints=checkpoints or (), images=images, progress=progress
    )
    _report(gated, junit, table_format)


def _report(gated: Gated, junit: Path | None, table_format: Format) -> None:
    """Print the table, write the file for CI services, and raise what the exit status says."""
    counts, failed = gated.counts, gated.ran.get("failed")
    rows = [{"condition": condition_in_words(row)} | row for row in gated.rows.to_dicts()]
    if junit is not None:
        _write_junit(junit, gated.label, rows)
    headline = f"{gated.label}: {', '.join(f'{count:,} {name}' for name, count in counts.items())}"
    facts = {"rule": gated.rule, "differs_in": gated.differs_in, "same_cells": gated.same, "lacking": gated.lacking}
    if table_format.is_for_programs:
        document = {"compared": gated.label, **counts, **facts, "worst": gated.worst and dict(gated.worst), **gated.ran}
        print_document(document | {"checkpoints": _summaries(gated), "rows": rows}, table_format)
    else:
        _print(gated, headline, rows, facts, table_format)
    if failed:
        raise BandlensError(
            f"{len(failed)} of {gated.ran['cells']} cells failed, the first: {failed[0]['cell']}: "
            f"{failed[0]['error']}; the others are stored and compared, and the next gate tries the failed ones again"
        )
    if counts["fail"]:
        raise BandlensError(f"{headline}; a row that fails exceeds its limit beyond chance")
    if counts["undecided"]:
        raise Undecided(f"{headline}; {_images_in_words(rows)}: take more images, or widen the limits")


def _images_in_words(rows: Rows) -> str:
    """How many images would decide the undecided rows, as far as that can be said."""
    undecided = [row for row in rows if row["verdict"] == "undecided"]
    # A slice needs more images of its own, so that what all rows together need is a multiple of what they have.
    times = [row["needed"] / row["n"] for row in undecided if row["needed"]]
    unknown, words = len(undecided) - len(times), []
    if times:
        words.append(
            f"about {ceil(10 * max(times)) / 10:,.1f} times as many images would decide "
            f"{f'{len(times):,} of them' if unknown else 'all'}"
        )
    if unknown:
        words.append(
            f"{unknown:,} cannot say how many images would decide, since they are at the limit, or have one image or "
            "cluster"
        )
    return "; ".join(words)


def _summaries(gated: Gated) -> list[dict[str, Any]]:
    """Verdicts counted by checkpoint and image set, and where the loss, or the share of flips, is largest."""
    from ...analysis.comparison.gates import count_verdicts

    return [
        {name: row[name] for name in row if name not in ("probe", "parameters", "cycles")}
        | {"at": condition_in_words(row)}
        for row in count_verdicts(gated.rows, gated.size).to_dicts()
    ]


def _print(gated: Gated, headline: str, rows: Rows, facts: dict[str, Any], table_format: Format) -> None:
    note, ran = partial(print_note, table_format=table_format), gated.ran
    if ran:
        note(
            f"ran {ran['ran']:,} of {plural(ran['cells'], 'cell')}, {plural(ran['predictions'], 'prediction')} in "
            f"{duration(ran['seconds'])}"
        )
    note(gated.rule)
    if gated.same:
        note(f"{gated.same:,} cells are one and the same in both")
    if gated.lacking:
        note(f"cells that only one of the two has, which are not judged: {gated.lacking}")
    if gated.differs_in:
        note(f"the two differ in: {gated.differs_in}")
    order = {"fail": 0, "undecided": 1}
    open_rows = sorted((row for row in rows if row["verdict"] in order), key=lambda row: order[row["verdict"]])
    tables = {headline: _summaries(gated)}
    if gated.worst:
        worst = {"condition": condition_in_words(gated.worst), **gated.worst}
        columns = ("checkpoint", "image_set", "condition", "slice", "measure", "loss", "loss_low", "loss_high")
        tables["Worst loss, with an interval that allows for the choice"] = [{name: worst[name] for name in columns}]
    if open_rows:
        shown = [name for name in SHOWN if any(row[name] not in (None, "") for row in open_rows)]
        tables["Rows that do not pass"] = [{name: row[name] for name in shown} for row in open_rows[:MOST_ROWS]]
    if table_format != Format.table:  # notes go elsewhere, and a pull request shows the tables alone
        facts = facts | {"rows_not_listed": max(0, len(open_rows) - MOST_ROWS)}
        tables["Limits, and what is not judged"] = [facts]
    print_tables(tables, table_format, titles=("checkpoint", "image_set"))
    if len(open_rows) > MOST_ROWS:
        note(f"{len(open_rows) - MOST_ROWS:,} more do not pass; --format json lists all")


def _write_junit(file: Path, title: str, rows: Rows) -> None:
    suites: dict[str, list[tuple[str, str, str]]] = {}
    for row in rows:
        name = ", ".join(filter(None, (row["condition"], row["slice"], row["measure"])))
        parts = [row["note"], _number_in_words(row, "loss", "margin"), _number_in_words(row, "flips", "max_flips")]
        parts.append(f"about {row['needed']:,} images would decide" if row["needed"] else None)
        message = f"{row['verdict']}: {'; '.join(filter(None, parts))}"
        suites.setdefault(f"{row['checkpoint']} on {row['image_set']}", []).append((name, row["verdict"], message))
    try:
        file.write_text(junit_text(title, suites), encoding="utf-8")
    except OSError as error:
        raise unwritable(file, error, "name another with --junit") from None


def _number_in_words(row: Mapping[str, Any], name: str, limit: str) -> str:
    """A number with its interval and its limit; empty where the row is not judged by it."""
    if row[name] is None or row[limit] is None:
        return ""
    low, high = (f"{row[end]:.4g}" if row[end] is not None else "-" for end in (f"{name}_low", f"{name}_high"))
    return f"{name} {row[name]:.4g} [{low}, {high}], {limit.replace('max_flips', 'limit')} {row[limit]:g}"
