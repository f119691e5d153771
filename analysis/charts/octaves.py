"""Charts of octave shares: a bar for each model that adds up to its accuracy, and the interactions of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from ...core.protocol import OCTAVES, octave_edges
from ..measures.octaves import SHARES
from .style import INK, inline, layered, tile_font, where

FLAT = "flat image"
GREY = "#c9c9c9"
HUES = ("#3b0f70", "#75207f", "#b0357b", "#e34e65", "#f98860", "#fdb97d", "#fce7a5")
"""Colours of the octaves, coarse (dark) to fine (light), told apart by lightness alone."""
DARK = 4
"""Octaves whose colours take white letters."""
LETTERED = 24
"""Pixels that the number of a share takes in its bar."""
NARROW = 340
"""Pixels of a chart that have no room for four columns of its legend."""


def octave_names(size: int) -> list[str]:
    """The octaves with their edges in cycles per image, at images of `size` pixels a side."""
    edges = octave_edges(size)
    return [
        f"{octave}: {high}" if high <= low + 1 else f"{octave}: {low + 1} to {high}"
        for octave, low, high in zip(OCTAVES, edges[:-1], edges[1:], strict=True)
    ]


def octave_bars(metrics: pl.DataFrame, clean: pl.DataFrame, title: str, size: int) -> Any:
    """A bar for each model: the accuracy of its flat images, and what each octave adds to it or takes away.

    Octaves that add follow each other to the right. Those that take away lead back as thin bars, and the line at their
    end is the accuracy.

    Args:
        metrics: rows of the view `metric` on one image set.
        clean: checkpoint, top1 and measure of the unperturbed images.
        title: that of the chart.
        size: pixels that the images have a side.
    """
    shares = metrics.filter(pl.col("metric").is_in(SHARES), pl.col("value").is_not_null())
    shares = shares.join(clean, on="checkpoint", maintain_order="left")
    models = shares.sort("checkpoint", "metric").group_by("checkpoint", maintain_order=True)
    names = octave_names(size)
    rows = pl.DataFrame([part for _, of_model in models for part in _bar(of_model.to_dicts(), names)], _BAR)
    hues = {name: hue for name, hue in zip(names, HUES, strict=True) if name in rows["part"]}
    measure = str(clean["measure"][0])
    base = alt.Chart(inline(rows)).encode(
        x=alt.X("start:Q", title=measure, scale=alt.Scale(zero=True)),
        x2=alt.X2("end:Q"),
        y=alt.Y("model:N", title=None),
        color=alt.Color(
            "part:N",
            scale=alt.Scale(domain=[FLAT, *hues], range=[GREY, *hues.values()]),
            legend=alt.Legend(
                title="octave: cycles per image", orient="bottom", columns=alt.ExprRef(f"width < {NARROW} ? 3 : 4")
            ),
        ),
        tooltip=[
            alt.Tooltip("model:N"),
            alt.Tooltip("part:N", title="octave"),
            alt.Tooltip("value:Q", title="owed to it", format=".4f"),
            alt.Tooltip("low:Q", title="95 % from", format=".4f"),
            alt.Tooltip("high:Q", title="to", format=".4f"),
            alt.Tooltip("top1:Q", title=measure, format=".4f"),
        ],
    )
    adding = base.transform_filter("datum.value >= 0").mark_bar(height=16)
    taking = base.transform_filter("datum.value < 0").mark_bar(height=6, stroke="white", strokeWidth=1)
    total_line = base.mark_tick(thickness=2, size=22, color=INK).encode(
        x=alt.X("top1:Q", title=measure), x2=alt.Undefined, color=alt.ColorValue(INK)
    )
    letters = base.transform_filter("datum.value >= 0").transform_calculate(
        middle="(datum.start + min(datum.end, datum.top1)) / 2"
    )
    dark = f"isValid(datum.octave) && datum.octave < {DARK}"
    room = f"scale('x', datum.end) - scale('x', datum.start) >= {LETTERED} ? 1 : 0"
    text = letters.mark_text(fontSize=10, opacity=alt.ExprRef(room)).encode(
        x=alt.X("middle:Q", title=measure),
        x2=alt.Undefined,
        text=alt.Text("value:Q", format=".2f"),
        color=alt.ColorValue(INK, condition=where(dark, "white")),
    )
    height = max(44, 30 * rows["model"].n_unique())
    return layered(adding, taking, total_line, text, title=title, width=440, height=height)


_BAR: dict[str, Any] = {
    "model": pl.String,
    "part": pl.String,
    "octave": pl.Int32,
    **dict.fromkeys(("start", "end", "value", "low", "high", "top1"), pl.Float64),
}


def _bar(shares: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the parts of one model's bar, of its shares by octave: those that take away come last, and lead back."""
    top1 = shares[0]["top1"]
    end = top1 - sum(row["value"] for row in shares)
    yield {"model": shares[0]["checkpoint"], "part": FLAT, "start": 0.0, "end": end, "value": end, "top1": top1}
    for row in sorted(shares, key=lambda row: row["value"] < 0):
        start, end, octave = end, end + row["value"], SHARES.index(row["metric"])
        place = {"part": names[octave], "octave": octave, "start": start, "end": end}
        yield {"model": row["checkpoint"]} | place | {name: row[name] for name in ("value", "low", "high", "top1")}


def pair_matrix(pairs: pl.DataFrame, title: str, size: int, reach: float) -> Any:
    """The interactions of each two octaves of one model; purple needs both, orange either does.

    `pairs` are rows of the view `metric` of one model on one image set. The scale of colours reaches from -`reach` to
    `reach`, and is the same for models that have it in common.
    """
    edges, reach = dict(zip(OCTAVES, octave_names(size), strict=True)), max(0.01, reach)
    rows = pairs.with_columns(first=pl.col("metric").str.slice(-3, 1), second=pl.col("metric").str.slice(-1))
    rows = rows.select(
        "value", "low", "high", "first", "second",
        sound=(pl.col("low") > 0) | (pl.col("high") < 0),
        names=pl.format("{} and {}", pl.col("first").replace(edges), pl.col("second").replace(edges)),
    )  # fmt: skip
    base = alt.Chart(inline(rows)).encode(
        x=alt.X("second:O", title="octave", axis=alt.Axis(labelAngle=0, domain=False, ticks=False)),
        y=alt.Y("first:O", title="octave", axis=alt.Axis(domain=False, ticks=False)),
        tooltip=[
            alt.Tooltip("names:N", title="octaves"),
            alt.Tooltip("value:Q", title="interaction", format=".4f"),
            alt.Tooltip("low:Q", title="95 % from", format=".4f"),
            alt.Tooltip("high:Q", title="to", format=".4f"),
        ],
    )
    hue = alt.Scale(scheme="purpleorange", domain=[-reach, reach], reverse=True)
    tiles = base.mark_rect(stroke="white").encode(color=alt.Color("value:Q", scale=hue, legend=None))
    text = base.mark_text(fontSize=tile_font(11, len(OCTAVES) - 1, len("−0.12"))).encode(
        text=alt.Text("value:Q", format=".2f"),
        color=alt.ColorValue(INK, condition=where(f"abs(datum.value) > {0.72 * reach:.4g}", "white")),
        opacity=alt.OpacityValue(0.55, condition=where("datum.sound", 1)),
    )
    return layered(tiles, text, title=title, width=260, height=190)
