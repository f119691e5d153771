"""`bandlens plan` and `run`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...core.errors import amount, plural, quoted, some_of
from ...core.untrusted import one_line
from ..api import studies
from ..printing import Format, TableFormat, duration, print_document, print_note, print_rows
from ..study import GATE_IMAGES
from ..terminal import command

if TYPE_CHECKING:
    from ..study.plan import Plan
    from ..study.record import Summary

MOST_FILES = 5
"""The number of files of a user's probe that are named, except in JSON and CSV."""
MOST_LINES = 5
"""The number of lines on what would be found, except in JSON and CSV."""


def print_plan(
    planned: Plan,
    summary: Annotated[bool, typer.Option("--summary")] = False,
    table_format: TableFormat = Format.table,
) -> None:
    """Example: bandlens plan study.toml --db results.duckdb

    Args:
        summary: print the last lines alone: what is to run, its time and its room.
    """
    if table_format.is_for_programs:
        print_document(_document(planned), table_format)
        return
    note = partial(print_note, table_format=table_format)
    if not summary:
        _print_details(planned, table_format)
    if not planned.missing:
        note("nothing to run: every cell is done")
        return
    failed = f" ({len(planned.failed):,} of them failed when last tried)" if planned.failed else ""
    note(
        f"to run: {plural(len(planned.missing), 'cell')}{failed}, {plural(planned.predictions, 'prediction')}, "
        f"about {duration(planned.seconds)} here ({planned.estimate})"
    )
    least = planned.cost.h100_seconds
    on_h100 = "" if least is None else f"; on an H100: no less than {duration(least)} (its peak)"
    note(f"images: {amount(planned.cost.image_bytes)}; database: {amount(planned.cost.database_bytes)} more{on_h100}")


def _print_details(planned: Plan, table_format: Format) -> None:
    print_rows(planned.rows, table_format, titles=("checkpoint", "image_set"))
    note = partial(print_note, table_format=table_format)
    if stale := sum(row["stale"] for row in planned.rows):
        note(
            f"stale: {plural(stale, 'cell')} of the study's last version that this one lacks; they stay in the "
            "database, and views show them until this version has run"
        )
    if len(planned.packed) > 1:
        for how, (models, sets) in planned.packed.items():
            note(f"{how}: {some_of(models)} on {some_of(sets)}")
    if planned.smaller_maps:
        maps = ", ".join(f"{name} {count:,}" for name, count in planned.smaller_maps.items())
        note(f"predictions of smaller maps of waves: {maps}")
    for probe in planned.own_probes:
        file_names = one_line(some_of(probe.files or ["its source"], MOST_FILES))
        note(f"{probe.name} depends on {file_names}; what it reads elsewhere is not seen")
    if planned.gate_predictions:
        note(
            f"`bandlens gate precision` takes {GATE_IMAGES:,} images of each set at most, and runs "
            f"{planned.gate_predictions:,} predictions at fp32 and as many at {planned.precision}; on all images "
            "(--images 0) it takes longer than the study itself"
        )
    metrics: dict[str, list[str]] = {}
    for determined in planned.metrics:
        if not determined.why:
            metrics.setdefault(determined.image_set or "benchmarks", []).append(determined.name)
    for words, lists in (("metrics of", metrics), ("under each condition of", planned.condition_metrics)):
        sets_by_metrics: dict[str, list[str]] = {}
        for image_set, names in lists.items():
            sets_by_metrics.setdefault(", ".join(names), []).append(image_set)
        for metric_names, image_sets in sets_by_metrics.items():
            note(f"{words} {some_of(image_sets)}: {metric_names}")
    for determined in planned.metrics:
        if determined.why:
            note(f"no {determined}: {determined.why}")
    for line in _detectable_in_words(planned):
        note(line)
    for doubt in planned.doubts:
        note(f"warning: {one_line(doubt)}")
    for line in planned.failures:
        note(f"when last tried, {line}")


def _detectable_in_words(planned: Plan) -> Iterator[str]:
    """A line for the image sets that have the same figures, for some of them at most, and one for correlations."""
    sets_by_words: dict[str, list[str]] = {}
    for image_set, rows in groupby(planned.detectable, lambda row: row.image_set):
        figures_by_basis = {basis: ", ".join(map(str, same)) for basis, same in groupby(rows, lambda row: row.basis)}
        words = "; ".join(f"{figures} ({basis})" for basis, figures in figures_by_basis.items())
        sets_by_words.setdefault(words, []).append(f"of two models on {image_set}" if image_set else "over all models")
    heading = "smallest difference that 80 % of such studies find after Holm"
    for words, places in list(sets_by_words.items())[:MOST_LINES]:
        yield f"{heading}, {some_of(places)}: {words}"
        heading = "the same"


def _document(planned: Plan) -> dict[str, Any]:
    return {
        "rows": planned.rows,
        "packed": [
            {"preprocessing": how, "checkpoints": models, "image_sets": sets}
            for how, (models, sets) in planned.packed.items()
        ],
        "to_run": {
            "cells": len(planned.missing),
            "predictions": planned.predictions,
            "seconds": round(planned.seconds, 1),
            "operations": planned.cost.operations,
            "attack_operations": planned.cost.attack_operations,
            "h100_seconds_at_peak": planned.cost.h100_seconds,
            "database_bytes": round(planned.cost.database_bytes),
            "image_bytes": planned.cost.image_bytes,
            "estimate": planned.estimate,
        },
        "smaller_maps": planned.smaller_maps,
        "missing": [
            {
                "checkpoint": cell.model.name,
                "image_set": cell.image_set.name,
                "condition": cell.condition.at(cell.image_set.size),
            }
            for cell in planned.missing
        ],
        "gate_predictions": planned.gate_predictions,
        "metrics": [
            {
                "image_set": determined.image_set,
                "metrics": list(determined.metrics),
                "determined": not determined.why,
                "why": determined.why,
            }
            for determined in planned.metrics
        ],
        "condition_metrics": planned.condition_metrics,
        "detectable": [asdict(row) for row in planned.detectable],
        "own_probes": [
            {"probe": probe.name, "files": list(probe.files or ()), "random": probe.random}
            for probe in planned.own_probes
        ],
        "failed": [{"cell": str(failure.cell), "error": failure.error} for failure in planned.failed],
        "doubts": planned.doubts,
    }


def print_summary(summary: Summary, study: Path, db: Path, table_format: TableFormat = Format.table) -> None:
    """Example: bandlens run study.toml --db results.duckdb"""
    if table_format != Format.table:
        print_document({"study": summary.label, **summary.numbers}, table_format)
    elif summary.ran or summary.failed:
        rate = summary.predictions / summary.seconds
        next_command = f"analyze{f' --study {quoted(study)}' if summary.own_measures else ''} --db {quoted(db)}"
        print(
            f"{summary.label}: ran {summary.ran:,} of {plural(summary.cells, 'cell')}, "
            f"{plural(summary.predictions, 'prediction')} in {duration(summary.seconds)} ({rate:,.0f} a second), "
            f"into {db}"
            f"{'' if summary.failed else f'; next: bandlens {next_command}'}"
        )
    else:
        print(f"{summary.label}: nothing to run, all {summary.cells:,} cells are in {db}")
    summary.raise_failures()


COMMANDS: dict[str, Any] = {
    "plan": command(studies.plan, print_plan),
    "run": command(studies.run, print_summary, raise_failures=False),
}
