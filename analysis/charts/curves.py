"""Curves: a number of each model over conditions, over cycles per image, or over another number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from ..measures.base import State
from .grammar import (
    COLORED_MODELS,
    FAINT,
    IMAGES,
    INK,
    PICK,
    Domain,
    faded,
    layered,
    plot,
    scales,
    series_of,
    shade_enlarged,
    tips,
    where,
    words,
)
from .maps import condition_map


def curves(
    curve: pl.DataFrame, x: str, x_title: str, title: str, domain: Domain = (0, 1), octaves: bool = False
) -> Any:
    """Accuracy over the column `x` of one probe on one image set, a line a model.

    Where models are few, each has its interval and the dashed line of its clean accuracy; where they are many, the one
    that is picked has. A dotted line is chance, where the rows have that column.

    Args:
        curve: rows of the view `curve`; any other measure may stand in its columns, if `measure` names it.
        x: a column of numbers, or of words in the order in which they are to be drawn.
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
    place = (x, x_title.split(" (")[0], "~g") if numeric else x
    full = 1 if field == "model" else 0.4
    is_picked = f"datum.model == {PICK}"
    visible = f"{PICK} == '' || {is_picked} || datum.category == {PICK}" if field == "model" else is_picked
    base = plot(rows).encode(x=across, color=color, detail=alt.Detail("model:N"))
    y = alt.Y("top1:Q", title=measure, scale=alt.Scale(domain=list(domain)))
    silent = base.encode(tooltip=alt.TooltipValue(None))
    pale, dim = (alt.OpacityValue(0, condition=where(visible, opacity)) for opacity in (0.15, 0.7))
    band = silent.mark_area().encode(y=alt.Y("low:Q", title=measure), y2=alt.Y2("high:Q"), opacity=pale)
    clean = silent.mark_rule(strokeDash=[4, 4]).encode(
        x=alt.XValue(0),  # type: ignore[no-untyped-call]
        x2=alt.X2Value("width"),  # type: ignore[no-untyped-call]
        y=alt.Y("mean(clean_top1):Q", title=measure),
        detail=[alt.Detail("model:N"), alt.Detail("category:N")],
        opacity=dim,
    )
    line = silent.mark_line(strokeWidth=1.5).encode(y=y, opacity=faded(full))
    points = base.mark_point(filled=True, size=40 if field == "model" else 18).encode(
        y=y,
        shape=shape,
        opacity=faded(full),
        tooltip=tips("model", "category", place, *setting, ("top1", measure, ".3f"), "low", "high", IMAGES),
    )
    layers = [band, clean, line, points] if rows["clean_top1"].is_not_null().any() else [band, line, points]
    if "chance" in curve.columns and curve["chance"].is_not_null().any():
        # Models of different numbers of classes have several chances.
        chances = plot(curve.select("chance").drop_nulls().unique().sort("chance"))
        dotted = chances.mark_rule(strokeDash=[1, 3], color=FAINT, strokeWidth=1.5)
        level = alt.Y("chance:Q", title=measure)
        layers.insert(0, dotted.encode(y=level, tooltip=tips(("chance", "chance", ".3g"))))
    if x == "cycles" and "own_cycles" in curve.columns and curve["own_cycles"].is_not_null().any():
        layers.insert(0, shade_enlarged(curve["own_cycles"].min(), rows[x].max(), across))
    return layered(*layers, picks=True, title=title, width=320, height=220)


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
    rows = cuts.filter(pl.col("state").is_in([State.OK, State.NO_INTERVAL]))
    rows = (
        rows.join(levels, on="checkpoint", maintain_order="left")
        .select("category", "value", "low", "high", "half", model="checkpoint")
        .drop_nulls(["value", "half"])
    )
    if rows.is_empty():
        return chart
    field, measure = series_of(curve), str(curve["measure"][0])
    # The names are those of the curves, in their order: layers share one scale of colours.
    color, _ = scales(field, curve.sort("checkpoint")["checkpoint" if field == "model" else field])
    x, y = alt.X("value:Q"), alt.Y("half:Q", title=measure)
    lines = tips("model", ("value", "half is left at (cycles per image)", ".1f"), "low", "high")
    base = plot(rows).encode(color=color, detail=alt.Detail("model:N"), opacity=faded(), tooltip=lines)
    down = base.mark_rule(strokeDash=[2, 2]).encode(x=x, y=y, y2=alt.Y2Datum(0), opacity=faded(0.5))
    bars = base.mark_rule(strokeWidth=3).encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"), y=y)
    rings = base.mark_point(size=110, strokeWidth=2.5, fill="white").encode(x=x, y=y)
    chart_with_cuts = chart.copy(deep=False)
    chart_with_cuts.layer = [*chart.layer, down, bars, rings]
    return chart_with_cuts


def probe_panels(rows: pl.DataFrame, probe: str, domain: Domain = (0, 1)) -> dict[str, Any]:
    """Title -> chart of one probe on one image set, as its family says that it is drawn.

    A probe with two axes has a map for each model and series, the first COLORED_MODELS; any other has curves for each
    series, over cycles per image where it acts on a frequency. Without two places on an axis, settings stand side by
    side.

    `rows` are those of the view `curve`, with the facts of conditions (see `database.study_versions`).
    """
    rows = rows.sort("checkpoint", "place")
    if rows["y"].is_not_null().any():
        minimum, maximum = rows.select(minimum=pl.col("top1").min(), maximum=pl.col("top1").max()).row(0)
        # A map has the colours of its own values: errors under waves may all be small.
        domain = domain if minimum is None or minimum == maximum else (minimum, maximum)
        maps = list(rows.group_by("checkpoint", "series", maintain_order=True))[:COLORED_MODELS]
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


def diamonds(rows: pl.DataFrame, x: alt.X, y: alt.Y, tooltip: Sequence[alt.Tooltip], fill: str = INK) -> Any:
    """One's own models among published ones; hollow diamonds are doubtful."""
    marks = plot(rows).mark_point(color=INK, shape="diamond", size=110, fill=fill)
    return marks.encode(x=x, y=y, tooltip=list(tooltip))
