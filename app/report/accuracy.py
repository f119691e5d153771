"""Sections of the accuracies that this study measured: without perturbation, and over the axes of its probes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import polars as pl

from ...analysis.charts.curves import as_errors, mark_half_cuts, probe_panels
from ...analysis.charts.grammar import colors, series_of, words
from ...analysis.charts.numbers import add_estimators, number_panels
from ...analysis.measures.registry import GRID_MEASURES
from ...core.protocol import CUES, GROUPS
from .data import ReportData
from .sections import METRIC_COLUMNS, Figure, Section, Table

CAPTION = (
    "Bands are 95 % intervals (Wilson; images of one cluster count as one); of many models, only of the one that is "
    "picked from the list. Dashed: without perturbation."
)
CHANCE_CAPTION = "Dotted across: chance, the accuracy of a blind guess."
HALF_CAPTION = (
    "Rings: the cut at which half of the {measure} is left, with its 95 % interval over images (the bar); "
    "a ring is missing where no tested cut leaves more or none leaves less."
)
CUES_CAPTION = (
    "Images of this set have two cues, such as a shape and a texture: accuracy is the share that is named by the first."
)
AGREEMENT = (
    "Images without labels: what is drawn is agreement of each model with its own prediction for the unperturbed "
    "image, which is 1 without perturbation."
)
GROUPS_CAPTION = (
    "Percent, the mean over the benchmarks of a group, with 95 % intervals over photographs. Hollow: to be read with "
    "its note (hover, or the table), such as that a benchmark is not whole. ×: a benchmark is missing, and so the mean."
)
TOP5 = "Top-5 has no number among five classes or fewer: the five highest logits hold every label."
COLUMNS = ("checkpoint", "category", "top1", "low", "high", "top5", "ratio", "n")


def slug(text: str) -> str:
    """The text as a file name and anchor: lower-case letters, digits and hyphens alone."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


def perturbed_sets(curve: pl.DataFrame) -> Iterator[tuple[int, str, pl.DataFrame]]:
    """(number from 1, name, rows under perturbations by place) of each image set that was run with one."""
    perturbed = curve.filter(pl.col("probe") != "clean")
    for number, name in enumerate(perturbed["image_set"].unique().sort(), 1):
        yield number, name, perturbed.filter(pl.col("image_set") == name, pl.col("top1").is_not_null()).sort("place")


def in_bands() -> pl.Expr:
    """An expression that is true for probes that act on bands of frequencies; a section of their own draws these."""
    return (pl.col("cycles").is_not_null() & ~pl.col("cuts")).any().over("probe")


MOST_SETTINGS = 40
"""Settings that a chart has room for side by side, where their probe has no axis."""


def crowded() -> pl.Expr:
    """An expression that is true for probes of more settings than a chart has room for: their measures have charts."""
    return pl.col("x").is_null().all().over("probe") & (pl.col("setting").n_unique().over("probe") > MOST_SETTINGS)


def key(rows: pl.DataFrame) -> dict[str, Any]:
    """Arguments of a figure with which a reader picks: a legend where there are several models, and a list of these."""
    models = rows["checkpoint"].unique().sort().to_list()
    if len(models) < 2:
        return {}
    field = series_of(rows)
    legend = colors(models if field == "model" else rows["category"].unique().sort())
    return {"legend": legend, "models": () if field == "model" else models}


def accuracy_section(results: ReportData) -> Section:
    """Accuracy without perturbation, where there are labels."""
    clean = results.curve.filter(pl.col("probe") == "clean", pl.col("measure") == "accuracy")
    clean = clean.filter(~pl.col("image_set").is_in(_conflicting(results)))
    table = clean.select("image_set", "checkpoint", "category", "top1", "low", "high", "top5", "n")
    shown = Table("Top-1 with its 95 % interval, and top-5", table.sort("image_set", "checkpoint"))
    figures, tables = list(_groups(results)), [shown] if len(table) else []
    few = clean.filter(pl.col("chance") >= 1 / 5)
    text = [*(results.choice if figures else []), *([TOP5] if len(few) else [])]
    return Section("accuracy", "Accuracy without perturbation", text, figures, tables=tables)


def _groups(results: ReportData) -> Iterator[Figure]:
    """The group means of generalization, with the benchmarks in the table."""
    measured = add_estimators(results.metrics.filter(pl.col("image_set").is_null()))
    seen = results.seen(measured)
    panels = number_panels(seen, {group: words(group) for group in GROUPS}, series_of(seen))
    if len(measured):
        table = measured.select(METRIC_COLUMNS)
        yield Figure("generalization", "Generalization", GROUPS_CAPTION, panels, 3, table, **key(seen))


def _conflicting(results: ReportData) -> list[str]:
    """Image sets whose images have two cues, of which accuracy takes one."""
    return results.metrics.filter(pl.col("metric").is_in([cues.bias for cues in CUES]))["image_set"].to_list()


def filter_figures(results: ReportData, which: slice) -> list[Figure]:
    """The filters on some of the image sets that have them, with their half cuts; the first belongs to the verdict.

    Sets of conflicting cues come last, since the verdict says nothing about filters on them.
    """
    conflicting = _conflicting(results)
    numbered = sorted(perturbed_sets(results.curve), key=lambda entry: entry[1] in conflicting)
    sets = [(number, name, rows.filter("cuts")) for number, name, rows in numbered]
    return [
        _figure(results, filters, f"filters-{number}", f"Filters on {name}")
        for number, name, filters in [entry for entry in sets if len(entry[-1])][which]
    ]


def curves_section(results: ReportData) -> Section:
    """Filters on the other image sets, and a figure for each other probe that does not act on bands."""
    figures = filter_figures(results, slice(1, None))
    for number, name, rows in perturbed_sets(results.curve):
        charted = rows.filter(~in_bands(), ~pl.col("cuts"), ~crowded())
        for (probe,), part in charted.group_by("probe", maintain_order=True):
            figures.append(_figure(results, part, f"{slug(str(probe))}-{number}", f"{words(str(probe))} on {name}"))
    return Section("curves", "Accuracy over frequency", results.choice if figures else [], figures)


def _figure(results: ReportData, rows: pl.DataFrame, name: str, title: str) -> Figure:
    """The panels of some probes."""
    seen = as_errors(results.seen(rows))
    cuts = results.metrics.filter(pl.col("image_set").is_in(rows["image_set"].unique().to_list()))
    marked = {
        measure.shown.cut_of: cuts.filter(metric=measure.name)
        for measure in GRID_MEASURES
        if measure.shown.cut_of and measure.name in cuts["metric"]
    }
    panels = {
        panel: mark_half_cuts(chart, marked[probe], part) if probe in marked else chart
        for (probe,), part in seen.group_by("probe", maintain_order=True)
        for panel, chart in probe_panels(part, str(probe)).items()
    }
    labelled = rows["measure"][0] == "accuracy"
    captions = {
        HALF_CAPTION.format(measure="accuracy above chance" if labelled else "agreement"): {*marked} & {*seen["probe"]},
        CAPTION: True,
        CHANCE_CAPTION: labelled,
        CUES_CAPTION: rows["image_set"][0] in _conflicting(results),
    }
    caption = " ".join(text for text, applies in captions.items() if applies)
    table = rows.sort("checkpoint", "place").select("probe", "setting", "cycles", *COLUMNS)
    return Figure(name, title, caption, panels, 2, table, **key(seen))
