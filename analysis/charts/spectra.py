"""Charts of the frequencies that image sets hold: power by cycles per image, and by octave and direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from .style import INK, inline, layered, scales, where


def spectrum_chart(rings: pl.DataFrame, directions: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    """The mean power of a wave by its cycles per image, and a map of the power of each set by octave and direction.

    Args:
        rings: image_set, cycles, power, power_low and power_high of each ring.
        directions: image set -> rows with cycles, direction in degrees and power.
    """
    hue, _ = scales("image_set", directions)
    base = alt.Chart(inline(rings)).encode(
        x=alt.X("cycles:Q", title="cycles per image", scale=alt.Scale(type="log", nice=False)), color=hue
    )
    band = base.mark_area(opacity=0.25).encode(
        y=alt.Y("power_low:Q", title="mean power of a wave", scale=alt.Scale(type="log"), axis=alt.Axis(format=".0e")),
        y2="power_high:Q",
    )
    lines = layered(band, base.mark_line().encode(y=alt.Y("power:Q")), width=300, height=220)
    maps = [_direction_map(name, pl.DataFrame(list(rows))) for name, rows in directions.items()]
    return alt.hconcat(lines, *maps).resolve_scale(color="independent")


def _direction_map(name: str, rows: pl.DataFrame) -> Any:
    """Shares of an octave's power by direction; white noise has 0.21, 0.29, 0.21 and 0.29."""
    shares = rows.with_columns(share=pl.col("power") / pl.col("power").sum().over("octave"))
    base = alt.Chart(inline(shares), title=alt.Title(name, subtitle="power of an octave by direction")).encode(
        x=alt.X("direction:O", title="direction of the wave (degrees)", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("cycles:O", title="cycles per image", sort=None),
    )
    tiles = base.mark_rect(stroke="white").encode(
        color=alt.Color("share:Q", scale=alt.Scale(scheme="purples", domain=[0, 0.6]), legend=None)
    )
    text = base.mark_text(fontSize=10).encode(
        text=alt.Text("share:Q", format=".2f"),
        color=alt.ColorValue(INK, condition=where("datum.share > 0.4", "white")),
    )
    return layered(tiles, text, width=170, height=220)
