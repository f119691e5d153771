"""Octave shares: what each octave adds to the accuracy of a model, and which octaves need each other."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from ...analysis.charts.maps import pair_map
from ...analysis.charts.numbers import octave_bars
from ...analysis.measures.base import MEANINGLESS
from ...analysis.measures.octaves import PAIRS, SHARES
from .data import ReportData
from .sections import METRIC_COLUMNS, Figure, Section

FEW = 6
"""Models whose matrices are drawn at once; those of more are drawn when a reader opens them."""
SHARES_CAPTION = (
    "Each bar adds up to the {measure} of a model, the line: what it is on flat images, which have no octave but their "
    "mean, and what each octave adds, the mean over all orders in which octaves can be added. Thin bars lead back: "
    "octaves that cost {measure}. Hover, or see the table, for 95 % intervals."
)
PAIRS_CAPTION = (
    "Interaction of two octaves: purple, above 0, where they need each other; orange, below 0, where either does what "
    "the other does. Pale: the 95 % interval holds 0."
)
AT_CHANCE = "Models that are right no more often than blind guesses are in the table alone."


def octaves_section(results: ReportData) -> Section:
    """Yield the figures of each image set that was run under all masks of octaves."""
    figures = list(_figures(results))
    return Section("octave-shares", "Octaves that add up", results.choice if figures else [], figures)


def _figures(results: ReportData) -> Iterator[Figure]:
    shares = results.metrics.filter(pl.col("metric").is_in([*SHARES, *PAIRS]), pl.col("value").is_not_null())
    sizes = dict(results.image_sets.select("name", "size").rows())
    for number, name in enumerate(shares["image_set"].unique().sort(), 1):
        rows = shares.filter(image_set=name)
        clean = results.curve.filter(probe="clean", image_set=name).select("checkpoint", "top1", "measure")
        sound, measure = rows.filter(~pl.col("state").is_in(MEANINGLESS)), str(clean["measure"][0])
        seen = results.seen(sound)
        bars = {"shares": octave_bars(seen, clean, f"{measure} owed to octaves", sizes[name])} if len(seen) else {}
        tables = [rows.filter(pl.col("metric").is_in(names)).select(METRIC_COLUMNS) for names in (SHARES, PAIRS)]
        caption = SHARES_CAPTION.format(measure=measure) + (f" {AT_CHANCE}" if len(sound) < len(rows) else "")
        yield Figure(f"octaves-{number}", f"Octave shares on {name}", caption, bars, 1, tables[0])
        pairs = seen.filter(pl.col("metric").is_in(PAIRS))
        reach = float(pairs.select(pl.col("value").abs().max().fill_null(0)).item())
        matrices = {
            str(model): pair_map(of_model, str(model), sizes[name], reach)
            for (model,), of_model in pairs.group_by("checkpoint", maintain_order=True)
        }
        title = f"Pairs of octaves on {name}"
        yield Figure(f"octave-pairs-{number}", title, PAIRS_CAPTION, matrices, 3, tables[1], folded=len(matrices) > FEW)
