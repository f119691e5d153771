"""`bandlens gate`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...core.errors import BandlensError, Undecided, UsageError, plural, unwritable
from .. import api
from ..console import (
    TableFormat,
    condition_in_words,
    duration,
    print_document,
    print_note,
    print_rows,
    print_tables,
    progress,
)
from ..formats import Format, Rows, junit_text
from ..study import GATE_IMAGES
from .options import Database

if TYPE_CHECKING:
    import polars as pl

    from ...analysis.comparison.release import Released
    from ..study.gate import Gated

StudyToGate = Annotated[
    str,
    typer.Argument(
        help="The study: a TOML file; with --against also one that was run, as name or name@version.",
        show_default=False,
    ),
]
Against = Annotated[
    str | None,
    typer.Option(
        "--against",
        help="The release before: name or name@version in the database, or another database.",
        show_default="two precisions are compared",
    ),
]
Margin = Annotated[
    float | None,
    typer.Option("--margin", help="The loss that a release has to stay below.", show_default="the study's, or 0.01"),
]
Flips = Annotated[
    float | None,
    typer.Option(
        "--flips", help="The largest share of negative flips of a release.", show_default="the study's, or any"
    ),
]
Slices = Annotated[
    list[str] | None,
    typer.Option(
        "--slices",
        metavar="KIND",
        help="Judge a release by `class`, or `attribute`, too.",
        show_default="the study's, or none",
    ),
]
Junit = Annotated[
    Path | None,
    typer.Option("--junit", help="Write the verdicts on a release as JUnit's XML, too.", show_default="no file"),
]
Reference = Annotated[
    str | None,
    typer.Option(
        "--reference",
        help="What is trusted: a precision of the study's engine, or ENGINE:PRECISION.",
        show_default="fp32",
    ),
]
Candidate = Annotated[
    str | None, typer.Option("--candidate", help="What is in question.", show_default="the study's precision")
]
Checkpoints = Annotated[
    list[str] | None,
    typer.Option(
        "--checkpoint", metavar="C", help="One of the study's checkpoints; may be repeated.", show_default="all"
    ),
]
ImageCount = Annotated[
    int | None,
    typer.Option(
        "--images",
        min=0,
        help="Of each image set, drawn from all classes evenly; 0 takes all.",
        show_default=str(GATE_IMAGES),
    ),
]

SHOWN = (
    "checkpoint", "image_set", "condition", "n", "flips", "flips_low", "flips_high", "difference", "low", "high", "p",
    "verdict", "needed",
)  # fmt: skip
SHOWN_OF_RELEASE = (
    "checkpoint", "image_set", "condition", "slice", "measure", "n", "before", "now", "loss", "loss_low", "loss_high",
    "flips", "relative_flips", "verdict", "needed",
)  # fmt: skip
TITLES = ("checkpoint", "image_set")
"""Columns that become headings on a terminal without room for them."""
MOST_ROWS = 60
"""The number of rows that do not pass and are listed for people: a comment on a pull request has no room for all."""


def gate(
    study: StudyToGate,
    against: Against = None,
    margin: Margin = None,
    flips: Flips = None,
    slices: Slices = None,
    junit: Junit = None,
    reference: Reference = None,
    candidate: Candidate = None,
    checkpoints: Checkpoints = None,
    images: ImageCount = None,
    db: Database = Path("results.duckdb"),
    table_format: TableFormat = Format.table,
) -> None:
    """Find out whether a faster precision gives a study's answers, or a release answers no worse.

    With --against, each condition passes, fails or is undecided: exit status 0 if all pass, 1 if one fails, 3 if none
    fails and one has too few images to tell. Predictions that lack are run first; verdicts are kept in the view
    `release_gate`. See docs/guide/compare.md.

    Without it, two precisions run on the same perturbed images: exit status 0 if every checkpoint and condition passes,
    1 if one fails, or has too few images to tell. The limits are those of the study's table [gate]: flips = 0.01,
    accuracy = 0.003. Rows are kept in the view `gate`. At fp32 an image costs as much as in a study: gate a few
    checkpoints of each architecture, on some images. What passes on them may be run on all.

    Example: bandlens gate study.toml --against main.duckdb --margin 0.01 --junit gate.xml

    Example: bandlens gate study.toml --candidate openvino:int8 --reference openvino:fp32 --images 5000
    """
    of_release = {"--margin": margin, "--flips": flips, "--slices": slices, "--junit": junit}
    of_precision = {
        "--reference": reference, "--candidate": candidate, "--checkpoint": checkpoints, "--images": images,
    }  # fmt: skip
    if against is not None:
        _refuse(of_precision, "compares two precisions; leave it out, or --against")
        thresholds = {"margin": margin, "negative_flips": flips, "slices": slices}
        given_thresholds = {name: value for name, value in thresholds.items() if value is not None}
        released = api.studies.gate_release(study, against, db, progress=progress, **given_thresholds)
        _report_release(released, junit, table_format)
        return
    _refuse(of_release, "judges a release; name the one before it with --against")
    gated = api.studies.gate(
        Path(study),
        reference or "fp32",
        candidate,
        db,
        checkpoints=checkpoints or (),
        images=GATE_IMAGES if images is None else images,
        progress=progress,
    )
    if table_format.is_for_programs:
        rows = {"checkpoints": _summaries(gated.rows), "rows": gated.rows.to_dicts()}
        print_document({"compared": gated.ran.label, **gated.ran.numbers, **rows}, table_format)
    else:
        _print(gated, db, table_format)
    if message := _complaint(gated):
        raise BandlensError(message)


def _refuse(options: Mapping[str, object], reason: str) -> None:
    for option, value in options.items():
        if value is not None:
            raise UsageError(f"{option} {reason}")


# Releases


def _report_release(released: Released, junit: Path | None, table_format: Format) -> None:
    """Print the table, write the file for CI services, and raise what the exit status says."""
    counts = {name: len(released.rows.filter(verdict=name)) for name in ("pass", "fail", "undecided")}
    rows = [{"condition": condition_in_words(row)} | row for row in released.rows.to_dicts()]
    if junit is not None:
        _write_junit(junit, released.label, rows)
    headline = f"{released.label}: {', '.join(f'{count:,} {name}' for name, count in counts.items())}"
    if table_format.is_for_programs:
        document = {"compared": released.label, **counts, "margin": released.limits.margin}
        document |= {"negative_flips": released.limits.negative_flips, "same_cells": released.same}
        document |= {"differs_in": released.differs_in, "lacking": released.lacking}
        document |= {"worst": released.worst and dict(released.worst)}
        print_document(document | {"checkpoints": _summaries(released.rows, "loss"), "rows": rows}, table_format)
    else:
        _print_release(released, headline, rows, table_format)
    if counts["fail"]:
        raise BandlensError(f"{headline}; a row that fails is worse beyond chance, by margin or limit")
    if counts["undecided"]:
        raise Undecided(f"{headline}; {_images_in_words(rows)}: run a larger set, or widen --margin")


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
            f"{unknown:,} cannot say how many images would decide, since they lose just the margin, or have one image "
            "or cluster"
        )
    return "; ".join(words)


def _print_release(released: Released, headline: str, rows: Rows, table_format: Format) -> None:
    note, limits = partial(print_note, table_format=table_format), released.limits
    flips = "" if limits.negative_flips is None else f", negative flips up to {limits.negative_flips:.2%}"
    note(f"margin {limits.margin:.2%}{flips}; chance of any wrong verdict in the table at most 5 %")
    if released.same:
        note(f"{released.same:,} cells are one and the same in both")
    if released.lacking:
        note(f"cells that only one of the two has, which are not judged: {released.lacking}")
    if released.differs_in:
        note(f"the two differ in: {released.differs_in}")
    order = {"fail": 0, "undecided": 1}
    open_rows = sorted((row for row in rows if row["verdict"] in order), key=lambda row: order[row["verdict"]])
    tables = {headline: _summaries(released.rows, "loss")}
    if released.worst:
        worst = {"condition": condition_in_words(released.worst), **released.worst}
        columns = ("checkpoint", "image_set", "condition", "slice", "measure", "loss", "loss_low", "loss_high")
        tables["Worst loss, with an interval that allows for the choice"] = [{name: worst[name] for name in columns}]
    if open_rows:
        shown = [{name: row[name] for name in SHOWN_OF_RELEASE} for row in open_rows[:MOST_ROWS]]
        tables["Rows that do not pass"] = shown
    if table_format != Format.table:  # notes go elsewhere, and a pull request shows the tables alone
        tables["Limits, and what is not judged"] = [
            {
                "margin": limits.margin,
                "negative_flips": limits.negative_flips,
                "differs_in": released.differs_in,
                "same_cells": released.same,
                "lacking": released.lacking,
                "rows_not_listed": max(0, len(open_rows) - MOST_ROWS),
            }
        ]
    print_tables(tables, table_format, titles=TITLES)
    if len(open_rows) > MOST_ROWS:
        note(f"{len(open_rows) - MOST_ROWS:,} more do not pass; --format json lists all")


def _write_junit(file: Path, title: str, rows: Rows) -> None:
    suites: dict[str, list[tuple[str, str, str]]] = {}
    for row in rows:
        name = ", ".join(filter(None, (row["condition"], row["slice"], row["measure"])))
        low, high = (f"{row[end]:.4g}" if row[end] is not None else "-" for end in ("loss_low", "loss_high"))
        message = f"{row['verdict']}: loss {row['loss']:.4g} [{low}, {high}], margin {row['margin']:g}"
        if row["needed"]:
            message += f"; about {row['needed']:,} images would decide"
        suites.setdefault(f"{row['checkpoint']} on {row['image_set']}", []).append((name, row["verdict"], message))
    try:
        file.write_text(junit_text(title, suites), encoding="utf-8")
    except OSError as error:
        raise unwritable(file, error, "name another with --junit") from None


# Precisions


def _complaint(gated: Gated) -> str | None:
    """One line that says why the candidate cannot be used; None where it can."""
    ran, rows = gated.ran, gated.rows
    if ran.failed:
        first = ran.failed[0]
        return (
            f"{len(ran.failed)} of {ran.cells} cells failed, the first: {first.cell}: {first.error}; the others are "
            "stored and compared, and the next gate tries the failed ones again"
        )
    failing, undecided = (rows.filter(verdict=verdict) for verdict in ("fail", "undecided"))
    if len(failing):
        worst = failing.sort("flips", descending=True, maintain_order=True).row(0, named=True)
        return (
            f"{ran.label}: {len(failing)} of {len(rows)} gates fail, up to {worst['flips']:.1%} flips "
            f"({worst['checkpoint']}, {condition_in_words(worst)}); run the study at a precision that passes"
        )
    if len(undecided):
        needed = max(undecided["needed"].drop_nulls().to_list(), default=None)
        images = f"about {needed:,} images" if needed else "more images"
        return (
            f"{ran.label}: {len(undecided)} of {len(rows)} gates are undecided; {images} would decide: give --images, "
            "or sets that have as many"
        )
    return None


def _summaries(rows: pl.DataFrame, size: str = "flips") -> list[dict[str, Any]]:
    from ...analysis.comparison.verdicts import count_verdicts

    columns = ("checkpoint", "image_set", "pass", "fail", "undecided", f"worst_{size}")
    return [
        {name: row[name] for name in columns} | {"at": condition_in_words(row)}
        for row in count_verdicts(rows, size).to_dicts()
    ]


def _print(gated: Gated, db: Path, table_format: Format) -> None:
    ran, rows, limits = gated.ran, gated.rows, gated.limits
    note = partial(print_note, table_format=table_format)
    note(
        f"{ran.label}: ran {ran.ran:,} of {plural(ran.cells, 'cell')}, {plural(ran.predictions, 'prediction')} in "
        f"{duration(ran.seconds)}, into {db}"
    )
    note(f"limits: flips {limits.flips:.2%}, accuracy within {100 * limits.accuracy:g} points")
    open_ones = [
        {name: row[name] for name in SHOWN}
        for row in (row | {"condition": condition_in_words(row)} for row in rows.to_dicts())
        if row["verdict"] != "pass"
    ]
    count = f"{len(rows) - len(open_ones)} of {len(rows)} gates pass{'; these do not:' if open_ones else ''}"
    if table_format == Format.table:
        print_rows(_summaries(rows))
        print(count)
        if open_ones:
            print_rows(open_ones, titles=("checkpoint", "image_set"))
    else:
        note(count)
        failing = {"Gates that do not pass": open_ones} if open_ones else {}
        print_tables({"Gates by checkpoint": _summaries(rows)} | failing, table_format)
