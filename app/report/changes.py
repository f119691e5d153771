"""The section of changes: top-1 of two studies, condition by condition, and the verdict of `bandlens compare`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import polars as pl

from ...analysis.charts.grammar import words
from ...analysis.charts.maps import difference_map
from ...analysis.comparison.cells import DIFFERS, Compared, Run, compare_cells
from ...analysis.comparison.measures import compare_measures
from ...analysis.comparison.verdict import Verdict, compare_verdict
from ...analysis.database.conditions import with_facts
from ...analysis.database.open import names_database, open_store, relative_path
from ...analysis.database.studies import earlier_label
from ...core.errors import plural
from .data import ReportData
from .sections import Figure, Section

HALF_PAGE_MODELS = 5
"""Models that leave room for their numbers on half of a page."""
CAPTION = (
    "Percentage points of top-1, this study minus the other, over the same images; orange fell, purple rose. Bold with "
    "a star: p < 0.05 (McNemar) after Holm's correction over all cells. Hover, or open the table, for the 95 % "
    "interval of the difference."
)


def changes_section(results: ReportData, against: str) -> tuple[Verdict, Section]:
    """Give the verdict on the study `against` and this one, and draw their differences.

    The section has a figure for each image set, and that a panel for each probe.

    Args:
        against: another results database, of which the study of the same name is taken, or else the one that ran last;
            or the name, or name@version, of a study of this database.

    Raises UsageError where there is nothing to compare with.
    """
    file, is_database = Path(against), names_database(against)
    with ExitStack() as stack:
        store = stack.enter_context(open_store(results.path, read_only=True))
        store_a = stack.enter_context(open_store(file, read_only=True)) if is_database else store
        label = earlier_label(store_a, against, str(results.study["name"]))
        runs = Run(store_a, label), Run(store, results.label)
        comparison = compare_cells(*runs)
        verdict = compare_verdict(*runs, comparison.cells, compare_measures(*runs)[0])
    title = f"What changed against {label}" + (f" of {relative_path(file, results.path)}" if is_database else "")
    rows = changes(comparison, results)
    figures = [
        _figure(results, rows.filter(pl.col("image_set") == name), name, number)
        for number, name in enumerate(rows["image_set"].unique().sort(), 1)
    ]
    return verdict, results.section("changes", title, figures, [_changes_in_words(comparison, rows)])


def changes(comparison: Compared, results: ReportData) -> pl.DataFrame:
    """The cells that can be compared, in the order of a figure, with `condition` in words and `differs`.

    before, after, difference and the ends low and high of its 95 % interval are in percentage points.
    """
    keys = ["image_set", "probe", "parameters"]
    cells = comparison.cells.filter(pl.col("difference").is_not_null()).join(
        results.curve.select(*keys, "cycles").unique(), on=keys, how="left", maintain_order="left"
    )
    rows = with_facts(cells, results.conditions)
    return rows.sort("image_set", "place", "checkpoint").select(
        "checkpoint",
        "image_set",
        "probe",
        pl.col("setting").replace("", "no parameters").alias("condition"),
        "n",
        before=100 * pl.col("top1_a"),
        after=100 * pl.col("top1_b"),
        difference=100 * pl.col("difference"),
        low=100 * pl.col("low"),
        high=100 * pl.col("high"),
        lost="lost",
        gained="gained",
        p_holm="p_holm",
        differs=DIFFERS,
    )


def _changes_in_words(comparison: Compared, rows: pl.DataFrame) -> str:
    """How many cells there are to compare, and how many differ; the verdict has the largest difference."""
    different = len(rows.filter("differs"))
    return (
        f"{plural(comparison.same, 'cell')} of one and the same predictions, {plural(len(rows), 'other')} to compare; "
        f"{len(comparison.only_b):,} only in this study, {len(comparison.only_a):,} only in the other. "
        f"{different:,} differ{'s' if different == 1 else ''} in accuracy (p < 0.05 after Holm's correction)."
    )


def _figure(results: ReportData, rows: pl.DataFrame, image_set: str, number: int) -> Figure:
    reach = max(1.0, *rows["difference"].abs())
    panels = {
        probe: difference_map(part.rename({"checkpoint": "model"}).drop("image_set", "probe"), words(probe), reach)
        for (probe,), part in results.select_choice(rows).group_by("probe", maintain_order=True)
    }
    table, columns = rows.drop("image_set", "differs"), 2 if len(results.choice) <= HALF_PAGE_MODELS else 1
    return Figure(f"changes-{number}", f"Top-1 on {image_set}", CAPTION, panels, columns, table)
