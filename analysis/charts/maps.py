"""Heat maps: a tile for each value of a pair, such as a model and a frequency band, or two octaves."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from ...core.protocol import NOISE_SDS, OCTAVES, SIZE, octave_edges
from ..correlations.table import HOLDS
from ..metrics.base import State
from ..metrics.families.critical_band import center
from ..metrics.families.psychometric import THRESHOLDS
from ..metrics.registry import title_of
from ..statistics import ALPHA
from .grammar import (
    BELOW,
    CENTER,
    COLORED_MODELS,
    CYCLES,
    IMAGES,
    SLANTED_COLUMNS,
    Domain,
    both_ways,
    dark_to_light,
    names_axis,
    signed,
    tile_map,
    tips,
    two_lines,
    words,
)

THRESHOLD_TITLE = "threshold noise_sd"
BEYOND = {State.CENSORED_BELOW: "≤", State.CENSORED_ABOVE: "≥"}
"""Maps the state of a threshold outside the tested noise range to the sign before its value."""
COEFFICIENTS = {"spearman": "Spearman's rho", "pearson": "Pearson's r"}
"""Maps the column `method` of `correlate` to the name of its coefficient."""
ABOVE = alt.Axis(labelAngle=40, labelAlign="right", labelOverlap=False, orient="top", domain=False, ticks=False)
"""Axis of names above the columns.

They slant toward the corner above the row names, because narrow charts cut them off on the other side.
"""
PLAIN = alt.Axis(domain=False, ticks=False)
"""Axis without lines."""
WITH_IMAGE_SET = alt.Axis(domain=False, ticks=False, labelExpr=two_lines("("))
"""Axis of bias metrics, with the image set on a second line."""
CENTERS_AXIS = alt.Axis(labelAngle=0, format=".4~g", titleAnchor="end")
"""Axis of noise bands. Its title can be wider than the chart, and the center frequencies are not always integers."""


def threshold_rows(metrics: pl.DataFrame, size: int) -> pl.DataFrame:
    """Select the noise thresholds from rows of the view `metric`, and add `cycles`, their frequency in cycles/image."""
    rows = metrics.filter(pl.col("metric").is_in(list(THRESHOLDS)))
    octaves = rows["metric"].replace_strict(THRESHOLDS, return_dtype=pl.Int32)
    return rows.with_columns(cycles=pl.Series(center(octaves.to_numpy(), size)))


def threshold_map(metrics: pl.DataFrame, title: str, size: int = SIZE, own_cycles: float | None = None) -> Any:
    """Draw the noise threshold of every model (rows) in every frequency band (columns).

    Dark tiles mean high sensitivity to noise.

    Args:
        metrics: Rows of the view `metric` for one image set.
        title: Title of the chart.
        size: Side length of the images in pixels.
        own_cycles: Native Nyquist limit of enlarged images in cycles/image. None if no images were enlarged.
    """
    rows = threshold_rows(metrics.drop_nulls("value"), size)
    text = [BEYOND.get(state, "") + signed(value) for state, value in rows.select("state", "value").rows()]
    rows = rows.select(
        "value", "low", "high", "note", "cycles", model="checkpoint", text=pl.Series(text, dtype=pl.String)
    )
    return tile_map(
        rows,
        title,
        (440, max(44, 18 * rows["model"].n_unique())),
        (alt.X("cycles:O", title=CENTER, axis=CENTERS_AXIS), alt.Y("model:N", title=None)),
        dark_to_light("value", [NOISE_SDS[1], NOISE_SDS[-1]], 0.062, THRESHOLD_TITLE, type="log"),
        tips("model", CYCLES, ("value", "noise_sd", ".3g"), "low", "high", "note"),
        own_cycles,
    )


def band_map(curve: pl.DataFrame, title: str) -> Any:
    """Draw the accuracy of one model under a probe that acts on frequency bands, by band (columns) and series (rows).

    Rows without a value of `x` are the probe's images without perturbation. Frequencies above the native Nyquist limit
    of enlarged images are shaded if the rows have the column `own_cycles`.
    """
    noisy = curve.filter(pl.col("x").is_not_null() & pl.col("top1").is_not_null()).sort("place")
    quiet = curve.filter(pl.col("x").is_null())["top1"].drop_nulls()
    measure, text = str(curve["measure"][0]), pl.Series(map(signed, noisy["top1"]), dtype=pl.String)
    series = noisy["series"].unique(maintain_order=True).reverse().to_list()
    return tile_map(
        noisy.select("series", "setting", "cycles", "top1", "low", "high", text=text),
        alt.Title(title, subtitle=f"{measure}; without noise {quiet[0]:.2f}" if len(quiet) else measure),
        (320, 220),
        (
            alt.X("cycles:O", title=str(noisy["x_title"][0]) if len(noisy) else None, axis=CENTERS_AXIS),
            alt.Y("series:O", title=None, sort=series),
        ),
        dark_to_light("top1", [0, 1], 0.55, measure),
        tips(CYCLES, "setting", ("top1", measure, ".3f"), "low", "high"),
        curve["own_cycles"].min() if "own_cycles" in curve.columns else None,
    )


def condition_map(curve: pl.DataFrame, title: str, domain: Domain = (0, 1)) -> Any:
    """Draw the metric of one model under a probe with two axes, one tile per condition.

    A condition of a point-symmetric probe is drawn twice, at (x, y) and at (-x, -y).

    Args:
        curve: Rows of the view `curve` for one model, with the facts about conditions.
        title: Title of the chart.
        domain: Limits of the color scale.
    """
    rows = curve.select("x", "y", "mirrored", "setting", "top1").drop_nulls()
    opposite = rows.filter("mirrored").with_columns(-pl.col("x", "y"))
    # Adding 0.0 turns -0.0 into 0.0. Otherwise the axis would have both.
    rows = pl.concat([rows, opposite]).with_columns(pl.col("x", "y") + 0.0).unique(["x", "y"], maintain_order=True)
    x_title, y_title, measure = curve.select("x_title", "y_title", "measure").row(0)
    return tile_map(
        rows.drop("mirrored").sort("y", "x"),
        title,
        (320, 320),
        (
            alt.X("x:O", title=x_title, axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            alt.Y("y:O", title=y_title, axis=alt.Axis(labelOverlap=True)),
        ),
        dark_to_light("top1", domain, 0, measure, BELOW),
        tips("setting", ("top1", measure, ".3f")),
        gap=0,
    )


def difference_map(rows: pl.DataFrame, title: str, reach: float) -> Any:
    """Draw the changes in top-1 accuracy under one probe by condition (rows) and model (columns).

    Args:
        rows: Columns model, condition, before, after, difference (in percentage points), low and high (its 95%
            confidence interval), p_holm, and differs. Tiles that differ have a star.
        title: Title of the chart.
        reach: Difference at the ends of the color scale, which is symmetric around 0.
    """
    models = rows["model"].n_unique()
    is_small = models <= 2 * COLORED_MODELS
    if is_small:
        text = [signed(points, "+z.1f", star) for points, star in rows.select("difference", "differs").rows()]
        rows = rows.with_columns(pl.Series("text", text), bold="differs")
    points = [("before", "before", ".1f"), ("after", "after", ".1f"), ("difference", "points", "+.2f")]
    return tile_map(
        rows,
        title,
        (320, 16 * rows["condition"].n_unique()),
        (alt.X("model:N", title=None, axis=names_axis(models)), alt.Y("condition:N", sort=None, title=None)),
        both_ways("difference", reach, "points", None if is_small else BELOW),
        tips("model", "condition", *points, "low", "high", ("p_holm", "p after Holm", ".2g")),
    )


def kappa_map(rows: pl.DataFrame, title: str) -> Any:
    """Draw the error consistency of every pair of observers.

    Pairs without a kappa have no tile.

    Args:
        rows: Columns first, second, kappa, low, high, most and n.
        title: Title of the chart.
    """
    order = list(dict.fromkeys([*rows["first"], *rows["second"]]))
    tiles = rows.drop_nulls("kappa")
    if len(order) <= SLANTED_COLUMNS:
        tiles = tiles.with_columns(text=pl.Series(map(signed, tiles["kappa"]), dtype=pl.String))
    ceiling = ("most", "the most that they allow", ".3f")
    return tile_map(
        tiles,
        title,
        (320, 16 * max(6, rows["second"].n_unique())),
        (
            alt.X("first:N", sort=order, title=None, axis=names_axis(len(order))),
            alt.Y("second:N", sort=order, title=None),
        ),
        dark_to_light("kappa", [0, 1], 0.55, legend=BELOW, clamp=True),
        tips("first", "second", ("kappa", "kappa", ".3f"), "low", "high", ceiling, IMAGES),
    )


def correlation_map(table: pl.DataFrame, title: str) -> Any:
    """Draw correlations by bias metric (rows) and generalization group (columns).

    A star and bold type mark p_holm < 0.05, except for metrics that share a term with their group. Tiles with an
    uncorrected p of at least 0.05 are pale.

    Args:
        table: Rows of `correlate` for one subset.
        title: Title of the chart.
    """
    holds = HOLDS.fill_null(value=False).alias("holds")
    rows = table.select("coefficient", "low", "high", "p", "p_least", "p_holm", "n", bold=holds).with_columns(
        bias=pl.Series([title_of(name) for name in table["bias"]]),
        group=pl.Series([words(name) for name in table["group"]]),
        pale=(pl.col("p") >= ALPHA).fill_null(value=True),
        text=pl.Series([signed(rho, star=star) for rho, star in table.select("coefficient", holds).rows()]),
    )
    coefficient = ("coefficient", COEFFICIENTS[table["method"][0]], ".3f")
    least = [("p_least", "least possible p", ".2g")] * bool(rows["p_least"].count())
    tests = [("p", "p", ".2g"), *least, ("p_holm", "p, after Holm", ".2g"), ("n", "models", "d")]
    return tile_map(
        rows,
        title,
        (300, 30 * table["bias"].n_unique()),
        (
            alt.X("group:N", sort=None, title=None, axis=ABOVE),
            alt.Y("bias:N", sort=None, title=None, axis=WITH_IMAGE_SET),
        ),
        both_ways("coefficient", 1, "rho"),
        tips("bias", "group", coefficient, "low", "high", *tests),
        gap=2,
    )


def octave_names(size: int) -> list[str]:
    """Return labels of the octaves with their edges in cycles/image, for images of `size` pixels a side."""
    edges = octave_edges(size)
    return [
        f"{octave}: {high}" if high <= low + 1 else f"{octave}: {low + 1} to {high}"
        for octave, low, high in zip(OCTAVES, edges[:-1], edges[1:], strict=True)
    ]


def pair_map(pairs: pl.DataFrame, title: str, size: int, reach: float) -> Any:
    """Draw the Shapley interactions of all pairs of octaves for one model.

    Purple (positive) means that both octaves are needed together, orange (negative) that either one suffices. Tiles
    whose confidence interval includes 0 are pale.

    Args:
        pairs: Rows of the view `metric` for one model and one image set.
        title: Title of the chart.
        size: Side length of the images in pixels.
        reach: Interaction at the ends of the color scale, which is symmetric around 0. Use one value for models that
            are compared.
    """
    edges = dict(zip(OCTAVES, octave_names(size), strict=True))
    rows = pairs.with_columns(first=pl.col("metric").str.slice(-3, 1), second=pl.col("metric").str.slice(-1))
    rows = rows.select(
        *("value", "low", "high", "first", "second"),
        pale=(pl.col("low") <= 0) & (pl.col("high") >= 0),
        text=pl.Series(map(signed, pairs["value"]), dtype=pl.String),
        names=pl.format("{} and {}", pl.col("first").replace(edges), pl.col("second").replace(edges)),
    )
    return tile_map(
        rows,
        title,
        (260, 190),
        (
            alt.X("second:O", title="octave", axis=alt.Axis(labelAngle=0, domain=False, ticks=False)),
            alt.Y("first:O", title="octave", axis=PLAIN),
        ),
        both_ways("value", max(0.01, reach)),
        tips("names", ("value", "interaction", ".4f"), "low", "high"),
    )
