"""Report sections on correlations of biases with generalization, and on the models among published ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import altair as alt
import polars as pl

from ...analysis.charts.curves import diamonds
from ...analysis.charts.grammar import INK, layered, plot, tips, words
from ...analysis.charts.maps import correlation_map
from ...analysis.charts.numbers import scatter_points
from ...analysis.correlations.table import HOLDS, correlate_study, model_counts
from ...analysis.correlations.table_inputs import StudyTable
from ...analysis.database.open import open_store
from ...analysis.metrics.base import MEANINGLESS, State
from ...analysis.metrics.families.generalization import ID_ACCURACY
from ...analysis.metrics.registry import MEASURES, label_of, title_of
from ...analysis.published.robustness import study_models
from ...analysis.published.sources import atlas, imagenet_top1, join_study, shipped_values
from ...analysis.published.study_figures import BIASES
from ...analysis.statistics import ALPHA
from ...core.protocol import SPACE_CLASSES, SUBSET_TITLES
from ...core.records import Missing
from .data import ReportData
from .page import Figure, Section, key

MANY_MODELS = 200
"""Number of models above which the intervals are narrow enough to need fewer resamples."""
RESAMPLES, RESAMPLES_OF_MANY = 10_000, 1_000
NARROW_GROUPS = 5
"""Maximum number of groups whose numbers fit on a third of the page width."""
MAP_COLUMNS = ("coefficient", "low", "high", "p", "p_least", "p_holm")
"""Columns that the maps need, even if all values are null."""
MAP_CAPTION = (
    "Spearman's rho; orange is negative, purple positive. Bold with a star: p < 0.05 after Holm's correction for all "
    "{tests} tests. Pale: p ≥ 0.05 even without correction. Hover for the 95 % interval over models."
)
OWN_CAPTION = (
    "Points are the study's 48 models, diamonds and dashed lines are yours: the latter have no accuracy on ImageNet, "
    "measured or published. Hover for what is not named."
)
OWN_HEIGHT, NAME_HEIGHT = 220, 11
"""Height of a chart with the user's models, and of a model name in it, in pixels. Names that do not fit are omitted."""
MEANINGLESS_CAPTION = "Your numbers that mean nothing, of degenerate fits or at chance, are in the table alone."


def correlations_section(results: ReportData) -> Section:
    """Return heat maps of biases against generalization, or an empty section if there is nothing to correlate.

    In that case, the verdict states the reason.
    """
    title, study = "Do biases explain generalization?", results.correlated
    if isinstance(study, Missing):
        return Section("correlations", title, [])
    table = correlations(study)
    models = models_in_words(table.filter(subset="total"))
    text = f"Your {models}: their biases against top-1 on the labelled image sets. {counts(table)}"
    valued = table.filter(pl.col("coefficient").is_not_null().any().over("bias"))
    panels = {
        title: correlation_map(part, f"{title} ({models_in_words(part)})")
        for subset, title in SUBSET_TITLES.items()
        if len(part := valued.filter(pl.col("subset") == subset))
    }
    caption = [MAP_CAPTION.format(tests=table["p"].count()), *_reservations(table)]
    columns = 3 if len(study.groups) <= NARROW_GROUPS else 1
    figure = Figure("own-correlations", "Your models", caption, panels, columns, table)
    return Section("correlations", title, [text], [figure] if panels else [])


def correlations(study: StudyTable) -> pl.DataFrame:
    """Return the rows of `correlate`, without empty columns."""
    many = len(study.frame) > MANY_MODELS
    table = correlate_study(study, resamples=RESAMPLES_OF_MANY if many else RESAMPLES)
    return table.select(name for name in table.columns if name in MAP_COLUMNS or not table[name].is_null().all())


def models_in_words(table: pl.DataFrame) -> str:
    """Describe how many models the coefficients are computed from, for example `4 to 6 models`."""
    ends = dict.fromkeys([model_counts(table)[0], model_counts(table)[-1]])
    return f"{' to '.join(map(str, ends))} {'model' if [*ends] == [1] else 'models'}"


def _reservations(table: pl.DataFrame) -> Iterator[str]:
    """Yield sentences about the limits of few models, and about pairs that are not tested."""
    least = table.drop_nulls("p_least").group_by("n").agg(pl.col("p_least").min()).sort("n")
    for n, p in least.rows():
        limit = ", so none has a star" if p >= ALPHA else ""
        yield f"Over {n} models, p counts all orders (least possible {p:.2g}){limit}, and there is no interval."
    ratios = table.filter("shares_term").select("bias", "group").unique(maintain_order=True)
    if len(ratios):
        pairs = ", ".join(f"{title_of(bias)} with {words(group)}" for bias, group in ratios.rows())
        tie = "a ratio to clean accuracy, or a part of it, which is part of the other number"
        yield f"No star, since the bias is {tie}: {pairs}."


def counts(table: pl.DataFrame) -> str:
    """Return a sentence with the number of correlations, and how many of them are significant."""
    plain, starred = table.select(pl.col("p") < ALPHA, star=HOLDS).sum().row(0)
    return f"Of {table['p'].count()} correlations, {plain} have p < {ALPHA}, and {starred} a star."


def atlas_section(results: ReportData) -> Section:
    """Return the section that shows the user's models among those of the published study."""
    return results.section("atlas", "Among published models", [*_own_figures(results)])


def _own_figures(results: ReportData) -> Iterator[Figure]:
    """Yield a figure of the user's models among published ones, with a panel for each bias that both have, if any."""
    metrics = _own_metrics(results)
    is_sound = ~pl.col("state").is_in(MEANINGLESS)
    choice = results.select_choice(metrics.filter(is_sound))
    if choice.is_empty():
        return
    models = study_models(shipped_values())
    panels = {
        bias: layered(
            scatter_points(models, bias, "imagenet"),
            *_own_marks(choice.filter(metric=bias), bias),
            picks=True,
            title=title_of(bias),
            height=OWN_HEIGHT,
            width=320,
        )
        for bias in BIASES
        if bias in choice["metric"]
    }
    caption = [OWN_CAPTION, *[MEANINGLESS_CAPTION] * (not metrics.select(is_sound.all()).item())]
    picks = key(models.select("category", checkpoint="model"))
    yield Figure("atlas-biases", "Your models among the study's", caption, panels, 2, metrics, **picks)


def _imagenet_accuracies(results: ReportData) -> pl.DataFrame:
    """Return the ImageNet accuracy of the user's models in percent: checkpoint, imagenet, and measured or published."""
    with open_store(results.path, read_only=True) as store:
        values = atlas(store)
        names = join_study(store, results.label, values)
    top1 = results.metrics.filter(metric=ID_ACCURACY).drop_nulls("value").select("checkpoint", "value").rows()
    accuracies = {name: (value, "measured") for name, value in top1}
    for name, model in names.drop_nulls("model").select("checkpoint", "model").rows():
        if name not in accuracies and (value := imagenet_top1(values, model)) is not None:
            accuracies[name] = (value, "published")
    schema = {"checkpoint": pl.String, "imagenet": pl.Float64, "imagenet_is": pl.String}
    return pl.DataFrame([(name, *row) for name, row in accuracies.items()], schema, orient="row")


def _own_metrics(results: ReportData) -> pl.DataFrame:
    """Return the metrics of the user's models that are comparable with published ones, with ImageNet accuracy.

    Metrics in other decision spaces than the published one, and metrics of agreement on images without labels, are not
    comparable.
    """
    sets = results.image_sets.filter("labelled").select(image_set="id", images="name")
    space, integer = pl.col("decision_space"), pl.Int64
    decided = (
        results.cells.select("checkpoint", "image_set", "decision_space")
        .unique(maintain_order=True)
        .join(results.checkpoints.select("name", "classes", checkpoint="id"), on="checkpoint", maintain_order="left")
        .join(sets, on="image_set", maintain_order="left")
        .with_columns(space.replace_strict(SPACE_CLASSES, default=pl.col("classes"), return_dtype=integer).alias("n"))
        .select(checkpoint="name", image_set="images", decided="n")
    )
    classes = {bias: published.classes for bias in BIASES if (published := MEASURES[bias].display.published)}
    published_classes = pl.col("metric").replace_strict(classes, default=None, return_dtype=integer)
    comparable = results.metrics.join(decided, on=("checkpoint", "image_set"), maintain_order="left")
    rows = comparable.filter(pl.col("decided") == published_classes).drop_nulls("value")
    numbers = ("metric", "value", "low", "high", "state", "note", "imagenet", "imagenet_is")
    rows = rows.join(_imagenet_accuracies(results), on="checkpoint", how="left", maintain_order="left")
    return rows.select("checkpoint", "image_set", *numbers)


def _own_marks(metrics: pl.DataFrame, bias: str) -> list[Any]:
    """Draw the user's models: diamonds, hollow if the state is not `ok`, or lines if ImageNet accuracy is unknown."""
    rows = metrics.select("image_set", "value", "state", "imagenet", "imagenet_is", model="checkpoint")
    lines, points = rows.filter(pl.col("imagenet").is_null()), rows.drop_nulls("imagenet")
    x, y, sound = alt.X("value:Q", title=label_of(bias)), alt.Y("imagenet:Q"), pl.col("state") == State.OK
    columns = ("model", "image_set", ("value", "value", ".3f"), "state")
    tooltip = tips(*columns, ("imagenet", "top-1 on ImageNet, %", ".1f"), "imagenet_is")
    # Avoid overlapping names. In order of height, each name pushes those above it up. Lines have no height, so their
    # names are stacked below the upper edge.
    pixels = OWN_HEIGHT / 30 * pl.col("imagenet")
    place = NAME_HEIGHT * pl.int_range(pl.len())
    raised = points.sort("imagenet").with_columns(shift=pixels - place - (pixels - place).cum_max())
    lowered = lines.sort("value").with_columns(shift=place)
    names = [*_names(lowered, x, alt.YValue(8)), *_names(raised, x, y)]  # type: ignore[no-untyped-call]
    return [
        *(names if len(rows) * NAME_HEIGHT <= OWN_HEIGHT else []),
        plot(lines).mark_rule(color=INK, strokeDash=[4, 2]).encode(x=x, tooltip=tips(*columns)),
        diamonds(points.filter(sound), x, y, tooltip),
        diamonds(points.filter(~sound), x, y, tooltip, "white"),
    ]


def _names(rows: pl.DataFrame, x: alt.X, y: Any) -> list[Any]:
    """Draw model names on the side of their marks that has more space, shifted down by `shift` pixels."""
    is_right = "scale('x', datum.value) > width / 2"
    align, dx = (alt.ExprRef(f"{is_right} ? {a} : {b}") for a, b in (("'right'", "'left'"), (-8, 8)))
    text = plot(rows).encode(x=x, y=y, text="model:N", tooltip=alt.TooltipValue(None))
    look = {"align": align, "dx": dx, "dy": alt.ExprRef("datum.shift"), "limit": alt.ExprRef("width / 2 - 8")}
    return [text.mark_text(**look, stroke="white", strokeWidth=2, strokeOpacity=0.7), text.mark_text(**look, color=INK)]
