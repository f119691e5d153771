"""Models beside each other and beside people: who errs on the same images, and numbers that people have too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl

from ...analysis.charts.curves import curves
from ...analysis.charts.grammar import PEOPLE, SLANTED_COLUMNS, series_of, words
from ...analysis.charts.maps import kappa_map
from ...analysis.charts.numbers import add_estimators, number_chart
from ...analysis.measures.registry import label_of
from .data import ReportData
from .page import Figure, Section, Table, key

OPEN_PANELS = 3
"""Panels of models beside people that are drawn at once."""
KAPPA_TEXT = (
    "Cohen's kappa of right and wrong: 0 for two who err independently of each other, 1 for two who err on the same "
    "images, whatever they answer there. Unequal accuracies allow less than 1, and who makes no error has no kappa. "
    "Over several conditions it is the mean of each condition's."
)
KAPPA_CAPTION = "A tile for every two; hover, or open the table, for intervals and the most that the accuracies allow."
CURVES_CAPTION = "Models with 95 % intervals, and the mean of people, with the least and the most accurate of them."
NUMBERS_CAPTION = (
    "Numbers that published trials of people have, too, by the same estimator. Hollow: to be read with its note "
    "(hover, or the table). ×: no value, or a degenerate fit. People need not have seen the same images."
)


def consistency_section(results: ReportData) -> Section:
    """Kappa of every two subjects on each image set, and accuracy by condition where people saw the images too."""
    figures = [*_kappas(results), *_conditions(results), *_probes(results)]
    table = Table("Every two subjects, by condition", results.consistency, folded=True)
    tables = [table] if len(results.consistency) else []
    return results.section("consistency", "Who errs on the same images", figures, [KAPPA_TEXT], tables=tables)


def _kappas(results: ReportData) -> Iterator[Figure]:
    """Yield a map of the mean kappa over conditions for each image set on which some two have a kappa."""
    table = results.select_choice(results.select_choice(results.consistency, "first_subject"), "second_subject")
    single = pl.len() == 1
    means = table.group_by("images", "first_subject", "second_subject", "humans", maintain_order=True).agg(
        pl.col("kappa").mean(),
        *(pl.when(single).then(pl.col(name).first()).alias(name) for name in ("low", "high", "most")),
        pl.col("n").sum(),
    )
    kappas = means.rename({"first_subject": "first", "second_subject": "second"})
    panels = {
        str(images): kappa_map(rows, str(images))
        for (images,), rows in kappas.group_by("images", maintain_order=True)
        if rows["kappa"].is_not_null().any()
    }
    if panels:
        subjects = pl.concat([means["first_subject"], means["second_subject"]]).n_unique()
        columns = 2 if subjects <= SLANTED_COLUMNS else 1
        yield Figure("error-consistency", "Error consistency", KAPPA_CAPTION, panels, columns, means)


def _conditions(results: ReportData) -> Iterator[Figure]:
    """Yield curves over the conditions of the image sets that have several."""
    rows = _with_people(results.judged.filter(pl.col("condition").n_unique().over("images") > 1))
    panels = {str(images): part for (images,), part in rows.group_by("images", maintain_order=True)}
    caption = f"{CURVES_CAPTION} Conditions are as the experiments name them."
    yield from _subject_figure(results, "accuracy-by-condition", "Accuracy by condition", caption, panels)


def _probes(results: ReportData) -> Iterator[Figure]:
    """Yield a panel for each probe of the experiments with people and each image set that models were run on."""
    setting = pl.col("setting").map_elements("{:g}".format, pl.String)
    rows = results.human_probe.with_columns(setting.alias("condition"))
    people, panels = rows.filter("human"), {}
    for (images, probe), models in rows.filter(~pl.col("human")).group_by("images", "probe", maintain_order=True):
        if len(observers := people.filter(probe=probe)):
            subjects = _with_people(pl.concat([observers.with_columns(images=pl.lit(images)), models]))
            panels[f"{words(str(probe))} on {images}"] = subjects.with_columns(probe=pl.lit(probe))
    caption = f"{CURVES_CAPTION} The photographs need not be those that people saw."
    yield from _subject_figure(results, "people-and-probes", "Models and people under probes", caption, panels)


def _with_people(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of images, condition, subject, top1, low, high, n: all observers together, then each model.

    Conditions are in the order of the first number in their names.
    """
    top1 = pl.col("top1")
    people = (
        rows.filter("human")
        .group_by("images", "condition", maintain_order=True)
        .agg(pl.lit(PEOPLE).alias("subject"), top1.mean(), low=top1.min(), high=top1.max(), n=pl.col("n").sum())
    )
    number = pl.col("condition").str.extract(r"(\d+(?:\.\d+)?)").cast(pl.Float64)
    subjects = pl.concat([people, rows.filter(~pl.col("human")).select(people.columns)])
    return subjects.sort("images", "subject", number, "condition", nulls_last=True)


def _subject_figure(
    results: ReportData, name: str, title: str, caption: str, panels: Mapping[str, pl.DataFrame]
) -> Iterator[Figure]:
    """Yield the figure of these panels, if any: accuracy by condition, a line a subject."""
    if not panels:
        return
    table = pl.concat(panels.values())
    is_person = pl.col("subject") == PEOPLE
    lines = {
        panel: results.select_choice(rows, "subject").select(
            *("condition", "top1", "low", "high", "n"),
            checkpoint="subject",
            category=pl.when(is_person).then(pl.lit(PEOPLE)).otherwise(pl.lit("models")),
            clean_top1=pl.lit(None, pl.Float64),
            measure=pl.lit("accuracy"),
        )
        for panel, rows in panels.items()
    }
    charts = {panel: curves(rows, "condition", "condition", panel) for panel, rows in lines.items()}
    yield Figure(name, title, caption, charts, 2, table, **key(pl.concat(lines.values())))


def people_figures(results: ReportData, image_set: str, number: int) -> Iterator[Figure]:
    """Yield the numbers that models on an image set and people both have: a panel with a line for each."""
    benchmark = results.image_sets.filter(name=image_set)["benchmark"][0]
    observers = results.observers.filter(benchmark=benchmark).with_columns(
        state=pl.lit("ok"), category=pl.lit(PEOPLE), human=pl.lit(True)
    )
    names = observers["metric"].to_list()
    models = results.metrics.filter(pl.col("image_set") == image_set, pl.col("metric").is_in(names))
    means = results.human_metric.filter(pl.col("human") | (pl.col("images") == image_set))
    columns = ("metric", "value", "low", "high", "note", "state", "category", "human")
    rows = pl.concat(
        [
            means,
            models.with_columns(human=pl.lit(False)).select(*columns, subject="checkpoint", images="image_set"),
            observers.select(*columns, subject="model", images="benchmark"),
        ],
        how="diagonal",
    )
    table = rows.sort("metric", "human", "subject").filter(~pl.col("human").all().over("metric"))
    choice = results.select_choice(add_estimators(table.rename({"subject": "checkpoint"})))
    panels = {
        label_of(metric): number_chart(choice, metric, label_of(metric), series_of(choice))
        for metric in choice["metric"].unique(maintain_order=True)
    }
    if panels:
        name, title = f"beside-people-{number}", f"Models on {image_set} beside people"
        folded = len(panels) > OPEN_PANELS
        yield Figure(name, title, NUMBERS_CAPTION, panels, 3, table, **key(choice), folded=folded)
