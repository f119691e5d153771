"""What this study measured: accuracy, curves over cutoffs, and the user's own probes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import polars as pl

from ...analysis.charts.curves import FEW, bin_map, curves, series_of, wave_map
from ...analysis.charts.metrics import numbers, summary
from ...analysis.charts.palette import colors
from ...analysis.charts.style import plural, words
from ...protocol import GROUPS
from .data import ReportData
from .sections import Figure, Section, Table

SPECTRAL = {
    "lowpass": "low-pass: frequencies below the cut stay",
    "highpass": "high-pass: frequencies below the cut are removed",
}
MAPS = {"fourier": wave_map, "fourier_bin": bin_map}
"""Probes that are drawn as maps of errors, one for each model and norm, the first few."""
BUILT_IN = ("clean", "critical_band", *SPECTRAL)
CUT = "cut (cycles per image)"
CAPTION = (
    "Bands are 95 % intervals (Wilson; images of one cluster count as one); of many models, only of the one that is "
    "picked from the list. Dashed: without perturbation."
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
    """(number from 1, name, rows) of each image set that was run with a perturbation."""
    names = curve.filter(pl.col("probe") != "clean")["image_set"].unique(maintain_order=True).sort()
    for number, name in enumerate(names, 1):
        yield number, name, curve.filter(pl.col("image_set") == name, pl.col("top1").is_not_null())


def key(rows: pl.DataFrame) -> dict[str, Any]:
    """What can be picked in a figure of these rows: a legend if there is more than one model, and a list of models."""
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
    table = clean.select("image_set", "checkpoint", "category", "top1", "low", "high", "top5", "n")
    shown = Table("Top-1 with its 95 % interval, and top-5", table.sort("image_set", "checkpoint"))
    figures = list(_groups(results))
    return Section("accuracy", title, results.choice if figures else [], figures, tables=[shown])


def _groups(results: ReportData) -> Iterator[Figure]:
    """The group means of generalization, with the benchmarks in the table."""
    measured = summary(results.metrics.filter(pl.col("image_set").is_null()))
    seen = results.seen(measured)
    panels = {
        group: numbers(seen, group, group.replace("_", " "), series_of(seen))
        for group in GROUPS
        if group in set(seen["metric"])
    }
    if panels:
        table = measured.select("checkpoint", "category", "metric", "value", "low", "high", "state", "note")
        yield Figure("generalization", "Generalization", GROUPS_CAPTION, panels, 3, table, **key(seen))


def curves_section(results: ReportData) -> Section:
    """Low-pass and high-pass curves, and one chart for each probe of the user's."""
    figures: list[Figure] = []
    for number, name, rows in perturbed_sets(results.curve):
        figures += _spectral(results, rows, name, number)
        figures += _own_probes(results, rows, name, number)
    text = (
        results.choice
        if figures
        else ["No complete cell under a low-pass or high-pass filter, or a probe of your own, yet."]
    )
    return Section("curves", "Accuracy over frequency", text, figures)


def _spectral(results: ReportData, rows: pl.DataFrame, image_set: str, number: int) -> Iterator[Figure]:
    mine = rows.filter(pl.col("probe").is_in(list(SPECTRAL)), pl.col("cutoff").is_not_null())
    if len(mine):
        seen = results.seen(mine)
        panels = {
            probe: curves(part, "cycles", CUT, title)
            for probe, title in SPECTRAL.items()
            if len(part := seen.filter(pl.col("probe") == probe))
        }
        table = mine.select("probe", "cutoff", "cycles", *COLUMNS).sort("checkpoint", "probe", "cutoff")
        yield Figure(
            f"curves-{number}", f"Low-pass and high-pass on {image_set}", CAPTION, panels, 2, table, **key(seen)
        )


def _own_probes(results: ReportData, rows: pl.DataFrame, image_set: str, number: int) -> Iterator[Figure]:
    for probe in rows.filter(~pl.col("probe").is_in(BUILT_IN))["probe"].unique(maintain_order=True).sort():
        mine = rows.filter(pl.col("probe") == probe)
        name, settings = settings_of(mine["parameters"].to_list())
        mine = mine.with_columns(pl.Series("setting", settings))
        seen = results.seen(mine)
        if probe in MAPS:
            maps = seen.with_columns(norm=pl.col("parameters").str.json_path_match("$.norm"))
            grouped = list(maps.group_by("checkpoint", "norm", maintain_order=True))[:FEW]
            named = {f"{model}, norm {norm}": one for (model, norm), one in grouped}
            panels = {title: MAPS[probe](one, title) for title, one in named.items()}
        else:
            panels = {probe: curves(seen, "setting", name, words(probe))} if len(seen) else {}
        table = mine.select("setting", *COLUMNS).sort("checkpoint", "setting")
        yield Figure(
            f"{slug(probe)}-{number}", f"{words(probe)} on {image_set}", CAPTION, panels, 2, table, **key(seen)
        )


def settings_of(parameters: list[str]) -> tuple[str, list[float] | list[str]]:
    """(axis title, values): the number, where a probe has one parameter and it is one; else all as text."""
    parsed = [json.loads(text) for text in parameters]
    (name, *more) = sorted({name for one in parsed for name in one}) or ["setting"]
    if not more and all(isinstance(one.get(name), int | float) for one in parsed):
        return name, [float(one[name]) for one in parsed]
    return "setting", [", ".join(f"{key} {value}" for key, value in one.items()) for one in parsed]
