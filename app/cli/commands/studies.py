"""`bandlens init`, `plan`, `power`, `run`, `progress` and `import`: before, during and instead of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ....core.errors import BandlensError, amount, duration, plural, quoted, some_of
from ....core.untrusted import one_line
from ...api import studies
from ..command_factory import command
from ..tables import Format, Rows, TableFormat, print_document, print_note, print_rows, print_tables

if TYPE_CHECKING:
    from ...study.external_predictions import Imported
    from ...study.file import Study
    from ...study.plan import Plan
    from ...study.run_monitor import RunProgress
    from ...study.summary import Summary

MOST_FILES = 5
"""The number of files of a user's probe that are named, except in JSON and CSV."""


def print_study(study: Study, file: Path) -> None:
    """Examples: bandlens init study.toml, bandlens init grid.toml --study grid"""
    print(f"{file}: {some_of(study.checkpoints)} on {some_of(study.images)}; next: bandlens plan {file}")


def print_plan(
    plan: Plan,
    cells: Annotated[bool, typer.Option("--cells")] = False,
    table_format: TableFormat = Format.table,
) -> None:
    """Example: bandlens plan study.toml --db results.duckdb

    Args:
        cells: print a table of the cells first; other formats have it anyway.
    """
    if table_format.is_for_programs:
        print_document(plan, table_format)
        return
    note = partial(print_note, table_format=table_format)
    if cells or table_format != Format.table:
        print_rows(plan.rows, table_format, titles=("checkpoint", "image_set"))
    _print_notes(plan, note)
    if not plan.missing:
        note("nothing to run: every cell is done")
        return
    failed = f" ({len(plan.failed):,} of them failed when last tried)" if plan.failed else ""
    note(
        f"to run: {plural(len(plan.missing), 'cell')}{failed}, {plural(plan.predictions, 'prediction')}, "
        f"about {duration(plan.seconds)} here ({plan.estimate})"
    )
    note(f"images: {amount(plan.image_bytes)}; database: {amount(plan.database_bytes)} more")


def _print_notes(plan: Plan, note: Callable[[str], None]) -> None:
    from ...study.summary import summarize_failures

    if stale := sum(row["stale"] for row in plan.rows):
        note(
            f"stale: {plural(stale, 'cell')} of the study's last version that this one lacks; they stay in the "
            "database, and views show them until this version has run"
        )
    for probe, files in plan.own_probes.items():
        file_names = one_line(some_of(files or ["its source"], MOST_FILES))
        note(f"{probe} depends on {file_names}; what it reads elsewhere is not seen")
    metrics: dict[str, list[str]] = {}
    for determined in plan.metrics:
        if not determined.why:
            metrics.setdefault(determined.image_set or "benchmarks", []).append(determined.name)
    for words, lists in (("metrics of", metrics), ("under each condition of", plan.condition_metrics)):
        sets_by_metrics: dict[str, list[str]] = {}
        for image_set, names in lists.items():
            sets_by_metrics.setdefault(", ".join(names), []).append(image_set)
        for metric_names, image_sets in sets_by_metrics.items():
            note(f"{words} {some_of(image_sets)}: {metric_names}")
    for determined in plan.metrics:
        if determined.why:
            note(f"no {determined.in_words}: {determined.why}")
    sets_by_difference: dict[str, list[str]] = {}
    for image_set, difference in plan.detectable.items():
        sets_by_difference.setdefault("none" if difference > 1 else f"{difference:.2g}", []).append(image_set)
    for difference_words, image_sets in sets_by_difference.items():
        note(
            f"smallest difference of two accuracies that 80 % of such studies find after Holm, on "
            f"{some_of(image_sets)}: {difference_words}"
        )
    for doubt in plan.doubts:
        note(f"warning: {one_line(doubt)}")
    for line in summarize_failures(plan.failed):
        note(f"when last tried, {line}")


def print_summary(summary: Summary, study: Path, db: Path, table_format: TableFormat = Format.table) -> None:
    """Example: bandlens run study.toml --db results.duckdb"""
    if table_format == Format.table:
        print_note("\n".join([_run_in_words(summary, study, db), *summary.verdict[:1]]), table_format)
    else:
        print_document(summary, table_format)
    summary.raise_failures()


def _run_in_words(summary: Summary, study: Path, db: Path) -> str:
    if summary.ran or summary.failed:
        words = (
            f"ran {summary.ran:,} of {plural(summary.cells, 'cell')}, {plural(summary.predictions, 'prediction')} in "
            f"{duration(summary.seconds)} ({summary.predictions / summary.seconds:,.0f} a second), into {db}"
        )
    else:
        words = f"nothing to run, all {summary.cells:,} cells are in {db}"
    command = "report" if summary.verdict else f"analyze --study {quoted(study)}"
    advice = "" if summary.failed else f"; next: bandlens {command} --db {quoted(db)}"
    return f"{summary.label}: {words}{advice}"


def print_power(tables: Mapping[str, Rows], table_format: TableFormat = Format.table) -> None:
    """Example: bandlens power --difference 0.03 --discordance 0.25"""
    print_tables(tables, table_format)


def print_progress(states: Sequence[RunProgress], db: Path, table_format: TableFormat = Format.table) -> None:
    """Exit status 1 says that the process of a run was killed.

    Example: bandlens progress --db results.duckdb
    """
    if table_format != Format.table:
        print_rows([asdict(state) | {"seconds_left": state.seconds_left} for state in states], table_format)
    elif not states:
        print(f"{db}: no run writes to it")
    for state in states:
        counts = (
            f"{state.done:,.0f} of {state.total:,.0f} {state.unit} ({state.done / state.total:.0%}), process "
            f"{state.process} on {state.host}"
        )
        if state.gone:
            raise BandlensError(
                f"{db}: a run was killed while {state.activity}, after {counts}; run the same command again, "
                "which goes on with what was committed"
            )
        if table_format == Format.table:
            seconds_left = state.seconds_left
            rest = "time left not known yet" if seconds_left is None else f"about {duration(seconds_left)} left"
            age = duration(max(0.0, time.time() - state.written))
            print(f"{db}: {state.activity}, {counts}, as of {age} ago; {rest}")


def print_imports(imports: Sequence[Imported], db: Path) -> None:
    """Example: bandlens import predictions predictions.parquet --checkpoint ResNet50 --images labels.parquet"""
    for imported in imports:
        interval = f"{100 * imported.low:.2f} to {100 * imported.high:.2f}"
        print(
            f"{db}: {imported.label}, {plural(imported.images, 'prediction')} imported, "
            f"top-1 {100 * imported.top1:.3f} % ({interval})"
        )


COMMANDS: dict[str, Any] = {
    "init": command(studies.write_study, print_study),
    "plan": command(studies.plan, print_plan),
    "power": command(studies.power, print_power),
    "run": command(studies.run, print_summary, raise_failures=False),
    "progress": command(studies.run_progress, print_progress),
    "import": {"predictions": command(studies.import_predictions, print_imports)},
}
