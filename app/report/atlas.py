"""The atlas in a report: what biases say of accuracy over the study's models, over a thousand, and what is left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import altair as alt
import polars as pl

from ...analysis.charts.curves import accuracy_lines, diamonds
from ...analysis.charts.grammar import INK, colors, layered, plot, tips
from ...analysis.charts.numbers import scatter_points
from ...analysis.correlations.families import pearson
from ...analysis.measures.base import MEANINGLESS, State
from ...analysis.measures.critical_band import RAW
from ...analysis.measures.generalization import ID_ACCURACY
from ...analysis.measures.psychometric import NUMBERS
from ...analysis.measures.registry import MEASURES, label_of, title_of
from ...analysis.published.figures import BIASES
from ...analysis.published.imports import INTEGER
from ...analysis.published.relate import (
    EVERYWHERE,
    baseline_lines,
    ground,
    imagenet_top1,
    line_rows,
    networks,
    relations,
    training_lines,
    training_points,
    with_effective,
)
from ...analysis.published.sources import shipped_values
from ...core.protocol import SPACE_CLASSES
from .data import ReportData
from .sections import Figure, Section, Table


def atlas_section(results: ReportData | None) -> Section:
    """A table of coefficients, and published models beside one's own for each bias that both have."""
    table, models, thousand = _published_relations()
    text = (
        "Coefficients are Spearman's, over the study's 48 ResNet-50s: of a bias with accuracy on a benchmark, with "
        "ImageNet accuracy held fixed, within the study's training categories, and of a bias with accuracy "
        "beyond the line of the ImageNet testbed's 87 standard models, over 1,000 classes and on probit axes. That is "
        "effective robustness, but not as the testbed defines it for A and R, which needs accuracy over their 200 "
        "classes; the study has none. The last column is "
        f"of {thousand:,} results of timm models: how much of the accuracy on a benchmark their ImageNet accuracy "
        "alone has (R2 on probit axes). Where it has nearly all, a bias that goes with ImageNet accuracy goes with the "
        "benchmark too."
    )
    figures = [_training_figure(results), *([] if results is None else _figures(results, models))]
    choice = results.choice if results else []
    title = "What 48 models say, what a thousand say, and what is left"
    return Section("atlas", "Among a thousand models", [text, *choice], figures, [Table(title, table)])


def _training_figure(results: ReportData | None) -> Figure:
    """A panel for each benchmark with the line of each way of training, and one's own models that have accuracies."""
    points = training_points()
    models = points.clear().select("benchmark", "imagenet", "accuracy", model="training")
    if results is not None:
        drawn = results.seen(results.metrics.filter(pl.col("image_set").is_null()).drop_nulls("value"))
        clean = drawn.filter(metric="top1_imagenet").select("checkpoint", imagenet="value")
        top1 = drawn.with_columns(benchmark=pl.col("metric").str.strip_prefix("top1_")).join(
            clean, on="checkpoint", maintain_order="left"
        )
        models = top1.select("benchmark", "imagenet", accuracy="value", model="checkpoint")
    panels = {
        shift: accuracy_lines(points.filter(benchmark=shift), models.filter(benchmark=shift), shift)
        for shift in EVERYWHERE
    }
    caption = (
        "Each line is fitted on probit axes to published models of one way of training, over the accuracies that these "
        "have. ImageNet accuracy says what to expect within a way of training, and not across. Diamonds are your "
        "models that have both accuracies."
    )
    return Figure("atlas-training", "Accuracy by way of training", caption, panels, 2, _training_table())


@cache
def _training_table() -> pl.DataFrame:
    """A row for each line of a way of training."""
    lines = training_lines(shipped_values())
    rows = [{"training": way, **row} for way, of_way in lines.items() for row in line_rows(of_way)]
    table = pl.DataFrame(rows).filter(pl.col("benchmark").is_in(EVERYWHERE)).drop("over", "up_to", "above")
    return table.with_columns(pl.col("slope", "intercept", "r2", "spearman").round(3))


@cache
def _published_relations() -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """The table; the study's 48 models; and the number of results of timm."""
    values = shipped_values()
    study, lines = ground(values, "study"), baseline_lines(values, "timm")
    frame, _ = with_effective(study.frame, baseline_lines(values, "standard"))
    rows = []
    for row in relations(study, EVERYWHERE).to_dicts():
        bias, benchmark = row["bias"], row["benchmark"]
        complete = frame.select(bias, beyond=f"effective_{benchmark}").drop_nulls()
        rows.append(
            {
                "bias": title_of(bias),
                "benchmark": benchmark,
                "48 models": row["overall"],
                "given ImageNet": row["partial"],
                "within categories": row["within"],
                "beyond the line (baseline standard)": pearson(*complete.select(pl.all().rank()).to_numpy().T),
                "R2 of ImageNet, a thousand": lines[benchmark].lines[0].r2,
            }
        )
    table = pl.DataFrame(rows).with_columns(pl.col(pl.Float64).round(2))
    return table, frame, lines[EVERYWHERE[0]].lines[0].n


NETWORK_CLASSES = SPACE_CLASSES["sixteen"]
"""Classes that the networks with critical-band trials decided between."""
NETWORKS = {INTEGER: RAW, "psychometric": NUMBERS}
"""Estimator of the networks with critical-band trials -> number -> one's own measure by it."""


def _figures(results: ReportData, models: pl.DataFrame) -> Iterator[Figure]:
    """A panel for each bias that the report's models and published ones have; one's own are black diamonds.

    A model of one's own without accuracy on ImageNet, measured or published, is a line across the panel.
    """
    study = {bias: models.select("model", "category", "imagenet", bias) for bias in BIASES}
    classes = {bias: published.classes for bias in BIASES if (published := MEASURES[bias].shown.published)}
    caption = "Points are the study's 48 models, {}. Hover for names."
    own = _own_metrics(results, classes)
    if figure := _figure("atlas-biases", "Your models among the study's", caption, own, study, results):
        yield figure
    if results.atlas.filter(source="critical-band").is_empty():
        return
    points = {}
    for estimator, measures in NETWORKS.items():
        frame = networks(results.atlas, estimator).frame.with_columns(category=pl.lit("network"))
        for name, metric in measures.items():
            points[metric] = frame.select("model", "category", "imagenet", pl.col(name).alias(metric))
    caption = "Points are networks of Subramanian et al. 2023 with published accuracies, {}. Hover for names."
    own = _own_metrics(results, dict.fromkeys(points, NETWORK_CLASSES))
    if figure := _figure("atlas-networks", "Your models among many architectures", caption, own, points, results):
        yield figure


def _figure(
    name: str,
    title: str,
    caption: str,
    metrics: pl.DataFrame,
    points: Mapping[str, pl.DataFrame],
    results: ReportData,
) -> Figure | None:
    meaningful = ~pl.col("state").is_in(MEANINGLESS)
    drawn = results.seen(metrics.filter(meaningful))
    if drawn.is_empty():
        return None
    panels = {
        bias: layered(
            scatter_points(points[bias], bias, "imagenet"),
            *_marks(drawn.filter(metric=bias), bias),
            picks=True,
            title=title_of(bias),
            height=170,
            width=220,
        )
        for bias in points
        if bias in drawn["metric"]
    }
    yours = "diamonds and dashed lines are yours: the latter have no accuracy on ImageNet, measured or published"
    if not metrics.select(meaningful.all()).item():
        yours += ". Your numbers that mean nothing, of degenerate fits or at chance, are in the table alone"
    categories = pl.concat([frame["category"] for frame in points.values()]).unique().sort()
    if len(categories) < 2:
        return Figure(name, title, caption.format(yours), panels, 3, metrics)
    models = pl.concat([frame["model"] for frame in points.values()]).unique().sort().to_list()
    return Figure(name, title, caption.format(yours), panels, 3, metrics, colors(categories), models)


def _own_metrics(results: ReportData, classes: Mapping[str, int]) -> pl.DataFrame:
    """One's own metrics with top-1 on ImageNet in percent: one's own, or else published, as imagenet_is tells.

    classes: metric -> the classes that published models decided between; decisions between others are left out, since
    they are not comparable, and so are numbers of agreement, which images without labels have.
    """
    labelled = results.image_sets.filter("labelled")["name"].to_list()
    metrics = results.metrics.join(results.decided, on=("checkpoint", "image_set"), maintain_order="left").filter(
        pl.col("image_set").is_in(labelled),
        pl.col("classes") == pl.col("metric").replace_strict(classes, default=None, return_dtype=pl.Int64),
    )
    measured = dict(results.metrics.filter(metric=ID_ACCURACY).drop_nulls("value").select("checkpoint", "value").rows())
    published = {
        name: imagenet_top1(results.atlas, model)
        for name, model in results.joined.drop_nulls("model").select("checkpoint", "model").rows()
        if name not in measured
    }
    known = pl.DataFrame(
        [
            *((name, value, "measured") for name, value in measured.items()),
            *((name, value, "published") for name, value in published.items() if value is not None),
        ],
        {"checkpoint": pl.String, "imagenet": pl.Float64, "imagenet_is": pl.String},
        orient="row",
    )
    rows = metrics.drop_nulls("value").join(known, on="checkpoint", how="left", maintain_order="left")
    numbers = ("metric", "value", "low", "high", "state", "note", "imagenet", "imagenet_is")
    return rows.select("checkpoint", "image_set", *numbers)


def _marks(metrics: pl.DataFrame, bias: str) -> Iterator[Any]:
    """One's own models in a panel: diamonds, hollow in doubt, where their accuracy is known, else lines."""
    rows = metrics.select("image_set", "value", "state", "imagenet", "imagenet_is", model="checkpoint")
    number, x = ("value", "value", ".3f"), alt.X("value:Q", title=label_of(bias))
    lines, placed = rows.filter(pl.col("imagenet").is_null()), rows.drop_nulls("imagenet")
    if len(lines):
        rules = plot(lines).mark_rule(color=INK, strokeDash=[4, 2])
        yield rules.encode(x=x, tooltip=tips("model", "image_set", number, "state"))
    accuracy = ("imagenet", "top-1 on ImageNet, %", ".1f")
    sound = pl.col("state") == State.OK
    for part, fill in ((placed.filter(sound), INK), (placed.filter(~sound), "white")):
        if len(part):
            tooltip = tips("model", "image_set", number, "state", accuracy, "imagenet_is")
            yield diamonds(part, x, alt.Y("imagenet:Q"), tooltip, fill)
