"""Curves: a value of each model over conditions, over frequencies in cycles/image, or over another number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import altair as alt
import polars as pl

from ..metrics.base import State
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

ONE_SETTING = "probes of one setting"
"""Title of the shared chart of probes with only one setting."""


def curves(
    curve: pl.DataFrame,
    x: str,
    x_title: str | None,
    title: str,
    domain: Domain = (0, 1),
    octaves: bool = False,
    ordered: bool = True,
) -> Any:
    """Plot accuracy over the column `x` of one probe on one image set.

    Each model has a line, or each value of `x` has a row of points (see `ordered`). If there are few models, every
    model has its confidence intervals and a dashed line at its clean accuracy. If there are many, only the selected
    model has them. A dotted line shows the chance level if the rows have the column `chance`. A line is interrupted
    where its model lacks a condition. The missing conditions are those of the column `place`, or else those that other
    models have.

    Args:
        curve: Rows of the view `curve` for one probe and one image set. Its accuracy columns can contain another
            metric, named in the column `measure`.
        x: Column of numbers, or of text in the order in which it is to be drawn.
        x_title: Title of the axis of `x`.
        title: Title of the chart.
        domain: Limits of the accuracy axis.
        octaves: Whether the values of `x` are one octave apart. The axis is then logarithmic.
        ordered: Whether to draw lines over a horizontal axis. Otherwise each value of `x` gets a row of points.
    """
    field, measure = series_of(curve), str(curve["measure"][0])
    numeric, settings = curve.schema[x].is_numeric(), curve[x].unique(maintain_order=True).to_list()
    settings = sorted(settings) if numeric else settings
    if "place" not in curve.columns:
        curve = curve.with_columns(place=pl.col(x).replace_strict(settings, range(len(settings))))
    # Between gaps, `place` and its rank both increase by 1, so their difference identifies an uninterrupted stretch.
    place = pl.col("place").cast(pl.Int64)
    stretch = (place - place.rank("dense")).over("checkpoint")
    labels = [column for column in dict.fromkeys([x, "setting"]) if column in curve.columns]
    columns = ("category", *labels, "top1", "low", "high", "n", "clean_top1")
    rows = curve.select(*columns, model="checkpoint", stretch=stretch).sort(
        "model", *[x] * numeric, maintain_order=True
    )
    rows = rows.with_columns(alone=pl.col("low").is_not_null() & (pl.len().over("model", "stretch") == 1))
    few, height, pale, dim = field == "model", 220, _visible(field, 0.15), _visible(field, 0.7)
    color, shape = scales(field, rows[field])
    # Encodings of the position of a setting, of its accuracy, and of the second limit of the confidence interval.
    channel, level, end = (alt.X, alt.Y, alt.Y2) if ordered else (alt.Y, alt.X, alt.X2)
    across: Any = channel(f"{x}:Q", title=x_title) if numeric else channel(f"{x}:N", title=x_title, sort=settings)
    if octaves:
        across = across.scale(type="log", base=2).axis(values=settings, format=".4~g")
    detail = [alt.Detail("model:N"), alt.Detail("stretch:N")]
    silent = plot(rows).encode(color=color, detail=detail, tooltip=alt.TooltipValue(None))
    placed = silent.encode(across)
    if not ordered:
        step = max(16, min(8 + 9 * rows["model"].n_unique(), 400 // len(settings))) if few else 16
        height = max(44, step * len(settings))
        placed = placed.encode(yOffset=alt.YOffset("model:N")) if few else placed
    ends, y = (level("low:Q", title=measure), end("high:Q")), level("top1:Q", title=measure).scale(domain=list(domain))
    clean = silent.mark_rule(strokeDash=[4, 4]).encode(
        level("mean(clean_top1):Q", title=measure),
        detail=[alt.Detail("model:N"), alt.Detail("category:N")],
        opacity=dim,
    )
    opacity, name = faded(1 if few else 0.4), x_title.split(" (")[0] if x_title else x
    numbers = (("top1", measure, ".3f"), "low", "high", IMAGES)
    points = placed.mark_point(filled=True, size=40 if few else 18).encode(
        y,
        shape=shape,
        opacity=opacity,
        tooltip=tips("model", "category", (x, name, "~g") if numeric else x, *labels[1:], *numbers),
    )
    band = placed.mark_area().encode(*ends, opacity=pale)
    bars = placed.mark_rule(strokeWidth=2).encode(*ends, opacity=dim)
    line = placed.mark_line(strokeWidth=1.5).encode(y, opacity=opacity)
    layers = [clean] if rows["clean_top1"].is_not_null().any() else []
    # A single point between two gaps has no area for the interval, so it gets a bar.
    alone = [bars.transform_filter("datum.alone")] if rows["alone"].any() else []
    layers = [band, *alone, *layers, line, points] if ordered else [*layers, bars, points]
    if "chance" in curve.columns:
        # Models with different numbers of classes have different chance levels.
        chances = plot(curve.select("chance").drop_nulls().unique().sort("chance"))
        dotted = chances.mark_rule(strokeDash=[1, 3], color=FAINT, strokeWidth=1.5)
        layers.insert(0, dotted.encode(level("chance:Q", title=measure), tooltip=tips(("chance", "chance", ".3g"))))
    if x == "cycles" and "own_cycles" in curve.columns and curve["own_cycles"].is_not_null().any():
        layers.insert(0, shade_enlarged(curve["own_cycles"].min(), rows[x].max(), across))
    return layered(*layers, picks=True, title=title, width=320, height=height)


def _visible(field: str, opacity: float = 1) -> alt.OpacityValue:
    """Return an opacity that hides what is not selected.

    For a few models, everything is visible while nothing is selected. For many models, only the selected model is
    visible.
    """
    is_picked = f"datum.model == {PICK}"
    visible = f"{PICK} == '' || {is_picked} || datum.category == {PICK}" if field == "model" else is_picked
    return alt.OpacityValue(0, condition=where(visible, opacity))


def mark_half_cuts(chart: Any, cuts: pl.DataFrame, curve: pl.DataFrame) -> Any:
    """Mark the half-accuracy cutoff of each model on the curves of a filter.

    A ring marks the cutoff at which half of the chance-corrected accuracy is left. A bar is its 95% confidence
    interval, and a dotted line leads to the frequency axis. If there are many models, the rings are small, and the bar
    and the dotted line appear only for the selected model. Cutoffs outside the tested range have no ring, because the
    proportion that is left at the end of the range is not one half.

    Args:
        chart: Result of `curves` for `curve`.
        cuts: Rows of the view `metric` for the half-accuracy cutoff of one filter on one image set.
        curve: Rows of the view `curve` for this filter, with the column `chance` if the chance level is known.
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
    # Use the names of the curves, in the same order, because layers share one color scale.
    color, _ = scales(field, curve.sort("checkpoint")["checkpoint" if field == "model" else field])
    x, y = alt.X("value:Q"), alt.Y("half:Q", title=measure)
    lines = tips("model", ("value", "half is left at (cycles per image)", ".1f"), "low", "high")
    base = plot(rows).encode(color=color, detail=alt.Detail("model:N"), opacity=faded(), tooltip=lines)
    down = base.mark_rule(strokeDash=[2, 2]).encode(x=x, y=y, y2=alt.Y2Datum(0), opacity=_visible(field, 0.5))
    bars = base.mark_rule(strokeWidth=3).encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"), y=y, opacity=_visible(field))
    size, width = (110, 2.5) if field == "model" else (30, 1.5)
    rings = base.mark_point(size=size, strokeWidth=width, fill="white").encode(x=x, y=y)
    chart_with_cuts = chart.copy(deep=False)
    chart_with_cuts.layer = [*chart.layer, down, bars, rings]
    return chart_with_cuts


def probe_panels(
    rows: pl.DataFrame, domain: Domain = (0, 1), cuts: Mapping[str, pl.DataFrame] = MappingProxyType({})
) -> dict[str, Any]:
    """Make the charts of all probes on one image set.

    A probe with two axes gets a heat map for each model and series, for the first `COLORED_MODELS` of them. Any other
    probe gets curves for each series, over cycles/image if the probe acts on one frequency per condition. Settings that
    do not form a curve, because their series has no second value on the axis, are drawn as points. Probes with only one
    setting share a chart.

    Args:
        rows: Rows of the view `curve`, with the facts about conditions that `database.study_versions.with_facts` adds.
        domain: Limits of the accuracy axis.
        cuts: Maps a filter to the rows of the view `metric` for its half-accuracy cutoff, which are marked.

    Returns:
        Maps the title of each chart to the chart.
    """
    panels, single_settings = dict[str, Any](), []
    for (name,), part in rows.sort("place").group_by("probe", maintain_order=True):
        probe = words(str(name))
        if part["y"].is_not_null().any():
            minimum, maximum = part.select(minimum=pl.col("top1").min(), maximum=pl.col("top1").max()).row(0)
            # Scale the colors to the values of each map. The errors under Fourier noise, for example, can all be small.
            reach = domain if minimum is None or minimum == maximum else (minimum, maximum)
            maps = part.sort("checkpoint", "place").group_by("checkpoint", "series", maintain_order=True)
            for key, tiles in list(maps)[:COLORED_MODELS]:
                title = f"{probe}: {', '.join(filter(None, map(str, key)))}"
                panels[title] = condition_map(tiles, title, reach)
            continue
        is_curve = pl.col("x").is_not_null() & (pl.col("x").n_unique().over("series") > 1)
        for (series,), line in part.filter(is_curve).group_by("series", maintain_order=True):
            title, x = ", ".join(filter(None, (probe, str(series)))), "x"
            if line["cycles"].is_not_null().all():
                x = "cycles"
            octaves = x == "cycles" and not line["cuts"].any()
            chart = curves(line, x, str(line["x_title"][0]), title, domain, octaves)
            panels[title] = mark_half_cuts(chart, cuts[str(name)], line) if name in cuts else chart
        has_curve = part.select(is_curve.any()).item()
        settings = part.filter(~is_curve, pl.col("x").is_not_null()) if has_curve else part
        if settings["setting"].n_unique() == 1:
            single_settings.append(settings.with_columns(probe=pl.lit(probe)))
        elif len(settings):
            title = f"{probe}, settings" if probe in panels else probe
            panels[title] = curves(settings, "setting", None, probe, domain, ordered=False)
    if single_settings:
        settings = pl.concat(single_settings)
        title = ", ".join(filter(None, settings.select("probe", "setting").row(0)))
        title = ONE_SETTING if len(single_settings) > 1 else title
        panels[title] = curves(settings, "probe", None, title, domain, ordered=False)
    return panels


def as_errors(rows: pl.DataFrame) -> pl.DataFrame:
    """Replace the accuracy of probes with two axes by the error 1 - top1, as published maps show it."""
    mapped = pl.col("y").is_not_null()
    return rows.with_columns(
        top1=pl.when(mapped).then(1 - pl.col("top1")).otherwise("top1"),
        measure=pl.when(mapped).then(pl.format("1 - {} (share of images)", "measure")).otherwise("measure"),
    )


def diamonds(rows: pl.DataFrame, x: alt.X, y: alt.Y, tooltip: Sequence[alt.Tooltip], fill: str = INK) -> Any:
    """Draw the user's models as diamonds among published models. Hollow diamonds are doubtful values."""
    marks = plot(rows).mark_point(color=INK, shape="diamond", size=110, fill=fill)
    return marks.encode(x=x, y=y, tooltip=list(tooltip))
