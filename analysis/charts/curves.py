"""Charts of measured accuracies: rows of the views `curve` and `accuracy` in, Altair charts out."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from .style import CENTER, INK, PICKED, below, centers_axis, faded, inline, picked, scales, tile_font

FEW = 7
"""As many models as have a colour of their own; more are coloured by category."""
HEIGHT = 220


def series_of(frame: pl.DataFrame) -> str:
    """What lines are coloured by: `model` where there are few, else `category`."""
    return "model" if frame["checkpoint"].n_unique() <= FEW else "category"


def curves(curve: pl.DataFrame, x: str, x_title: str, title: str, domain: tuple[float, float] = (0, 1)) -> Any:
    """Accuracy over the column `x` of one probe on one image set, a line a model; `cycles` is where a filter cuts.

    `domain` is that of the accuracy, or of whatever else stands in its columns and is named by `measure`.

    Where models are few, each has its interval and the dashed line of its clean accuracy; where they are many, the one
    that is picked has.
    """
    field = series_of(curve)
    parameter = ["cutoff"] if x == "cycles" and curve["cutoff"].is_not_null().any() else []
    rows = curve.select(
        "category", x, *parameter, "top1", "low", "high", "n", "clean_top1", pl.col("checkpoint").alias("model")
    ).sort("model", x)
    measure = str(curve["measure"][0])
    color, shape = scales(field, rows[field])
    across = alt.X(f"{x}:{'Q' if rows.schema[x].is_numeric() else 'N'}", title=x_title)
    if x == "cycles" and curve["frequency"].is_not_null().all():  # bands of noise, an octave apart
        across = across.scale(type="log", base=2).axis(values=rows[x].unique().sort().to_list(), format=".4~g")
    full = 1 if field == "model" else 0.4
    base = alt.Chart(inline(rows)).encode(x=across, color=color, detail="model:N")
    mine = f"datum.model == {PICKED}"
    shown = f"{PICKED} == '' || {mine} || datum.category == {PICKED}" if field == "model" else mine
    band = base.mark_area().encode(
        y=alt.Y("low:Q", title=measure),
        y2="high:Q",
        opacity=alt.condition(shown, alt.value(0.15), alt.value(0)),
        tooltip=alt.value(None),
    )
    clean = base.mark_rule(strokeDash=[4, 4]).encode(
        x=alt.value(0),
        x2=alt.value("width"),
        y=alt.Y("mean(clean_top1):Q", title=measure),
        detail=["model:N", "category:N"],
        opacity=alt.condition(shown, alt.value(0.7), alt.value(0)),
        tooltip=alt.value(None),
    )
    y = alt.Y("top1:Q", title=measure, scale=alt.Scale(domain=list(domain)))
    line = base.mark_line(strokeWidth=1.5).encode(y=y, opacity=faded(full), tooltip=alt.value(None))
    points = base.mark_point(filled=True, size=40 if field == "model" else 18).encode(
        y=y,
        shape=shape,
        opacity=faded(full),
        tooltip=[
            alt.Tooltip("model:N"),
            alt.Tooltip("category:N"),
            alt.Tooltip(f"{x}:{'Q' if rows.schema[x].is_numeric() else 'N'}", title=x_title.split(" (")[0]),
            *(alt.Tooltip(f"{name}:Q") for name in parameter),
            alt.Tooltip("top1:Q", title=measure, format=".3f"),
            alt.Tooltip("low:Q", title="95 % from", format=".3f"),
            alt.Tooltip("high:Q", title="to", format=".3f"),
            alt.Tooltip("n:Q", title="images"),
        ],
    )
    layers = [band, clean, line, points] if rows["clean_top1"].is_not_null().any() else [band, line, points]
    return alt.layer(*layers).add_params(picked()).properties(title=title, width=320, height=HEIGHT)


def band_map(curve: pl.DataFrame, title: str) -> Any:
    """Accuracy of one model under noise, octave bands across and strengths down."""
    band = curve.filter(pl.col("probe") == "critical_band")
    noisy = band.filter(pl.col("frequency").is_not_null() & pl.col("top1").is_not_null())
    quiet = band.filter(pl.col("noise_sd") == 0)["top1"].drop_nulls()
    measure = str(curve["measure"][0])
    base = alt.Chart(inline(noisy.select("frequency", "noise_sd", "cycles", "top1", "low", "high"))).encode(
        x=alt.X("cycles:O", title=CENTER, axis=centers_axis()),
        y=alt.Y("noise_sd:O", title="noise_sd", sort="descending"),
        tooltip=[
            alt.Tooltip("cycles:Q", title="cycles per image", format=".4~g"),
            alt.Tooltip("noise_sd:O"),
            alt.Tooltip("top1:Q", title=measure, format=".3f"),
            alt.Tooltip("low:Q", title="95 % from", format=".3f"),
            alt.Tooltip("high:Q", title="to", format=".3f"),
        ],
    )
    tiles = base.mark_rect(stroke="white").encode(
        color=alt.Color("top1:Q", title=measure, scale=alt.Scale(scheme="viridis", domain=[0, 1]), legend=None)
    )
    text = base.mark_text(fontSize=tile_font(11, noisy["cycles"].n_unique(), len("0.42"))).encode(
        text=alt.Text("top1:Q", format=".2f"),
        color=alt.condition("datum.top1 > 0.55", alt.value(INK), alt.value("white")),
    )
    heading = alt.Title(title, subtitle=f"{measure}; without noise {quiet[0]:.2f}" if len(quiet) else measure)
    return alt.layer(tiles, text).properties(title=heading, width=320, height=HEIGHT)


def wave_map(curve: pl.DataFrame, title: str) -> Any:
    """Error of one model under waves of (row, column) cycles per image; a frequency and its opposite have one value."""
    half = _errors(curve, row=pl.Int64, column=pl.Int64)
    both = pl.concat([half, half.with_columns(-pl.col("row"), -pl.col("column"))]).unique(["row", "column"])
    return _error_map(both, ("column", "cycles across"), ("row", "cycles down"), curve, title)


def bin_map(curve: pl.DataFrame, title: str) -> Any:
    """Error of one model under waves of an octave and orientation, octaves across and orientations down."""
    bins = _errors(curve, octave=pl.Int64, orientation=pl.Float64)
    across = ("octave", "octave, from 2^octave cycles per image on")
    return _error_map(bins, across, ("orientation", "orientation (degrees)"), curve, title)


def _errors(curve: pl.DataFrame, **parameters: Any) -> pl.DataFrame:
    """The parameters, by their types, and the error, where there is one."""
    found = pl.col("parameters").str.json_decode(pl.Struct(parameters)).struct.unnest()
    return curve.select(found, error=1 - pl.col("top1")).drop_nulls()


def _error_map(rows: pl.DataFrame, x: tuple[str, str], y: tuple[str, str], curve: pl.DataFrame, title: str) -> Any:
    """A tile for each row, at the columns x and y, which are called as said."""
    (across, across_title), (down, down_title) = x, y
    measure = str(curve["measure"][0])
    return (
        alt.Chart(inline(rows.sort(down, across)))
        .mark_rect()
        .encode(
            x=alt.X(f"{across}:O", title=across_title, axis=alt.Axis(labelOverlap=True)),
            y=alt.Y(f"{down}:O", title=down_title, axis=alt.Axis(labelOverlap=True)),
            color=alt.Color("error:Q", title=f"1 - {measure}", scale=alt.Scale(scheme="viridis", domain=[0, 1])),
            tooltip=[alt.Tooltip(f"{down}:O"), alt.Tooltip(f"{across}:O"), alt.Tooltip("error:Q", format=".3f")],
        )
        .properties(title=title, width=320, height=320)
    )


def differences(rows: pl.DataFrame, title: str, reach: float) -> Any:
    """Change of top-1 in percentage points of one probe: a tile for each condition (down) and model (across).

    `rows` has model, condition, before, after, difference, low and high (the ends of its 95 % interval), p_holm, and
    differs, which stars a tile; colours run from -reach to reach.
    """
    few = rows["model"].n_unique() <= 2 * FEW
    hue = alt.Scale(scheme="purpleorange", domain=[-reach, reach], reverse=True)
    legend = None if few else alt.Legend(orient="bottom", gradientLength=200)
    base = alt.Chart(inline(rows)).encode(
        x=alt.X("model:N", title=None, axis=below(rows["model"].n_unique())),
        y=alt.Y("condition:N", sort=None, title=None),
        tooltip=[
            alt.Tooltip("model:N"),
            alt.Tooltip("condition:N"),
            alt.Tooltip("before:Q", format=".1f"),
            alt.Tooltip("after:Q", format=".1f"),
            alt.Tooltip("difference:Q", title="points", format="+.2f"),
            alt.Tooltip("low:Q", format="+.2f"),
            alt.Tooltip("high:Q", format="+.2f"),
            alt.Tooltip("p_holm:Q", title="p after Holm", format=".2g"),
        ],
    )
    tiles = base.mark_rect(stroke="white").encode(
        color=alt.Color("difference:Q", title="points", scale=hue, legend=legend)
    )
    ink = alt.condition(f"abs(datum.difference) > {0.72 * reach:g}", alt.value("white"), alt.value(INK))
    text = base.transform_calculate(text="format(datum.difference, '+.1f') + (datum.differs ? '*' : '')")
    font = tile_font(10, rows["model"].n_unique(), len("+12.3*"))
    strong = text.transform_filter("datum.differs").mark_text(fontSize=font, fontWeight="bold")
    others = text.transform_filter("!datum.differs").mark_text(fontSize=font)
    marks = [mark.encode(text="text:N", color=ink) for mark in (strong, others)]
    chart = alt.layer(tiles, *marks) if few else alt.layer(tiles)
    return chart.properties(title=title, width=320, height=16 * rows["condition"].n_unique())
