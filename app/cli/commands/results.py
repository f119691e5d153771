"""`bandlens analyze`, `measures`, `consistency`, `correlate`, `compare`, `report` and `explore`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ....core.errors import amount, plural, some_of
from ....core.log import log
from ....core.protocol import MODEL_VS_HUMAN, SUBSET_TITLES, UNCOUNTED_CONDITIONS
from ....probes.grid import condition_in_words
from ...api import results
from ..command_factory import command
from ..tables import Format, Rows, TableFormat, print_document, print_note, print_rows, print_table, print_tables

if TYPE_CHECKING:
    from polars import DataFrame

    from ....analysis.comparison.runs import Comparison
    from ...api.parameters import File
    from ...report.build import Written


TITLES = ("study", "checkpoint", "image_set")
"""Columns that become headings on a terminal without room for them."""
COLUMNS = (*TITLES, "metric", "value", "low", "high", "state")
"""Columns of metrics that people are shown."""

MOST_NAMES = 10
"""The number of metrics or checkpoints that a reason lists."""


def print_metrics(metrics: DataFrame, db: File, table_format: TableFormat = Format.table) -> None:
    """Example: bandlens analyze --db results.duckdb --format csv"""
    from ....analysis.metrics.registry import details

    if metrics.is_empty():
        log.info(
            "no metric has its conditions yet; `bandlens plan STUDY.toml` says what is missing, and which it will have"
        )
    if table_format.is_for_programs:
        print_rows(metrics.drop("study_id", "checkpoint_id", "image_set_id").to_dicts(), table_format)
        return
    listed = metrics.filter(~metrics["metric"].is_in(details()) | metrics["value"].is_null())
    print_rows(listed.drop_nulls("value").select(COLUMNS).to_dicts(), table_format, titles=TITLES)
    notes = [*_reasons(listed.drop_nulls("note"))]
    if len(metrics) > len(listed):
        count = plural(len(metrics) - len(listed), "further number")
        notes.append(f"not listed: {count}, such as those of single bands; --format csv has all")
    verdicts = [*_verdicts([*metrics["study"].unique(maintain_order=True)], db)]
    for lines in filter(None, (notes, verdicts)):
        print_note("\n".join(["", *lines]), table_format)


def _verdicts(labels: Sequence[str], db: File) -> Iterator[str]:
    """Yield the first sentence on each version of a study, after its label where there are several."""
    label_lists: dict[str, list[str]] = {}
    with results.open(db) as reader:
        for label in labels:
            label_lists.setdefault(reader.verdict(label)[0], []).append(label)
    for sentence, names in label_lists.items():
        yield f"{some_of(names)}: {sentence}" if len(labels) > 1 else sentence


def _reasons(noted: DataFrame) -> Iterator[str]:
    """Yield a line for each note on numbers: why they have no value, or what to mind of it."""
    for (state, note, has_value), rows in noted.group_by(
        "state", "note", noted["value"].is_not_null(), maintain_order=True
    ):
        metrics, *subjects = (
            some_of(rows[column].drop_nulls().unique(maintain_order=True), MOST_NAMES)
            for column in ("metric", "checkpoint", "image_set", "study")
        )
        by = ", ".join(filter(None, subjects))
        yield f"{'value' if has_value else 'no value'} ({state}) of {metrics} by {by}: {note}"


def print_consistency(rows: Rows, images: str, convention: str, table_format: TableFormat = Format.table) -> None:
    """Example: bandlens consistency cue-conflict --db results.duckdb"""
    if not rows:
        has_more = convention == MODEL_VS_HUMAN and images in UNCOUNTED_CONDITIONS
        advice = " of a condition that counts; --convention all counts all" if has_more else ""
        log.info(f"no two judged the same images{advice}")
    print_rows(rows, table_format, titles=("images", "condition", "convention"))


def print_written(report: Written, folder: File) -> None:
    """Example: bandlens report --db results.duckdb --out report.html"""
    sections, charts = plural(report.sections, "section"), plural(report.charts, "chart")
    print(f"{report.out}: {sections}, {charts}, {amount(report.bytes)}")
    if report.figures:
        print(f"{folder}: {plural(len(report.figures), 'file')}")


def print_address(address: str, sets: int) -> None:
    """Say where the explorer's page is, as soon as it is served."""
    hint = "" if sets else " beside the database; name their folder with --images (the sample comes without)"
    print(f"{address}\n{plural(sets, 'image set')} found{hint}; Ctrl-C ends it", flush=True)


CORRELATION_COLUMNS = ("bias", "group", "coefficient", "low", "high", "p_holm", "partial", "notes")
"""Columns that people are shown of correlations; `notes` are numbers in the table of notes."""


def print_correlated(correlated: results.Correlated, table_format: TableFormat = Format.table) -> None:
    """Example: bandlens correlate --method pearson --format csv"""
    import polars as pl

    from ....analysis.correlations.table import HOLDS, model_counts
    from ....analysis.statistics import ALPHA

    rows = correlated.rows
    if table_format.is_for_programs:
        print_rows(rows.to_dicts(), table_format)
        return
    method, partial = rows["method"][0], f"given {correlated.partial_on}" if correlated.partial_on else "partial"
    titles = {"coefficient": method, "low": f"{method}_low", "high": f"{method}_high", "partial": partial}
    tables = {f"Effective robustness, {correlated.definition}": correlated.lines} if correlated.lines else {}
    clauses = pl.col("note").str.split("; ")
    notes = rows.select(text=clauses).explode("text").drop_nulls().unique(maintain_order=True).with_row_index("note", 1)
    numbers = pl.element().replace_strict(notes["text"], notes["note"]).sort().cast(pl.String)
    rows = rows.with_columns(notes=clauses.list.eval(numbers).list.join(", "))
    for (subset,), subset_rows in rows.group_by("subset", maintain_order=True):
        title = f"{SUBSET_TITLES[subset]} models (n = {', '.join(map(str, model_counts(subset_rows)))})"
        tables[title] = subset_rows.select(CORRELATION_COLUMNS).rename(titles).to_dicts()
    if len(notes):
        tables["Notes"] = notes.to_dicts()
    tests = rows.drop_nulls("p")
    detectable = tests.filter(~HOLDS)["detectable"].drop_nulls()
    sizes = dict.fromkeys(f"{end(detectable):.2f}" for end in (min, max)) if len(detectable) else ()
    counts = {name: (tests[name] < ALPHA).sum() for name in ("p", "p_permutation", "p_bh")}
    outcome = {"holds": tests.select(HOLDS.sum()).item(), "detectable": " to ".join(sizes) or None}
    tables[f"Tests below {ALPHA}, of {len(rows)} correlations"] = [{"tested": len(tests)} | counts | outcome]
    print_tables(tables, table_format)


MOST_CELLS = 3
"""The number of cells of one run alone that are listed."""
MOST_DIFFERENCES = 5
"""The number of cells, of metrics and of metrics of conditions that are listed, the strongest differences first."""
TABLES = {
    "cells": ("cell", "cells"),
    "metrics": ("metric", "metrics"),
    "conditions": ("metric of conditions", "metrics of conditions"),
}
"""Table of a comparison -> what one of its rows is called, and what several are."""
STAR = "*: p below 0.05 after Holm, of {measure} alone"
"""The meaning of the column `*`."""


def print_comparison(comparison: Comparison, table_format: TableFormat = Format.table) -> None:
    """Examples: bandlens compare study@1 study@2 --db results.duckdb, bandlens compare study --checkpoints
    resnet50.a1_in1k,resnet50.a2_in1k
    """
    if table_format.is_for_programs:
        print_document(comparison, table_format)
        return
    note = partial(print_note, table_format=table_format)
    note(f"A: {comparison.a}\nB: {comparison.b}")
    _print_counts(comparison, note)
    beyond_chance = comparison.beyond_chance()
    excerpt = beyond_chance.strongest(MOST_DIFFERENCES)
    if rows := _difference_rows(excerpt):
        if table_format == Format.table:
            print()
        print_rows(rows, table_format, titles=TITLES)
        note(f"\n{STAR.format(measure=comparison.measure)}")
    for words, whole, part, advice in (
        ("weaker differences", beyond_chance, excerpt, "lists them, with p, states, and what the two differ in"),
        ("no difference found", comparison.compared(), beyond_chance, "says what could have been (detectable)"),
    ):
        counts = {name: len(getattr(whole, name)) - len(getattr(part, name)) for name in TABLES}
        if any(counts.values()):
            in_words = ", ".join(f"{count:,} {TABLES[name][count > 1]}" for name, count in counts.items() if count)
            note(f"{words}: {in_words}; --format csv {advice}")
    note("\n".join(["", *comparison.verdict.sentences]))


def _difference_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Rows of one table of accuracies by condition and of metrics, to three digits."""
    import polars as pl

    from ....analysis.comparison.cell_pairs import DIFFERS
    from ....analysis.comparison.verdict import difference_in_words, value_in_words

    cells = comparison.cells.rename({"top1_a": "value_a", "top1_b": "value_b"})
    rows = pl.concat([cells, comparison.metrics, comparison.conditions], how="diagonal_relaxed").with_columns(
        pl.col("value_a", "value_b").round(3), **{"*": pl.when(DIFFERS).then(pl.lit("*"))}
    )
    return [
        {name: row[name] for name in TITLES[1:]}
        | {"name": f"{row['metric'] or ''} {condition_in_words(row)}".strip()}
        | {side.upper(): value_in_words(row[f"value_{side}"], row[f"state_{side}"]) for side in "ab"}
        | {"difference": None if row["difference"] is None else difference_in_words(row | {"metric": ""})}
        | {"n": row["n"], "*": row["*"]}
        for row in rows.to_dicts()
    ]


def _print_counts(comparison: Comparison, note: Callable[[str], None]) -> None:
    """Say how many cells both runs have, how many of them differ or cannot be compared, and which one run alone has."""
    from ....analysis.comparison.cell_pairs import DIFFERS

    count_differing = len(comparison.cells.filter(DIFFERS))
    shared = comparison.same + len(comparison.cells)
    verb = "differs" if count_differing == 1 else "differ"
    cell_counts = [f"{count_differing} {verb} in {comparison.measure} (p < 0.05 after Holm)"]
    if comparison.same:
        cell_counts.insert(0, f"{comparison.same} {'is' if comparison.same == 1 else 'are'} one and the same")
    note(f"Both have {plural(shared, 'cell')}: {', '.join(cell_counts)}")
    for reason, count in comparison.cells["note"].drop_nulls().value_counts().sort("note").rows():
        note(f"{count} of them {'is' if count == 1 else 'are'} not compared: {reason}")
    for side, cells in (("A", comparison.only_a), ("B", comparison.only_b)):
        if len(cells):
            count = f"{len(cells)} {'cell is' if len(cells) == 1 else 'cells are'}"
            names = [f"{row['checkpoint']} {row['image_set']} {condition_in_words(row)}" for row in cells.to_dicts()]
            note(f"{count} in {side} only: {some_of(names, MOST_CELLS, '; ')}")


COMMANDS: dict[str, Any] = {
    "measures": {
        "list": command(results.list_measures, print_table, "Example: bandlens measures list --study study.toml")
    },
    "analyze": command(results.analyze, print_metrics),
    "consistency": command(results.consistency, print_consistency),
    "report": command(results.report, print_written),
    "explore": command(
        results.explore, example="Example: bandlens explore --db results.duckdb --images sets", tell=print_address
    ),
    "correlate": command(results.correlate, print_correlated),
    "compare": command(results.compare, print_comparison),
}
