"""The section of curves of every other measure: shape bias, calibration and the like under every condition."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from ...analysis.charts.curves import probe_panels
from ...analysis.measures.base import MEANINGLESS
from ...analysis.measures.registry import MEASURES, title_of
from ...analysis.measures.slices import LOSS
from .accuracy import crowded, key, slug
from .data import ReportData
from .sections import Figure, Section, Table

PRIMARY = [name for name, measure in MEASURES.items() if measure.shown.primary]
"""Measures that have the section of curves for themselves."""
CAPTION = (
    "Bands are 95 % intervals over images; of many models, only of the one that is picked from the list. Dashed: "
    "without perturbation. The table has the difference from it, with an interval that is paired over the same images, "
    "and the numbers at chance, which are not drawn."
)
COLUMNS = (
    *("checkpoint", "probe", "setting", "cycles", "n", "value", "low", "high"),
    *("difference", "difference_low", "difference_high", "state", "note"),
)


def conditions_section(results: ReportData) -> Section:
    """A figure for each metric and image set, a panel for each probe."""
    title = "Every measure under every condition"
    numbers = results.condition_metrics.filter(~pl.col("metric").is_in(PRIMARY), pl.col("value").is_not_null())
    # Parts of a measure, one a slice, can be many: a table has them, each where it is worst.
    is_part = ~pl.col("metric").is_in([*MEASURES, *results.own_titles]) & pl.col("image_set").is_not_null()
    perturbed = numbers.filter(pl.col("probe") != "clean", ~is_part)
    drawn = perturbed.filter(~crowded())
    names = drawn["image_set"].unique().sort(nulls_last=True)
    figures = [
        _figure(results, drawn.filter(pl.col("image_set").eq_missing(pl.lit(name)), metric=metric), name, number)
        for number, name in enumerate(names, 1)
        for metric in drawn.filter(pl.col("image_set").eq_missing(pl.lit(name)))["metric"].unique().sort()
    ]
    text = results.choice if figures else ["No complete cell with a perturbation yet."] * perturbed.is_empty()
    return Section("measures", title, text, figures, [*_slices(numbers.filter(is_part))])


def _slices(parts: pl.DataFrame) -> Iterator[Table]:
    """A row for each part of a measure, of the condition under which it is worst: accuracies lowest, losses highest."""
    if parts.is_empty():
        return
    value = pl.when(pl.col("metric").str.starts_with(LOSS)).then(-pl.col("value")).otherwise("value")
    worst = parts.sort(value, "place").unique(("image_set", "checkpoint", "metric"), keep="first")
    yield Table(
        "Accuracy by attribute or label of the images, under the worst condition of each",
        worst.sort("image_set", "checkpoint", "metric").select("image_set", "metric", *COLUMNS),
        folded=True,
    )


def _figure(results: ReportData, rows: pl.DataFrame, image_set: str | None, number: int) -> Figure:
    """`rows` are those of one metric on one image set; None for means over benchmarks."""
    metric, domain = rows["metric"][0], (0.0, 1.0)
    title, measure = results.own_titles.get(metric, title_of(metric)), MEASURES.get(metric)
    # Shares are drawn from 0 to 1, and other numbers as far as they reach.
    if measure is None or measure.shown.unit != "share":
        below, above = pl.min_horizontal("value", "low").min(), pl.max_horizontal("value", "high").max()
        lowest, highest = rows.select(below.alias("lowest"), above.alias("highest")).row(0)
        domain = min(0.0, lowest), highest
    seen = results.seen(rows.filter(~pl.col("state").is_in(MEANINGLESS))).with_columns(
        top1="value", clean_top1=pl.col("value") - pl.col("difference"), measure=pl.lit(title)
    )
    panels = {
        title: panel
        for (probe,), part in seen.sort("place").group_by("probe", maintain_order=True)
        for title, panel in probe_panels(part, str(probe), domain).items()
    }
    return Figure(
        f"measures-{number}-{slug(metric)}",
        f"{title} on {image_set or 'benchmarks'}",
        CAPTION,
        panels,
        2,
        rows.sort("checkpoint", "place").select(COLUMNS),
        **key(seen),
        folded=measure is not None and measure.shown.folded,
    )
