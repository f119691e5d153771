"""Charts of metrics: points with confidence intervals, noise channels, stacked bars of octaves, and scatter plots."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from ...core.protocol import FREQUENCIES, NOISE_SDS, SIZE
from ..metrics.base import MEANINGLESS, State
from ..metrics.families import critical_band, psychometric
from ..metrics.families.critical_band import FULL_WIDTH, center, gaussian
from ..metrics.families.octaves import SHARES
from ..metrics.registry import MEASURES, label_of, title_of
from .grammar import (
    CYCLES,
    FAINT,
    INK,
    OKABE_ITO,
    faded,
    layered,
    plot,
    scales,
    series_of,
    shade_enlarged,
    tips,
    two_lines,
    where,
    words,
)
from .maps import THRESHOLD_TITLE, octave_names, threshold_rows

ESTIMATORS = {"psychometric": "circle", "published": "square"}
"""Maps an estimator to the shape of its points."""
CHANNELS = {"psychometric": psychometric.NUMBERS, "published": critical_band.NUMBERS}
"""Maps an estimator to the names of its metrics of a noise channel."""
SOUND, DOUBTFUL, VALUELESS = "sound", "doubtful", "no value"
"""How a value is drawn: as a filled point, as a hollow point, or as a cross."""
FLAT_IMAGE = "flat image"
"""Name of the part of a bar that is reached on flat images, which have no frequency but the mean."""
GREY = "#c9c9c9"
OCTAVE_HUES = ("#3b0f70", "#75207f", "#b0357b", "#e34e65", "#f98860", "#fdb97d", "#fce7a5")
"""Colors of the octaves from low (dark) to high frequencies (light). They differ in lightness alone."""
DARK_OCTAVES = 4
"""Number of octaves whose colors need white text."""
LETTERS_WIDTH = 24
"""Width in pixels of a number in a bar."""
NARROW_WIDTH = 340
"""Width in pixels below which a chart has no room for four legend columns."""


def add_estimators(metrics: pl.DataFrame) -> pl.DataFrame:
    """Add the columns that charts need to rows of the view `metric`.

    `number` is the quantity, `mark` tells how the state is drawn, and `estimator` is the estimator of a critical band.
    """
    estimators = {name: measure.display.estimator or None for name, measure in MEASURES.items()}
    numbers = {name: measure.display.quantity for name, measure in MEASURES.items() if measure.display.quantity}
    metric, state = pl.col("metric"), pl.col("state")
    doubt = pl.when(state == State.OK).then(pl.lit(SOUND)).otherwise(pl.lit(DOUBTFUL))
    return metrics.with_columns(
        estimator=metric.replace_strict(estimators, default=None, return_dtype=pl.String),
        number=metric.replace(numbers),
        mark=pl.when(state.is_in(MEANINGLESS)).then(pl.lit(VALUELESS)).otherwise(doubt),
    )


def number_panels(metrics: pl.DataFrame, titles: Mapping[str, str]) -> dict[str, Any]:
    """Make a chart for each quantity of `titles` that at least two models have a value of."""
    values = metrics.filter(pl.col("mark") != VALUELESS).group_by("number").agg(pl.col("checkpoint").n_unique())
    valued = set(values.filter(pl.col("checkpoint") > 1)["number"])
    return {name: number_chart(metrics, name, title) for name, title in titles.items() if name in valued}


def number_chart(metrics: pl.DataFrame, number: str, title: str) -> Any:
    """Plot one quantity of every model on one image set.

    Filled points are reliable, hollow points are doubtful, and a cross at the left means that there is no value.

    Args:
        metrics: Result of `add_estimators` for one image set.
        number: Quantity to plot, from the column `number`.
        title: Title of the chart.
    """
    field = series_of(metrics)
    rows = metrics.filter(pl.col("number") == number).select(
        "category", "value", "low", "high", "estimator", "mark", "state", "note", pl.col("checkpoint").alias("model")
    )
    color, estimators = scales(field, rows[field].sort())[0], rows["estimator"].drop_nulls().n_unique()
    scale = alt.Scale(type="log") if number == "center_frequency" else alt.Scale(zero=True)
    form = alt.Scale(domain=list(ESTIMATORS), range=list(ESTIMATORS.values()))
    point: dict[str, Any] = {"x": alt.X("value:Q", title=None, scale=scale, axis=alt.Axis(tickCount=5))}
    if estimators:
        point["shape"] = alt.Shape("estimator:N", scale=form, legend=None)
    names = ["model", "estimator"] if estimators else ["model"]
    common: dict[str, Any] = {
        # If two studies are shown, labels have the form `NAME in STUDY`. Break them into two lines.
        "y": alt.Y(
            "model:N",
            title=None,
            scale=alt.Scale(domain=rows["model"].unique().sort().to_list()),
            axis=alt.Axis(labelExpr=two_lines("in ")),
        ),
        "color": color.legend(None) if field == "model" else color,  # The axis already names the models.
        "opacity": faded(),
        "tooltip": tips(*names, ("value", "value", ".4g"), "low", "high", "state", "note"),
    }
    if estimators > 1:
        common["yOffset"] = alt.YOffset("estimator:N", scale=alt.Scale(domain=list(ESTIMATORS)))
    interval = {"x": alt.X("low:Q", title=None, scale=scale), "x2": alt.X2("high:Q")}
    cross = {"x": alt.XValue(4), "color": alt.ColorValue(FAINT)}  # type: ignore[no-untyped-call]
    mark = pl.col("mark")
    intervals = rows.filter(mark != VALUELESS).drop_nulls(["low", "high"])
    layers = [
        plot(intervals).mark_rule(strokeWidth=2).encode(**common | interval),
        plot(rows.filter(mark == SOUND)).mark_point(size=60, filled=True).encode(**common | point),
        plot(rows.filter(mark == DOUBTFUL)).mark_point(size=60, fill="white").encode(**common | point),
        plot(rows.filter(mark == VALUELESS)).mark_text(text="×", align="left").encode(**common | cross),
    ]
    height = rows["model"].n_unique() * (
        34 if estimators > 1 else 28 if rows["model"].str.contains(" in ").any() else 22
    )
    return layered(*layers, picks=True, title=title, width=260, height=max(44, height))


def channel_chart(metrics: pl.DataFrame, title: str, size: int = SIZE, own_cycles: float | None = None) -> Any:
    """Plot the noise thresholds of one model with confidence intervals, and the fitted channel.

    The vertical axis is reversed, so higher points mean higher sensitivity to noise. A triangle is a threshold at or
    beyond the end of the tested noise range. If the fit failed, there is no line, and the subtitle gives the reason.

    Args:
        metrics: Rows of the view `metric` for one model and one image set.
        title: Title of the chart.
        size: Side length of the images in pixels.
        own_cycles: Native Nyquist limit of enlarged images in cycles/image. None if no images were enlarged.
    """
    values = {row["metric"]: row for row in add_estimators(metrics).to_dicts()}
    places = {State.CENSORED_BELOW.value: "below", State.CENSORED_ABOVE.value: "above"}
    place = pl.col("state").replace_strict(places, default="met", return_dtype=pl.String)
    points = threshold_rows(metrics.drop_nulls("value"), size).select(
        "cycles", "low", "high", "note", noise_sd="value", place=place
    )
    x = alt.X(
        "cycles:Q",
        title="cycles per image",
        scale=alt.Scale(type="log", base=2, domain=center([-0.43, 6.43], size).tolist()),
        axis=alt.Axis(values=center(FREQUENCIES, size).tolist(), format=".4~g"),
    )
    domain = alt.Scale(type="log", domain=[0.24, 0.008], clamp=True)
    y = alt.Y("noise_sd:Q", title=THRESHOLD_TITLE, scale=domain, axis=alt.Axis(values=[0.01, 0.02, 0.04, 0.08, 0.16]))
    lines = tips(CYCLES, ("noise_sd", "noise_sd", ".3g"), "low", "high", "note")
    form = alt.Scale(domain=["met", "below", "above"], range=["circle", "triangle-up", "triangle-down"])
    ends, shape = alt.Y("low:Q", title=THRESHOLD_TITLE, scale=domain), alt.Shape("place:N", scale=form, legend=None)
    intervals, dots = plot(points.drop_nulls(["low", "high"])), plot(points)
    layers = [
        plot(_bell(values, size)).mark_line(color=OKABE_ITO[0], clip=True, strokeWidth=2).encode(x=x, y=y),
        intervals.mark_rule(strokeWidth=2).encode(x=x, y=ends, y2=alt.Y2("high:Q")),
        dots.mark_point(size=60, filled=True, color=INK, opacity=1).encode(x=x, y=y, shape=shape, tooltip=lines),
    ]
    if own_cycles is not None:
        layers.insert(0, shade_enlarged(own_cycles, float(center(6.43, size)), x))
    fits = [fit for fit in (_fit_in_words(values, estimator) for estimator in CHANNELS) if fit]
    return layered(*layers, title=alt.Title(title, subtitle=fits), width=320, height=220)


def _bell(values: Mapping[str, Mapping[str, Any]], size: int) -> pl.DataFrame:
    """Return the fitted channel as noise_sd over cycles/image. The frame is empty if there is no fit."""
    width, middle, peak = (values.get(name, {}).get("value") for name in psychometric.NUMBERS.values())
    if width is None or middle is None or peak is None:
        return pl.DataFrame()
    f = np.linspace(-0.4, 6.4, 69)
    bell = gaussian(f, math.log2(peak) + 4, math.log2(middle / center(0, size)), width / FULL_WIDTH)
    return pl.DataFrame({"cycles": center(f, size), "noise_sd": NOISE_SDS[-1] * 2**-bell})


def _fit_in_words(values: Mapping[str, Mapping[str, Any]], estimator: str) -> str:
    """Describe an estimator's bandwidth and center, or why there are none. Empty if they were not computed."""
    width, middle = (values.get(CHANNELS[estimator][name]) for name in ("bandwidth", "center_frequency"))
    if width is None or middle is None:
        return ""
    if width["mark"] == VALUELESS:
        return f"× {estimator}: no channel, {width['note']}"
    mark = "○ " if width["mark"] == DOUBTFUL else ""
    return f"{mark}{estimator}: {width['value']:.1f} octaves wide around {middle['value']:.0f} cycles per image"


def octave_bars(metrics: pl.DataFrame, clean: pl.DataFrame, title: str, size: int) -> Any:
    """Plot a bar per model that splits its accuracy into the contributions of octaves.

    A bar starts with the accuracy on flat images. Octaves with a positive contribution follow to the right. Octaves
    with a negative contribution are thin bars that lead back to the left, to a tick at the accuracy on the clean
    images.

    Args:
        metrics: Rows of the view `metric` for one image set.
        clean: Columns checkpoint, top1 and measure for the clean images.
        title: Title of the chart.
        size: Side length of the images in pixels.
    """
    shares = metrics.filter(pl.col("metric").is_in(SHARES), pl.col("value").is_not_null())
    shares = shares.join(clean, on="checkpoint", maintain_order="left")
    models = shares.sort("checkpoint", "metric").group_by("checkpoint", maintain_order=True)
    names = octave_names(size)
    parts = [part for _, model_shares in models for part in _bar_parts(model_shares.to_dicts(), names)]
    rows = pl.DataFrame(parts, infer_schema_length=None)
    hues = {name: hue for name, hue in zip(names, OCTAVE_HUES, strict=True) if name in rows["part"]}
    measure = str(clean["measure"][0])
    legend_columns = alt.ExprRef(f"width < {NARROW_WIDTH} ? 3 : 4")
    base = plot(rows).encode(
        x=alt.X("start:Q", title=measure, scale=alt.Scale(zero=True)),
        x2=alt.X2("end:Q"),
        y=alt.Y("model:N", title=None),
        color=alt.Color(
            "part:N",
            scale=alt.Scale(domain=[FLAT_IMAGE, *hues], range=[GREY, *hues.values()]),
            legend=alt.Legend(title="octave: cycles per image", orient="bottom", columns=legend_columns),
        ),
        tooltip=tips("model", "part", ("value", "owed to it", ".4f"), "low", "high", ("top1", measure, ".4f")),
    )
    adding = base.transform_filter("datum.value >= 0").mark_bar(height=16)
    taking = base.transform_filter("datum.value < 0").mark_bar(height=6, stroke="white", strokeWidth=1)
    total_line = base.mark_tick(thickness=2, size=22, color=INK).encode(
        x=alt.X("top1:Q", title=measure), x2=alt.Undefined, color=alt.ColorValue(INK)
    )
    letters = base.transform_filter("datum.value >= 0").transform_calculate(
        middle="(datum.start + min(datum.end, datum.top1)) / 2"
    )
    is_dark = f"isValid(datum.octave) && datum.octave < {DARK_OCTAVES}"
    has_room = f"scale('x', datum.end) - scale('x', datum.start) >= {LETTERS_WIDTH} ? 1 : 0"
    text = letters.mark_text(fontSize=10, opacity=alt.ExprRef(has_room)).encode(
        x=alt.X("middle:Q", title=measure),
        x2=alt.Undefined,
        text=alt.Text("value:Q", format=".2f"),
        color=alt.ColorValue(INK, condition=where(is_dark, "white")),
    )
    height = max(44, 30 * rows["model"].n_unique())
    return layered(adding, taking, total_line, text, title=title, width=440, height=height)


def _bar_parts(shares: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the parts of one model's bar: flat images, positive contributions, and then negative contributions."""
    top1 = shares[0]["top1"]
    end = top1 - sum(row["value"] for row in shares)
    yield {"model": shares[0]["checkpoint"], "part": FLAT_IMAGE, "start": 0.0, "end": end, "value": end, "top1": top1}
    for row in sorted(shares, key=lambda row: row["value"] < 0):
        start, end, octave = end, end + row["value"], SHARES.index(row["metric"])
        place = {"part": names[octave], "octave": octave, "start": start, "end": end}
        yield {"model": row["checkpoint"]} | place | {name: row[name] for name in ("value", "low", "high", "top1")}


def scatter_points(figures: pl.DataFrame, bias: str, group: str) -> Any:
    """Plot a group's accuracy in percent over a bias metric, with one point per model.

    Args:
        figures: Columns model and category, and the two columns to plot.
        bias: Column of the bias metric.
        group: Column of the group.
    """
    color, shape = scales("category", figures["category"])
    points = plot(figures.select("model", "category", bias, group)).mark_point(size=45, filled=True)
    return points.encode(
        x=alt.X(f"{bias}:Q", title=label_of(bias), scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4)),
        y=alt.Y(f"{group}:Q", title=f"{words(group)}, top-1 %", scale=alt.Scale(zero=False)),
        color=color,
        shape=shape,
        opacity=faded(0.85),
        tooltip=tips("model", "category", (bias, title_of(bias), ".3f"), (group, words(group), ".1f")),
    )
