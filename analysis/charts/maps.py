"""Maps: a tile for each number that two things have together, such as a model and a band, or two octaves."""

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
"""State of a threshold beyond the tested noise -> the sign before the end that stands for it."""
COEFFICIENTS = {"spearman": "Spearman's rho", "pearson": "Pearson's r"}
"""The column `method` of `correlate` -> what its coefficient is called."""
ABOVE = alt.Axis(labelAngle=40, labelAlign="right", labelOverlap=False, orient="top", domain=False, ticks=False)
"""Names above columns, aslant towards the corner that the names of the rows leave empty: a narrow chart cuts others."""
PLAIN = alt.Axis(domain=False, ticks=False)
WITH_IMAGE_SET = alt.Axis(domain=False, ticks=False, labelExpr=two_lines("("))
"""Names of biases, with the image set in a line of its own."""
CENTERS_AXIS = alt.Axis(labelAngle=0, format=".4~g", titleAnchor="end")
"""The axis of bands of noise, whose title is longer than some maps are wide; centres need not be round numbers."""


def threshold_rows(metrics: pl.DataFrame, size: int) -> pl.DataFrame:
    """The rows of thresholds among those of the view `metric`, with `cycles` per image."""
    rows = metrics.filter(pl.col("metric").is_in(list(THRESHOLDS)))
    octaves = rows["metric"].replace_strict(THRESHOLDS, return_dtype=pl.Int32)
    return rows.with_columns(cycles=pl.Series(center(octaves.to_numpy(), size)))


def threshold_map(metrics: pl.DataFrame, title: str, size: int = SIZE, own_cycles: float | None = None) -> Any:
    """The threshold of every model (down) in every band (across), on one image set; dark is sensitive to noise.

    `size` is that of the images, in pixels a side, and `own_cycles` the highest frequency of enlarged originals.
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
    """Accuracy of one model under a probe that acts on bands of frequencies: their centres across, its series down.

    Rows without a place on the axis are the probe's own images without perturbation. Frequencies that
    enlarged originals do not have are shaded where the rows have `own_cycles`.
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
    """The measure of one model under a probe with two axes, a tile for each condition; colours run over `domain`.

    A mirrored probe has each condition twice, at (x, y) and at (-x, -y).
    """
    rows = curve.select("x", "y", "mirrored", "setting", "top1").drop_nulls()
    opposite = rows.filter("mirrored").with_columns(-pl.col("x", "y"))
    # Zero has no sign on an axis.
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
    """Change of top-1 in percentage points of one probe: a tile for each condition (down) and model (across).

    `rows` has model, condition, before, after, difference, low and high (the ends of its 95 % interval), p_holm, and
    differs, which stars a tile; colours run from -reach to reach.
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
    """A tile for every two subjects: first, second, kappa, low, high, most, n of each; who has no kappa has no tile."""
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
    """Tiles of biases (down) by generalization groups (across), from rows of `correlate` of one subset.

    A star and bold type mark p_holm < 0.05, but no bias that shares a term with its group; what has p >= 0.05 without
    any correction is pale.
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
    """The octaves with their edges in cycles per image, at images of `size` pixels a side."""
    edges = octave_edges(size)
    return [
        f"{octave}: {high}" if high <= low + 1 else f"{octave}: {low + 1} to {high}"
        for octave, low, high in zip(OCTAVES, edges[:-1], edges[1:], strict=True)
    ]


def pair_map(pairs: pl.DataFrame, title: str, size: int, reach: float) -> Any:
    """The interactions of each two octaves of one model; purple needs both, orange either does.

    `pairs` are rows of the view `metric` of one model on one image set; those whose interval holds 0 are pale. The
    scale of colours reaches from -`reach` to `reach`, and is the same for models that have it in common.
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
