"""What changed: top-1 of two studies, condition by condition."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl

from ...analysis.charts.curves import differences
from ...analysis.charts.style import plural, words
from ...errors import UnknownName, UsageError
from .data import ReportData, read_data
from .sections import Figure, Section

KEYS = ("checkpoint", "image_set", "probe", "parameters", "measure")
ORDER = {"clean": 0, "lowpass": 1, "highpass": 2, "critical_band": 3}
CAPTION = (
    "Percentage points of top-1, this study minus the other; orange fell, purple rose. The table has both "
    "accuracies with their 95 % intervals."
)


def read_other(against: str, results: ReportData) -> ReportData:
    """The study to compare with: of another database, or name@version of the same one."""
    path = Path(against)
    if path.suffix == ".duckdb" or path.exists():
        try:
            other = read_data(path, results.study["name"])
        except UnknownName:
            other = read_data(path)
    else:
        other = read_data(results.path, against)
    if other is None:
        raise UsageError(f"{against} holds no study to compare with; run one, or name another with --against")
    return other


def changes_section(results: ReportData, other: ReportData) -> Section:
    """One figure an image set: a panel for each probe."""
    title = f"What changed against {other.label}" + ("" if other.path == results.path else f" of {other.path.name}")
    both = compared(other.curve, results.curve)
    counts = (
        f"{plural(len(both), 'cell')} to compare; "
        f"{_only(results, other):,} only in this study, {_only(other, results):,} only in the other"
    )
    if both.is_empty():
        return Section("changes", title, [f"{counts}."])
    farthest = both.sort(pl.col("difference").abs(), descending=True).row(0, named=True)
    moved = int((both["difference"] != 0).sum())
    points = f"{farthest['difference']:+.1f}".replace("-", "−")
    text = f"{counts}. {moved:,} moved" + (
        f", the farthest by {points} points: {farthest['checkpoint']} on {farthest['image_set']}, "
        f"{words(farthest['probe'])}, {farthest['condition']}."
        if moved
        else "."
    )
    return Section("changes", title, [text], [_figure(rows, name, number) for number, name, rows in _sets(both)])


def compared(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """Rows of two `curve` frames that are in both: KEYS, condition, before, after, their intervals, and difference."""
    first = before.select(*KEYS, before="top1", before_low="low", before_high="high")
    second = after.select(*KEYS, "frequency", "noise_sd", "cutoff", after="top1", after_low="low", after_high="high")
    joined = second.join(first, on=KEYS, how="inner", maintain_order="left")
    labels = [condition_label(text) for text in joined["parameters"]]
    return (
        joined.with_columns(
            pl.Series("condition", labels, dtype=pl.String), difference=100 * (pl.col("after") - pl.col("before"))
        )
        .filter(pl.col("difference").is_not_null())
        .sort(
            "image_set",
            pl.col("probe").replace_strict(ORDER, default=len(ORDER)),
            "probe",
            "cutoff",
            "frequency",
            "noise_sd",
            "parameters",
            "checkpoint",
        )
    )


def condition_label(parameters: str) -> str:
    """Such as `noise_sd 0.08, frequency 3`."""
    shown = [f"{name} {value}" for name, value in json.loads(parameters).items() if name != "draw"]
    return ", ".join(shown) or "no perturbation"


def _sets(both: pl.DataFrame) -> list[tuple[int, str, pl.DataFrame]]:
    return [
        (i, name, both.filter(pl.col("image_set") == name))
        for i, name in enumerate(both["image_set"].unique().sort(), 1)
    ]


def _figure(rows: pl.DataFrame, image_set: str, number: int) -> Figure:
    reach = max(1.0, *rows["difference"].abs())
    panels = [
        differences(part.select("condition", "before", "after", "difference", model="checkpoint"), words(probe), reach)
        for (probe,), part in rows.group_by("probe", maintain_order=True)
    ]
    table = rows.select(
        "checkpoint",
        "probe",
        "condition",
        "before",
        "before_low",
        "before_high",
        "after",
        "after_low",
        "after_high",
        "difference",
    )
    return Figure(f"changes-{number}", f"Top-1 on {image_set}", CAPTION, panels, 2, table)


def _only(a: ReportData, b: ReportData) -> int:
    return len(a.curve.join(b.curve, on=KEYS, how="anti"))
