"""Sections of the accuracies that this study measured: without perturbation, and over the axes of its probes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import polars as pl

from ...analysis.charts.curves import as_errors, probe_panels
from ...analysis.charts.metrics import add_estimators, number_chart
from ...analysis.charts.palette import colors, series_of
from ...analysis.charts.style import plural, words
from ...protocol import CUES, GROUPS
from .data import ReportData
from .sections import Figure, Section, Table

CAPTION = (
    "Bands are 95 % intervals (Wilson; images of one cluster count as one); of many models, only of the one that is "
    "picked from the list. Dashed: without perturbation. Dotted: chance, the accuracy of a blind guess."
)
AGREEMENT = (
    "The images have no labels. What follows is agreement of each model with its own prediction for the unperturbed "
    "image, which is 1 without perturbation."
)
GROUPS_CAPTION = (
    "Percent, the mean over the benchmarks of a group, with 95 % intervals over photographs. Hollow: to be read with "
    "its note (hover, or the table), such as that a benchmark is not whole. ×: a benchmark is missing, and so the mean."
)
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
    title = "Accuracy without perturbation"
    if results.curve.is_empty():
        cells = plural(len(results.cells), "cell")
        return Section(
            "accuracy", title, [f"None of {cells} is complete yet; `bandlens run` goes on where it stopped."]
        )
    clean = results.curve.filter(pl.col("probe") == "clean", pl.col("measure") == "accuracy")
    if clean.is_empty():
        return Section("accuracy", title, [AGREEMENT])
    conflicting = results.metrics.filter(pl.col("metric").is_in([cues.bias for cues in CUES]))["image_set"]
    table = clean.filter(~pl.col("image_set").is_in(conflicting.to_list())).select(
        "image_set", "checkpoint", "category", "top1", "low", "high", "top5", "n"
    )
    shown = Table("Top-1 with its 95 % interval, and top-5", table.sort("image_set", "checkpoint"))
    figures = list(_groups(results))
    return Section("accuracy", title, results.choice if figures else [], figures, tables=[shown])


def _groups(results: ReportData) -> Iterator[Figure]:
    """The group means of generalization, with the benchmarks in the table."""
    measured = add_estimators(results.metrics.filter(pl.col("image_set").is_null()))
    seen = results.seen(measured)
    panels = {
        group: number_chart(seen, group, group.replace("_", " "), series_of(seen))
        for group in GROUPS
        if group in set(seen["metric"])
    }
    if panels:
        table = measured.select("checkpoint", "category", "metric", "value", "low", "high", "state", "note")
        yield Figure("generalization", "Generalization", GROUPS_CAPTION, panels, 3, table, **key(seen))


def curves_section(results: ReportData) -> Section:
    """Filters together, and a figure for each other probe that does not act on bands."""
    figures: list[Figure] = []
    for number, name, rows in perturbed_sets(results.curve):
        filters = rows.filter("cuts")
        if len(filters):
            figures.append(_figure(results, filters, f"curves-{number}", f"Filters on {name}"))
        for (probe,), part in rows.filter(~in_bands(), ~pl.col("cuts")).group_by("probe", maintain_order=True):
            figures.append(_figure(results, part, f"{slug(str(probe))}-{number}", f"{words(str(probe))} on {name}"))
    text = results.choice if figures else ["No complete cell under a filter, or a probe of your own, yet."]
    return Section("curves", "Accuracy over frequency", text, figures)


def _figure(results: ReportData, rows: pl.DataFrame, name: str, title: str) -> Figure:
    """The panels of some probes."""
    seen = as_errors(results.seen(rows))
    panels = {
        panel: chart
        for (probe,), part in seen.group_by("probe", maintain_order=True)
        for panel, chart in probe_panels(part, str(probe)).items()
    }
    table = rows.sort("checkpoint", "place").select("probe", "setting", "cycles", *COLUMNS)
    return Figure(name, title, CAPTION, panels, 2, table, **key(seen))
