"""Biases against generalization: the table of correlations as a heat map, and the scatter plots behind it."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from ..measures.registry import label_of, title_of
from ..statistics.arrays import ALPHA
from .style import INK, faded, inline, layered, picked, scales, tile_font, where, words

COEFFICIENTS = {"spearman": "Spearman's rho", "pearson": "Pearson's r", "kendall": "Kendall's tau-b"}
"""The column `method` of `correlate` -> what its coefficient is called."""
ROW_HEIGHT = 30
ABOVE = alt.Axis(labelAngle=40, labelAlign="right", labelOverlap=False, orient="top", domain=False, ticks=False)
"""Names above columns, aslant towards the corner that the names of the rows leave empty: a narrow chart cuts others."""


def correlation_map(table: pl.DataFrame, title: str) -> Any:
    """Tiles of biases (down) by generalization groups (across), from rows of `correlate` of one subset.

    A star and bold type mark p_holm < 0.05; what has p >= 0.05 without any correction is pale.
    """
    base = alt.Chart(inline(_described_rows(table))).encode(
        x=alt.X("group:N", sort=None, title=None, axis=ABOVE),
        y=alt.Y("bias:N", sort=None, title=None, axis=alt.Axis(domain=False, ticks=False)),
        tooltip=[
            alt.Tooltip("bias:N"),
            alt.Tooltip("group:N"),
            alt.Tooltip("coefficient:Q", title=COEFFICIENTS[table["method"][0]], format=".3f"),
            alt.Tooltip("low:Q", title="95 % from", format=".2f"),
            alt.Tooltip("high:Q", title="to", format=".2f"),
            alt.Tooltip("p:Q", format=".2g"),
            alt.Tooltip("p_holm:Q", title="p, after Holm", format=".2g"),
            alt.Tooltip("n:Q", title="models"),
        ],
    )
    hue = alt.Scale(scheme="purpleorange", domain=[-1, 1], reverse=True)
    tiles = base.mark_rect(stroke="white", strokeWidth=2).encode(
        color=alt.Color("coefficient:Q", scale=hue, title="rho", legend=None),
        opacity=alt.OpacityValue(1, condition=where("datum.weak", 0.25)),
    )
    ink = alt.ColorValue(INK, condition=where("!datum.weak && abs(datum.coefficient) > 0.72", "white"))
    font = tile_font(12, table["group"].n_unique(), len("−0.76*"))
    strong = base.transform_filter("datum.strong").mark_text(fontSize=font, fontWeight="bold")
    plain = base.transform_filter("!datum.strong").mark_text(fontSize=font)
    marks = [mark.encode(text=alt.Text("text:N"), color=ink) for mark in (strong, plain)]
    height = ROW_HEIGHT * table["bias"].n_unique()
    return layered(tiles, *marks, title=title, height=height, width=300)


def _described_rows(table: pl.DataFrame) -> pl.DataFrame:
    numbers = table.select("coefficient", "low", "high", "p", "p_holm", "n")
    return numbers.with_columns(
        bias=pl.Series([title_of(name) for name in table["bias"]]),
        group=pl.Series([words(name) for name in table["group"]]),
        strong=(pl.col("p_holm") < ALPHA).fill_null(value=False),
        weak=(pl.col("p") >= ALPHA).fill_null(value=True),
        text=pl.Series([rho_text(*row) for row in table.select("coefficient", "p_holm").rows()]),
    )


def rho_text(rho: float | None, adjusted: float | None) -> str:
    """The text of a coefficient: two digits, a true minus sign, and a star where it holds after correction."""
    if rho is None:
        return "–"
    star = "*" if adjusted is not None and adjusted < ALPHA else ""
    return f"{rho:.2f}{star}".replace("-0.00", "0.00").replace("-", "−")


def scatter(figures: pl.DataFrame, bias: str, group: str, title: str) -> Any:
    """One point a model, `figures` with model, category and the two columns; the group is in percent."""
    points = scatter_points(figures, bias, group).add_params(picked())
    return points.properties(title=title, height=170, width=220)


def scatter_points(figures: pl.DataFrame, bias: str, group: str) -> Any:
    """The points of `scatter`, for a chart of several layers."""
    color, shape = scales("category", figures["category"])
    chart = alt.Chart(inline(figures.select("model", "category", bias, group)))
    return chart.mark_point(size=45, filled=True).encode(
        x=alt.X(f"{bias}:Q", title=label_of(bias), scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4)),
        y=alt.Y(f"{group}:Q", title=f"{words(group)}, top-1 %", scale=alt.Scale(zero=False)),
        color=color,
        shape=shape,
        opacity=faded(0.85),
        tooltip=[
            alt.Tooltip("model:N"),
            alt.Tooltip("category:N"),
            alt.Tooltip(f"{bias}:Q", title=title_of(bias), format=".3f"),
            alt.Tooltip(f"{group}:Q", title=words(group), format=".1f"),
        ],
    )


def accuracy_lines(lines: pl.DataFrame, models: pl.DataFrame, benchmark: str) -> Any:
    """Accuracy on a benchmark over that on ImageNet, in percent: a line for each way of training, and own models.

    lines has training, imagenet and accuracy, some points of each line; models has model, imagenet and accuracy.
    """
    x = alt.X("imagenet:Q", title="imagenet, top-1 %", scale=alt.Scale(zero=False))
    y = alt.Y("accuracy:Q", title=f"{words(benchmark)}, top-1 %", scale=alt.Scale(zero=False))
    color, _ = scales("training", lines["training"])
    drawn = alt.Chart(inline(lines)).mark_line().encode(x=x, y=y, color=color, tooltip=[alt.Tooltip("training:N")])
    tips = [alt.Tooltip("model:N"), *(alt.Tooltip(f"{name}:Q", format=".1f") for name in ("imagenet", "accuracy"))]
    diamonds = alt.Chart(inline(models)).mark_point(color=INK, shape="diamond", size=110, fill=INK)
    layers = [drawn, *([diamonds.encode(x=x, y=y, tooltip=tips)] if len(models) else [])]
    return layered(*layers, title=benchmark, height=170, width=220)
