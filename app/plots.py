"""The curves of a study as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from ..export.files import write_bytes

WIDTH, HEIGHT = 300, 210


def draw_curves(curve: pl.DataFrame, out: Path) -> None:
    """Write low-pass and high-pass curves and the critical-band matrix of one checkpoint as PNG.

    Args:
        curve: rows of the view `curve`.
        out: the file.
    """
    measure = str(curve["measure"][0])
    clean = float(curve.filter(pl.col("family") == "clean")["top1"][0])
    spectral = _spectral(curve, measure, clean) if "lowpass" in set(curve["family"]) else None
    band = _band(curve, measure) if "critical_band" in set(curve["family"]) else None
    chart = alt.hconcat(*(part for part in (spectral, band) if part is not None)).properties(
        title=f"{curve['checkpoint'][0]} on {curve['image_set'][0]} ({curve['n'][0]} images): {measure}, 95 % intervals"
    )
    import vl_convert

    write_bytes(out, vl_convert.vegalite_to_png(chart.to_dict(), scale=1.5))


def _spectral(curve: pl.DataFrame, measure: str, clean: float) -> Any:
    data = _data(curve.filter(pl.col("cutoff").is_not_null()))
    x = alt.X("cutoff:Q", title="cutoff (share of 112 cycles per image)")
    color = alt.Color(
        "family:N", title=None, scale=alt.Scale(range=["#0072b2", "#d55e00"]), legend=alt.Legend(orient="top")
    )
    base = alt.Chart(data)
    band = base.mark_area(opacity=0.2).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=color)
    line = base.mark_line(point=True).encode(
        x=x, y=alt.Y("top1:Q", title=measure, scale=alt.Scale(domain=[0, 1])), color=color
    )
    rule = alt.Chart(_data(pl.DataFrame({"clean": [clean]}))).mark_rule(strokeDash=[4, 4]).encode(y="clean:Q")
    return alt.layer(band, line, rule).properties(width=WIDTH, height=HEIGHT, title="low-pass and high-pass")


def _band(curve: pl.DataFrame, measure: str) -> Any:
    noisy = curve.filter((pl.col("family") == "critical_band") & pl.col("frequency").is_not_null())
    x = alt.X(
        "frequency:O", title="frequency (octave; centre 1.75 x 2^f cycles per image)", axis=alt.Axis(labelAngle=0)
    )
    y = alt.Y("noise_sd:O", title="noise_sd", sort="descending")
    base = alt.Chart(_data(noisy))
    tiles = base.mark_rect().encode(
        x=x, y=y, color=alt.Color("top1:Q", title=measure, scale=alt.Scale(scheme="viridis", domain=[0, 1]))
    )
    text = base.mark_text(fontSize=11).encode(
        x=x,
        y=y,
        text=alt.Text("top1:Q", format=".2f"),
        color=alt.condition("datum.top1 > 0.6", alt.value("black"), alt.value("white")),
    )
    return alt.layer(tiles, text).properties(width=WIDTH, height=HEIGHT, title="critical band")


def _data(rows: pl.DataFrame) -> alt.InlineData:
    return alt.InlineData(values=rows.to_dicts())
