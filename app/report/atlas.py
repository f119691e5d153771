"""The atlas in a report: what biases say of accuracy over the study's models, over a thousand, and what is left."""

from __future__ import annotations

from functools import cache

import altair as alt
import polars as pl

from ...analysis.charts.correlations import label, scatter, short
from ...analysis.charts.palette import colors
from ...analysis.charts.style import INK, inline
from ...analysis.correlations.families import pearson
from ...analysis.published.figures import BIASES
from ...analysis.published.relate import fits, ground, relations, with_effective
from ...analysis.published.sources import shipped_values
from .data import ReportData
from .sections import Figure, Section, Table

SHIFTS = ("imagenet-v2", "imagenet-sketch", "imagenet-a", "imagenet-r")


def atlas_section(results: ReportData | None) -> Section:
    """A table of coefficients, and the study's models beside one's own for each bias that both have."""
    table, models, thousand = _table()
    text = (
        "Coefficients are Spearman's, over the study's 48 ResNet-50s: of a bias with accuracy on a benchmark, with "
        "ImageNet accuracy held fixed, within the study's training categories, and of a bias with effective "
        "robustness, which is accuracy beyond the line of the ImageNet testbed's standard models. The last column is "
        f"of {thousand:,} results of timm models: how much of the accuracy on a benchmark their ImageNet accuracy "
        "alone has (R2 on probit axes). Where it has nearly all, a bias that goes with ImageNet accuracy goes with the "
        "benchmark too."
    )
    figures = [] if results is None else _figures(results, models)
    title = "What 48 models say, what a thousand say, and what is left"
    return Section("atlas", "Among a thousand models", [text], figures, [Table(title, table)])


@cache
def _table() -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """The table; the study's 48 models; and the number of results of timm."""
    values = shipped_values()
    study, lines = ground(values, "study"), fits(values, "timm")
    frame, _ = with_effective(study.frame, fits(values))
    rows = []
    for row in relations(study, SHIFTS).to_dicts():
        bias, benchmark = row["bias"], row["benchmark"]
        both = frame.select(bias, beyond=f"effective_{benchmark}").drop_nulls()
        rows.append(
            {
                "bias": short(bias),
                "benchmark": benchmark,
                "48 models": row["overall"],
                "given ImageNet": row["partial"],
                "within categories": row["within"],
                "effective robustness": pearson(*both.select(pl.all().rank()).to_numpy().T),
                "R2 of ImageNet, a thousand": lines[benchmark].r2,
            }
        )
    table = pl.DataFrame(rows).with_columns(pl.col(pl.Float64).round(2))
    return table, frame, lines[SHIFTS[0]].n


def _figures(results: ReportData, models: pl.DataFrame) -> list[Figure]:
    """A panel for each bias that the report's models have a value of: they are lines across the study's points."""
    own = results.metrics.filter(pl.col("metric").is_in(list(BIASES)), pl.col("value").is_not_null())
    panels = []
    for bias in (bias for bias in BIASES if bias in own["metric"]):
        mine = own.filter(metric=bias).select("image_set", "value", model="checkpoint")
        rules = (
            alt.Chart(inline(mine))
            .mark_rule(color=INK, strokeDash=[4, 2])
            .encode(
                x=alt.X("value:Q", title=label(bias)),
                tooltip=[alt.Tooltip("model:N"), alt.Tooltip("image_set:N"), alt.Tooltip("value:Q", format=".3f")],
            )
        )
        points = scatter(models, bias, "imagenet", "")
        panels.append(alt.layer(points, rules).properties(title=short(bias), height=170, width=220))
    if not panels:
        return []
    caption = "Points are the study's 48 models; dashed lines are the biases of yours, on your images. Hover for names."
    legend = colors(models["category"].unique().sort())
    table = own.select("checkpoint", "image_set", "metric", "value", "low", "high", "note")
    return [Figure("atlas-biases", "Your models among the study's", caption, panels, 3, table, legend)]
