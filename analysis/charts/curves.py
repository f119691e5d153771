"""Charts of measured accuracies: rows of the views `curve` and `accuracy` in, Altair charts out."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from ..measures.base import State
from .palette import FEW, series_of
from .style import (
    FAINT,
    INK,
    PICKED,
    below,
    centers_axis,
    faded,
    inline,
    layered,
    scales,
    shade_enlarged,
    shade_tiles,
    tile_font,
    where,
    words,
)

HEIGHT = 220


def curves(
    curve: pl.DataFrame,
    x: str,
    x_title: str,
    title: str,
    domain: tuple[float, float] = (0, 1),
    octaves: bool = False,
) -> Any:
    """Accuracy over the column `x` of one probe on one image set, a line a model.

    Where models are few, each has its interval and the dashed line of its clean accuracy; where they are many, the one
    that is picked has. A dotted line is chance, where the rows have that column.

    Args:
        curve: rows of the view `curve`; any other measure may stand in its columns, if `measure` names it.
        x: a column of numbers, or of words in the order in which they are to be drawn.
        x_title: its name on the axis.
        title: that of the chart.
        domain: ends of the axis of the accuracy.
        octaves: whether the values of `x` lie an octave apart.
    """
    field = series_of(curve)
    numeric = curve.schema[x].is_numeric()
    setting = ["setting"] if "setting" in curve.columns and x != "setting" else []
    rows = curve.select("category", x, *setting, "top1", "low", "high", "n", "clean_top1", model="checkpoint")
    rows = rows.sort("model", x) if numeric else rows.sort("model", maintain_order=True)
    measure = str(curve["measure"][0])
    color, shape = scales(field, rows[field])
    across = alt.X(f"{x}:Q", title=x_title) if numeric else alt.X(f"{x}:N", title=x_title, sort=None)
    if octaves:
        across = across.scale(type="log", base=2).axis(values=rows[x].unique().sort().to_list(), format=".4~g")
    full = 1 if field == "model" else 0.4
    base = alt.Chart(inline(rows)).encode(x=across, color=color, detail=alt.Detail("model:N"))
    is_picked = f"datum.model == {PICKED}"
    visible = f"{PICKED} == '' || {is_picked} || datum.category == {PICKED}" if field == "model" else is_picked
    band = base.mark_area().encode(
        y=alt.Y("low:Q", title=measure),
        y2=alt.Y2("high:Q"),
        opacity=alt.OpacityValue(0, condition=where(visible, 0.15)),
        tooltip=alt.TooltipValue(None),
    )
    clean = base.mark_rule(strokeDash=[4, 4]).encode(
        x=alt.XValue(0),  # type: ignore[no-untyped-call]
        x2=alt.X2Value("width"),  # type: ignore[no-untyped-call]
        y=alt.Y("mean(clean_top1):Q", title=measure),
        detail=[alt.Detail("model:N"), alt.Detail("category:N")],
        opacity=alt.OpacityValue(0, condition=where(visible, 0.7)),
        tooltip=alt.TooltipValue(None),
    )
    y = alt.Y("top1:Q", title=measure, scale=alt.Scale(domain=list(domain)))
    line = base.mark_line(strokeWidth=1.5).encode(y=y, opacity=faded(full), tooltip=alt.TooltipValue(None))
    points = base.mark_point(filled=True, size=40 if field == "model" else 18).encode(
        y=y,
        shape=shape,
        opacity=faded(full),
        tooltip=[
            alt.Tooltip("model:N"),
            alt.Tooltip("category:N"),
            alt.Tooltip(f"{x}:{'Q' if numeric else 'N'}", title=x_title.split(" (")[0]),
            *(alt.Tooltip(f"{name}:N") for name in setting),
            alt.Tooltip("top1:Q", title=measure, format=".3f"),
            alt.Tooltip("low:Q", title="95 % from", format=".3f"),
            alt.Tooltip("high:Q", title="to", format=".3f"),
            alt.Tooltip("n:Q", title="images"),
        ],
    )
    layers = [band, clean, line, points] if rows["clean_top1"].is_not_null().any() else [band, line, points]
    if "chance" in curve.columns and curve["chance"].is_not_null().any():
        layers.insert(0, _chance_lines(curve["chance"].drop_nulls().unique().sort(), measure))
    if x == "cycles" and "own_cycles" in curve.columns and curve["own_cycles"].is_not_null().any():
        layers.insert(0, shade_enlarged(curve["own_cycles"].min(), rows[x].max(), across))
    return layered(*layers, picks=True, title=title, width=320, height=HEIGHT)


def mark_half_cuts(chart: Any, cuts: pl.DataFrame, curve: pl.DataFrame) -> Any:
    """Add a ring to the curves of a filter at the cut that leaves half of each model's accuracy above chance.

    A bar through it is its 95 % interval, a dotted line leads to its place on the axis. Cuts at an end of the tested
    ones have no ring, since another share than half is left there.

    Args:
        chart: what `curves` gives of `curve`.
        cuts: rows of the view `metric` of one half cut on one image set.
        curve: rows of the view `curve` of its filter, with `chance` where images have labels.
    """
    floor = pl.col("chance").fill_null(0)
    levels = curve.group_by("checkpoint").agg(half=((pl.col("clean_top1") + floor) / 2).mean())
    rows = cuts.filter(pl.col("state").is_in([State.OK, State.NO_INTERVAL])).join(
        levels, on="checkpoint", maintain_order="left"
    )
    rows = rows.select("category", "value", "low", "high", "half", model="checkpoint").drop_nulls(["value", "half"])
    if rows.is_empty():
        return chart
    field, measure = series_of(curve), str(curve["measure"][0])
    # The names are those of the curves, in their order: layers share one scale of colours.
    color, _ = scales(field, curve.sort("checkpoint")["checkpoint" if field == "model" else field])
    x, y = alt.X("value:Q"), alt.Y("half:Q", title=measure)
    tooltip = [
        alt.Tooltip("model:N"),
        alt.Tooltip("value:Q", title="half is left at (cycles per image)", format=".1f"),
        alt.Tooltip("low:Q", title="95 % from", format=".1f"),
        alt.Tooltip("high:Q", title="to", format=".1f"),
    ]
    base = alt.Chart(inline(rows)).encode(color=color, detail=alt.Detail("model:N"), opacity=faded(), tooltip=tooltip)
    down = base.mark_rule(strokeDash=[2, 2]).encode(x=x, y=y, y2=alt.Y2Datum(0), opacity=faded(0.5))
    bars = base.mark_rule(strokeWidth=3).encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"), y=y)
    rings = base.mark_point(size=110, strokeWidth=2.5, fill="white").encode(x=x, y=y)
    marked = chart.copy(deep=False)
    marked.layer = [*chart.layer, down, bars, rings]
    return marked


def _chance_lines(chances: pl.Series, measure: str) -> Any:
    """Dotted lines at the accuracies of blind guesses; models of different numbers of classes have several."""
    chart = alt.Chart(inline(pl.DataFrame({"chance": chances})))
    return chart.mark_rule(strokeDash=[1, 3], color=FAINT, strokeWidth=1.5).encode(
        y=alt.Y("chance:Q", title=measure),
        tooltip=[alt.Tooltip("chance:Q", title="chance", format=".3g")],
    )


def probe_panels(rows: pl.DataFrame, probe: str, domain: tuple[float, float] = (0, 1)) -> dict[str, Any]:
    """Title -> chart of one probe on one image set, as its family says that it is drawn.

    A probe with two axes has a map for each model and series, the first FEW; any other has curves for each series, over
    cycles per image where it acts on a frequency. Without two places on an axis, settings stand side by side.

    `rows` are those of the view `curve`, with the facts of conditions (see `database.conditions`).
    """
    rows = rows.sort("checkpoint", "place")
    if rows["y"].is_not_null().any():
        lowest, highest = rows.select(lowest=pl.col("top1").min(), highest=pl.col("top1").max()).row(0)
        # A map has the colours of its own values: errors under waves may all be small.
        domain = domain if lowest is None or lowest == highest else (lowest, highest)
        maps = list(rows.group_by("checkpoint", "series", maintain_order=True))[:FEW]
        titles = [", ".join(filter(None, map(str, key))) for key, _ in maps]
        return {title: condition_map(part, title, domain) for title, (_, part) in zip(titles, maps, strict=True)}
    on_axis = rows.filter(pl.col("x").is_not_null())
    if on_axis["x"].n_unique() < 2:
        return {words(probe): curves(rows, "setting", "setting", words(probe), domain)} if len(rows) else {}
    x = "cycles" if on_axis["cycles"].is_not_null().all() else "x"
    panels = {}
    for (series,), part in on_axis.sort("place").group_by("series", maintain_order=True):
        title = ", ".join(filter(None, (words(probe), str(series))))
        octaves = x == "cycles" and not part["cuts"].any()
        panels[title] = curves(part, x, str(part["x_title"][0]), title, domain, octaves)
    return panels


def as_errors(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of the view `curve` in which probes with two axes have errors, 1 - top1, as published maps do."""
    mapped = pl.col("y").is_not_null()
    return rows.with_columns(
        top1=pl.when(mapped).then(1 - pl.col("top1")).otherwise("top1"),
        measure=pl.when(mapped).then(pl.format("1 - {} (share of images)", "measure")).otherwise("measure"),
    )


def band_map(curve: pl.DataFrame, title: str) -> Any:
    """Accuracy of one model under a probe that acts on bands of frequencies: their centres across, its series down.

    Rows without a place on the axis are the probe's own images without perturbation. Frequencies that
    enlarged originals do not have are shaded where the rows have `own_cycles`.
    """
    noisy = curve.filter(pl.col("x").is_not_null() & pl.col("top1").is_not_null()).sort("place")
    quiet = curve.filter(pl.col("x").is_null())["top1"].drop_nulls()
    measure = str(curve["measure"][0])
    series = noisy["series"].unique(maintain_order=True).reverse().to_list()
    base = alt.Chart(inline(noisy.select("series", "setting", "cycles", "top1", "low", "high"))).encode(
        x=alt.X("cycles:O", title=str(noisy["x_title"][0]) if len(noisy) else None, axis=centers_axis()),
        y=alt.Y("series:O", title=None, sort=series),
        tooltip=[
            alt.Tooltip("cycles:Q", title="cycles per image", format=".4~g"),
            alt.Tooltip("setting:N"),
            alt.Tooltip("top1:Q", title=measure, format=".3f"),
            alt.Tooltip("low:Q", title="95 % from", format=".3f"),
            alt.Tooltip("high:Q", title="to", format=".3f"),
        ],
    )
    tiles = base.mark_rect(stroke="white").encode(
        color=alt.Color("top1:Q", title=measure, scale=alt.Scale(scheme="viridis", domain=[0, 1]), legend=None),
    )
    text = base.mark_text(fontSize=tile_font(11, noisy["cycles"].n_unique(), len("0.42"))).encode(
        text=alt.Text("top1:Q", format=".2f"),
        color=alt.ColorValue("white", condition=where("datum.top1 > 0.55", INK)),
    )
    heading = alt.Title(title, subtitle=f"{measure}; without noise {quiet[0]:.2f}" if len(quiet) else measure)
    shades = shade_tiles(base, curve["own_cycles"].min()) if "own_cycles" in curve.columns else []
    return layered(tiles, *shades, text, title=heading, width=320, height=HEIGHT)


def condition_map(curve: pl.DataFrame, title: str, domain: tuple[float, float] = (0, 1)) -> Any:
    """The measure of one model under a probe with two axes, a tile for each condition; colours run over `domain`.

    A mirrored probe has each condition twice, at (x, y) and at (-x, -y).
    """
    rows = curve.select("x", "y", "mirrored", "setting", "top1").drop_nulls()
    opposite = rows.filter("mirrored").with_columns(-pl.col("x", "y"))
    # Zero has no sign on an axis.
    rows = pl.concat([rows, opposite]).with_columns(pl.col("x", "y") + 0.0).unique(["x", "y"], maintain_order=True)
    x_title, y_title, measure = curve.select("x_title", "y_title", "measure").row(0)
    return (
        alt.Chart(inline(rows.drop("mirrored").sort("y", "x")))
        .mark_rect()
        .encode(
            x=alt.X("x:O", title=x_title, axis=alt.Axis(labelOverlap=True)),
            y=alt.Y("y:O", title=y_title, axis=alt.Axis(labelOverlap=True)),
            color=alt.Color(
                "top1:Q",
                title=measure,
                scale=alt.Scale(scheme="viridis", domain=list(domain)),
                legend=alt.Legend(orient="bottom", gradientLength=200),
            ),
            tooltip=[alt.Tooltip("setting:N"), alt.Tooltip("top1:Q", title=measure, format=".3f")],
        )
        .properties(title=title, width=320, height=320)
    )


def differences(rows: pl.DataFrame, title: str, reach: float) -> Any:
    """Change of top-1 in percentage points of one probe: a tile for each condition (down) and model (across).

    `rows` has model, condition, before, after, difference, low and high (the ends of its 95 % interval), p_holm, and
    differs, which stars a tile; colours run from -reach to reach.
    """
    is_small = rows["model"].n_unique() <= 2 * FEW
    hue = alt.Scale(scheme="purpleorange", domain=[-reach, reach], reverse=True)
    legend = None if is_small else alt.Legend(orient="bottom", gradientLength=200)
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
    ink = alt.ColorValue(INK, condition=where(f"abs(datum.difference) > {0.72 * reach:g}", "white"))
    text = base.transform_calculate(text="format(datum.difference, '+.1f') + (datum.differs ? '*' : '')")
    font = tile_font(10, rows["model"].n_unique(), len("+12.3*"))
    strong = text.transform_filter("datum.differs").mark_text(fontSize=font, fontWeight="bold")
    plain = text.transform_filter("!datum.differs").mark_text(fontSize=font)
    marks = [mark.encode(text=alt.Text("text:N"), color=ink) for mark in (strong, plain)]
    layers = [tiles, *marks] if is_small else [tiles]
    return layered(*layers, title=title, width=320, height=16 * rows["condition"].n_unique())
