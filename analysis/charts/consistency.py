"""Charts of models and people on the same images: how consistent their errors are, and accuracy by condition."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from .palette import colors
from .style import INK, MOST_ASLANT, below, inline, layered, tile_font, where

SIDE = 16
"""Pixels of a tile."""
PEOPLE = "humans"


def kappa_map(rows: pl.DataFrame, title: str) -> Any:
    """A tile for every two subjects: first, second, kappa, low, high, most, n of each; who has no kappa has no tile."""
    defined = rows.drop_nulls("kappa")
    order = list(dict.fromkeys([*rows["first"], *rows["second"]]))
    scale = alt.Scale(scheme="viridis", domain=[0, 1], clamp=True)
    base = alt.Chart(inline(defined)).encode(
        x=alt.X("first:N", sort=order, title=None, axis=below(len(order))),
        y=alt.Y("second:N", sort=order, title=None),
        tooltip=[
            alt.Tooltip("first:N"),
            alt.Tooltip("second:N"),
            alt.Tooltip("kappa:Q", format=".3f"),
            alt.Tooltip("low:Q", title="95 % from", format=".3f"),
            alt.Tooltip("high:Q", title="to", format=".3f"),
            alt.Tooltip("most:Q", title="the most that they allow", format=".3f"),
            alt.Tooltip("n:Q", title="images"),
        ],
    )
    legend = alt.Legend(orient="bottom", gradientLength=200)
    chart = base.mark_rect(stroke="white").encode(color=alt.Color("kappa:Q", scale=scale, legend=legend))
    if len(order) <= MOST_ASLANT:
        font = tile_font(11, defined["first"].n_unique(), len("-0.12"))
        ink = alt.ColorValue("white", condition=where("datum.kappa > 0.55", INK))
        chart += base.mark_text(fontSize=font).encode(text=alt.Text("kappa:Q", format=".2f"), color=ink)
    return chart.properties(title=title, width=320, height=SIDE * max(6, rows["second"].n_unique()))


def condition_curves(rows: pl.DataFrame, title: str) -> Any:
    """Accuracy by condition, a line a subject: subject, condition, top1, low, high, n; `humans` are black and thick."""
    number = pl.col("condition").str.extract(r"(\d+(?:\.\d+)?)").cast(pl.Float64)
    order = rows.select("condition").unique().sort(number, "condition", nulls_last=True)["condition"].to_list()
    models = rows.filter(pl.col("subject") != PEOPLE)["subject"].unique().sort().to_list()
    hues = {name: color for name, (color, _) in colors(models).items()} | {PEOPLE: INK}
    subjects = [name for name in (PEOPLE, *models) if name in rows["subject"]]
    base = alt.Chart(inline(rows)).encode(
        x=alt.X("condition:N", sort=order, title="condition", axis=alt.Axis(labelAngle=0)),
        color=alt.Color(
            "subject:N", scale=alt.Scale(domain=subjects, range=[hues[name] for name in subjects]), title=None
        ),
        tooltip=[
            alt.Tooltip("subject:N"),
            alt.Tooltip("condition:N"),
            alt.Tooltip("top1:Q", title="accuracy", format=".3f"),
            alt.Tooltip("low:Q", title="from", format=".3f"),
            alt.Tooltip("high:Q", title="to", format=".3f"),
            alt.Tooltip("n:Q", title="images"),
        ],
    )
    y = alt.Y("top1:Q", title="accuracy", scale=alt.Scale(domain=[0, 1]))
    ends = base.mark_rule(opacity=0.4).encode(y=alt.Y("low:Q", title="accuracy"), y2=alt.Y2("high:Q"))
    lines = base.mark_line(point=True).encode(
        y=y, strokeWidth=alt.StrokeWidthValue(1.5, condition=where(f"datum.subject == '{PEOPLE}'", 3))
    )
    return layered(ends, lines, title=title, width=320, height=190)
