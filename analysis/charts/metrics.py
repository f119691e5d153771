"""Charts of the view `metric`: thresholds with the channel through them, and every number with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from ...core.protocol import FREQUENCIES, SIZE
from ..measures.base import MEANINGLESS, State
from ..measures.critical_band import FULL_WIDTH, center, gaussian
from ..measures.psychometric import NUMBERS, THRESHOLDS
from ..measures.registry import MEASURES, measure_named
from .palette import OKABE_ITO
from .style import (
    CENTER,
    FAINT,
    INK,
    centers_axis,
    faded,
    inline,
    layered,
    scales,
    shade_enlarged,
    shade_tiles,
    tile_font,
    where,
)

STRONGEST = 0.16
"""The largest noise_sd at which a threshold can be met."""
WEAKEST = 0.02
"""The least noise_sd at which a threshold can be met."""
TITLE = "threshold noise_sd"
ESTIMATORS = {"psychometric": "circle", "published": "square"}
FORMS = alt.Scale(domain=list(ESTIMATORS), range=list(ESTIMATORS.values()))
SOUND = "sound"
"""The mark of a number that is drawn as a filled point."""
WARN = "doubtful"
"""The mark of a number that is drawn as a hollow point."""
NONE = "no value"
"""The mark of a number that is drawn as a cross."""
BEYOND = {State.CENSORED_BELOW: "≤", State.CENSORED_ABOVE: "≥"}
"""State of a threshold beyond the tested noise -> the sign before the end that stands for it."""


def add_estimators(metrics: pl.DataFrame) -> pl.DataFrame:
    """Rows of the view `metric` with `estimator`, `number`, and `mark`: how its state is drawn.

    Only what the critical band gives has an estimator.
    """
    estimators = {name: measure.shown.estimator or None for name, measure in MEASURES.items()}
    numbers = {name: measure.shown.quantity for name, measure in MEASURES.items() if measure.shown.quantity}
    metric = pl.col("metric")
    return metrics.with_columns(
        estimator=metric.replace_strict(estimators, default=None, return_dtype=pl.String),
        number=metric.replace(numbers),
        mark=pl.when(pl.col("state").is_in(MEANINGLESS))
        .then(pl.lit(NONE))
        .when(pl.col("state") == State.OK)
        .then(pl.lit(SOUND))
        .otherwise(pl.lit(WARN)),
    )


def number_panels(metrics: pl.DataFrame, titles: Mapping[str, str], field: str) -> dict[str, Any]:
    """Number -> its chart, of those of `titles` that some model has a value of."""
    valued = set(metrics.filter(pl.col("mark") != NONE)["number"])
    return {name: number_chart(metrics, name, title, field) for name, title in titles.items() if name in valued}


def number_chart(metrics: pl.DataFrame, number: str, title: str, field: str) -> Any:
    """One number of every model: filled points are sound, hollow ones doubtful, a cross at the left is no value.

    `metrics` has the columns of `add_estimators`, for one image set; `field` is the column that points are coloured by.
    """
    rows = metrics.filter(pl.col("number") == number).select(
        "category", "value", "low", "high", "estimator", "mark", "state", "note", pl.col("checkpoint").alias("model")
    )
    estimators = rows["estimator"].drop_nulls().n_unique()
    scale = alt.Scale(type="log") if number == "center_frequency" else alt.Scale(zero=True)
    x = alt.X("value:Q", title=None, scale=scale, axis=alt.Axis(tickCount=5))
    form = alt.Shape("estimator:N", scale=FORMS, legend=None) if estimators else alt.Undefined
    valued = rows.filter(pl.col("mark") != NONE)
    layers: dict[str, tuple[pl.DataFrame, Callable[..., Any], dict[str, Any]]] = {
        "intervals": (valued.drop_nulls(["low", "high"]), alt.Chart.mark_rule, {"strokeWidth": 2}),
        "sound": (valued.filter(pl.col("mark") == SOUND), alt.Chart.mark_point, {"size": 60, "filled": True}),
        "doubtful": (valued.filter(pl.col("mark") == WARN), alt.Chart.mark_point, {"size": 60, "fill": "white"}),
        "none": (rows.filter(pl.col("mark") == NONE), alt.Chart.mark_text, {"text": "×", "align": "left"}),
    }
    places: dict[str, dict[str, Any]] = {
        "intervals": {"x": alt.X("low:Q", title=None, scale=scale), "x2": alt.X2("high:Q")},
        "sound": {"x": x, "shape": form},
        "doubtful": {"x": x, "shape": form},
        "none": {"x": alt.XValue(4), "color": alt.ColorValue(FAINT)},  # type: ignore[no-untyped-call]
    }
    drawn = [
        _number(mark(alt.Chart(inline(part)), **style), rows, field, estimators).encode(**places[name])
        for name, (part, mark, style) in layers.items()
        if len(part)
    ]
    height = rows["model"].n_unique() * (34 if estimators > 1 else 22)
    return layered(*drawn, picks=True, title=title, width=260, height=max(44, height))


def _number(chart: Any, rows: pl.DataFrame, field: str, estimators: int) -> Any:
    """Add what the layers have in common: a line for each model, and what hovering tells."""
    models = sorted(rows["model"].unique())
    return chart.encode(
        y=alt.Y("model:N", title=None, scale=alt.Scale(domain=models)),
        yOffset=alt.YOffset("estimator:N", scale=alt.Scale(domain=list(ESTIMATORS)))
        if estimators > 1
        else alt.Undefined,
        color=scales(field, rows[field].sort())[0],
        opacity=faded(),
        tooltip=[
            alt.Tooltip("model:N"),
            *([alt.Tooltip("estimator:N")] if estimators else []),
            alt.Tooltip("value:Q", format=".4g"),
            alt.Tooltip("low:Q", title="95 % from", format=".4g"),
            alt.Tooltip("high:Q", title="to", format=".4g"),
            alt.Tooltip("state:N"),
            alt.Tooltip("note:N"),
        ],
    )


def threshold_map(metrics: pl.DataFrame, title: str, size: int = SIZE, own_cycles: float | None = None) -> Any:
    """The threshold of every model (down) in every band (across), on one image set; dark is sensitive to noise.

    `size` is that of the images, in pixels a side, and `own_cycles` the highest frequency of enlarged originals.
    """
    beyond = pl.col("state").replace_strict({state.value: sign for state, sign in BEYOND.items()}, default="")
    thresholds = _thresholds(metrics.drop_nulls("value"), size)
    thresholds = thresholds.select("value", "low", "high", "note", "cycles", model="checkpoint", beyond=beyond)
    base = alt.Chart(inline(thresholds)).encode(
        x=alt.X("cycles:O", title=CENTER, axis=centers_axis()),
        y=alt.Y("model:N", title=None),
        tooltip=[
            alt.Tooltip("model:N"),
            alt.Tooltip("cycles:Q", title="cycles per image", format=".4~g"),
            alt.Tooltip("value:Q", title="noise_sd", format=".3g"),
            alt.Tooltip("low:Q", title="95 % from", format=".3g"),
            alt.Tooltip("high:Q", title="to", format=".3g"),
            alt.Tooltip("note:N"),
        ],
    )
    hue = alt.Scale(type="log", scheme="viridis", domain=[WEAKEST, STRONGEST])
    rectangles = base.mark_rect(stroke="white").encode(color=alt.Color("value:Q", title=TITLE, scale=hue, legend=None))
    ink = alt.ColorValue("white", condition=where("datum.value > 0.062", INK))
    font = tile_font(10, thresholds["cycles"].n_unique(), len("≥0.16"))
    text = base.transform_calculate(text="datum.beyond + format(datum.value, '.2f')").mark_text(fontSize=font)
    numbers = text.encode(text=alt.Text("text:N"), color=ink)
    height = max(44, 18 * thresholds["model"].n_unique())
    shades = shade_tiles(base, own_cycles)
    return layered(rectangles, *shades, numbers, title=title, width=440, height=height)


def channel_chart(metrics: pl.DataFrame, title: str, size: int = SIZE, own_cycles: float | None = None) -> Any:
    """Thresholds of one model with their intervals, and the fitted channel; up is more sensitive to noise.

    A triangle is a threshold that lies at or beyond the tested noise. Without a fit there is no line, and the subtitle
    says why. `size` is that of the images, in pixels a side, and `own_cycles` the highest frequency of enlarged
    originals.
    """
    values = {row["metric"]: row for row in add_estimators(metrics).to_dicts()}
    places = {State.CENSORED_BELOW.value: "below", State.CENSORED_ABOVE.value: "above"}
    place = pl.col("state").replace_strict(places, default="met")
    points = _thresholds(metrics, size).select("cycles", "low", "high", "note", noise_sd="value", place=place)
    x = alt.X(
        "cycles:Q",
        title="cycles per image",
        scale=alt.Scale(type="log", base=2, domain=center([-0.43, 6.43], size).tolist()),
        axis=alt.Axis(values=center(FREQUENCIES, size).tolist(), format=".4~g"),
    )
    domain = alt.Scale(type="log", domain=[0.24, 0.008], clamp=True)
    y = alt.Y("noise_sd:Q", title=TITLE, scale=domain, axis=alt.Axis(values=[0.01, 0.02, 0.04, 0.08, 0.16]))
    base = alt.Chart(inline(points)).encode(
        x=x,
        tooltip=[
            alt.Tooltip("cycles:Q", title="cycles per image", format=".4~g"),
            alt.Tooltip("noise_sd:Q", format=".3g"),
            alt.Tooltip("low:Q", title="95 % from", format=".3g"),
            alt.Tooltip("high:Q", title="to", format=".3g"),
            alt.Tooltip("note:N"),
        ],
    )
    form = alt.Scale(domain=["met", "below", "above"], range=["circle", "triangle-up", "triangle-down"])
    dots = base.mark_point(size=60, filled=True, color=INK, opacity=1)
    layers = [dots.encode(y=y, shape=alt.Shape("place:N", scale=form, legend=None))]
    bell, intervals = _bell(values, size), points.drop_nulls(["low", "high"])
    if len(intervals):
        ends = alt.Y("low:Q", title=TITLE, scale=domain)
        rules = alt.Chart(inline(intervals)).mark_rule(strokeWidth=2)
        layers.insert(0, rules.encode(x=x, y=ends, y2=alt.Y2("high:Q")))
    if len(bell):
        line = alt.Chart(inline(bell)).mark_line(color=OKABE_ITO[0], clip=True, strokeWidth=2)
        layers.insert(0, line.encode(x=x, y=y))
    if own_cycles is not None:
        layers.insert(0, shade_enlarged(own_cycles, float(center(6.43, size)), x))
    lines = [line for line in (_line(values, estimator) for estimator in ESTIMATORS) if line]
    return layered(*layers, title=alt.Title(title, subtitle=lines), width=320, height=220)


def _thresholds(metrics: pl.DataFrame, size: int) -> pl.DataFrame:
    """The rows of thresholds, with `cycles` per image."""
    rows = metrics.filter(pl.col("metric").is_in(list(THRESHOLDS)))
    octaves = rows["metric"].replace_strict(THRESHOLDS, return_dtype=pl.Int32)
    return rows.with_columns(cycles=pl.Series(center(octaves.to_numpy(), size)))


def _bell(values: dict[str, dict[str, Any]], size: int) -> pl.DataFrame:
    """The channel as a line of noise_sd over cycles per image; empty where there is no fit."""
    width, middle, peak = (values.get(name, {}).get("value") for name in NUMBERS.values())
    if width is None or middle is None or peak is None:
        return pl.DataFrame()
    f = np.linspace(-0.4, 6.4, 69)
    bell = gaussian(f, math.log2(peak) + 4, math.log2(middle / center(0, size)), width / FULL_WIDTH)
    return pl.DataFrame({"cycles": center(f, size), "noise_sd": STRONGEST * 2**-bell})


def _line(values: dict[str, dict[str, Any]], name: str) -> str:
    """An estimator's bandwidth and centre, or why there are none; empty where it was not computed."""
    width, middle = (values.get(measure_named(number, name)) for number in ("bandwidth", "center_frequency"))
    if width is None or middle is None:
        return ""
    if width["mark"] == NONE:
        return f"× {name}: no channel, {width['note']}"
    mark = "○ " if width["mark"] == WARN else ""
    return f"{mark}{name}: {width['value']:.1f} octaves wide around {middle['value']:.0f} cycles per image"
