"""The critical band: accuracy under band noise, thresholds, the channel through them, and every number."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from ...analysis.charts.grammar import series_of
from ...analysis.charts.maps import band_map, threshold_map
from ...analysis.charts.numbers import add_estimators, channel_chart, number_chart, number_panels
from ...analysis.measures.psychometric import THRESHOLDS
from ...analysis.measures.registry import MEASURES, label_of, panel_titles, without_replaced
from .accuracy import in_bands, key, perturbed_sets
from .data import ReportData
from .sections import METRIC_COLUMNS, Figure, Section

MOST_DRAWN = 3
"""Panels of models beside people that are drawn at once."""
FEW = 6
"""Models whose heat maps are drawn at once; those of more are drawn when a reader opens them."""
BAND_CAPTION = (
    "Fields: {measure} under octave-band noise, on images made grey and of low contrast; noise_sd is about the "
    "standard deviation of the noise, where pixels go from 0 to 1. Points: the noise_sd at which half is lost, with "
    "95 % intervals; the curve is the channel fitted through them, and up is more sensitive. Triangles: beyond the "
    "tested noise. ○ doubtful, × no channel: the numbers of that fit mean nothing."
)
MAP_CAPTION = (
    "Dark: little noise in this band is enough to lose half of the accuracy. ≤ and ≥: beyond the tested noise. Hover "
    "for 95 % intervals."
)
NUMBERS_CAPTION = (
    "Lines are 95 % intervals over images. Filled: sound. Hollow: to be read with its note (hover, or the table). "
    "×: no value, or a degenerate fit. Of a channel, squares are the published estimator, which has no interval, and "
    "circles the psychometric one."
)

PEOPLE_CAPTION = (
    "Numbers that published trials of people have, too, by the same estimator. Hollow: to be read with its note "
    "(hover, or the table). ×: no value, or a degenerate fit. People need not have seen the same images."
)


def band_section(results: ReportData) -> Section:
    """Heat map and channel of each model on each image set."""
    figures = [
        figure for number, name, rows in perturbed_sets(results.curve) for figure in _bands(results, rows, name, number)
    ]
    text = [_not_computed(results)] if results.metrics.is_empty() else results.choice
    return Section("critical-band", "Critical band", text if figures else [], figures)


def numbers_section(results: ReportData) -> Section:
    """Each metric of each model, with its interval."""
    names = results.metrics["image_set"].drop_nulls().unique().sort()  # generalization has none
    if names.is_empty():
        return Section("numbers", "Biases and channels", [_not_computed(results)])
    figures, titles = [], panel_titles() | results.own_titles
    drawn = [name for name, measure in MEASURES.items() if measure.shown.quantity] + [*results.own_titles]
    for place, name in enumerate(names, 1):
        of_set = results.metrics.filter(pl.col("image_set") == name, pl.col("metric").is_in(drawn))
        metrics = results.seen(add_estimators(without_replaced(of_set)))
        field = series_of(metrics)
        panels = number_panels(metrics, titles, field)
        table = results.metrics.filter(pl.col("image_set") == name).select(METRIC_COLUMNS)
        heading = f"Every number on {name}"
        figures.append(Figure(f"numbers-{place}", heading, NUMBERS_CAPTION, panels, 3, table, **key(metrics)))
        figures += _beside_people(results, name, place)
    return Section("numbers", "Biases and channels", results.choice, figures)


def _beside_people(results: ReportData, image_set: str, place: int) -> Iterator[Figure]:
    """Each number that models on an image set and people both have: a panel with a line for each."""
    rows = results.human_metric.filter(pl.col("human") | (pl.col("images") == image_set))
    rows = pl.concat([rows, _observed(results, image_set)], how="diagonal").sort("metric", "human", "subject")
    table = rows.filter(~pl.col("human").all().over("metric"))
    if table.is_empty():
        return
    metrics = results.seen(add_estimators(table.rename({"subject": "checkpoint"})))
    field = series_of(metrics)
    panels = {
        label_of(metric): number_chart(metrics, metric, label_of(metric), field)
        for metric in metrics["metric"].unique(maintain_order=True)
    }
    yield Figure(
        f"beside-people-{place}",
        f"Models on {image_set} beside people",
        PEOPLE_CAPTION,
        panels,
        3,
        table,
        **key(metrics),
        folded=len(panels) > MOST_DRAWN,
    )


def _observed(results: ReportData, image_set: str) -> pl.DataFrame:
    """The numbers that models on an image set and single people have, where trials with its stimuli are imported.

    Rows have the columns of the view human_metric.
    """
    benchmark = results.image_sets.filter(name=image_set)["benchmark"][0]
    people = results.atlas.filter(source="humans", benchmark=benchmark)
    models = results.metrics.filter(
        pl.col("image_set") == image_set, pl.col("metric").is_in(people["metric"].to_list())
    )
    columns = ("metric", "value", "low", "high", "note")
    return pl.concat(
        [
            models.select(*columns, "state", "category", subject="checkpoint", images="image_set", human=pl.lit(False)),
            people.select(
                *columns,
                state=pl.lit("ok"),
                category=pl.lit("humans"),
                subject="model",
                images="benchmark",
                human=pl.lit(True),
            ),
        ],
        how="diagonal",
    )


def _bands(results: ReportData, rows: pl.DataFrame, image_set: str, number: int) -> Iterator[Figure]:
    band = rows.filter(in_bands())
    if band.is_empty():
        return
    metrics = results.metrics.filter(pl.col("image_set") == image_set)
    thresholds = metrics.filter(pl.col("metric").is_in(list(THRESHOLDS)))
    models = results.seen(band)["checkpoint"].unique().sort().to_list()
    size, own_cycles = results.image_sets.filter(pl.col("name") == image_set).select("size", "own_cycles").row(0)
    panels = {}
    for model in models:
        panels[model] = band_map(band.filter(pl.col("checkpoint") == model), model)
        if model in thresholds["checkpoint"]:
            title = f"{model}: thresholds and channel"
            panels[title] = channel_chart(metrics.filter(pl.col("checkpoint") == model), title, size, own_cycles)
    if len(models) > 1 and len(thresholds):
        overview = threshold_map(
            results.seen(metrics), "noise_sd at which half of the accuracy without noise is left", size, own_cycles
        )
        listed = thresholds.select(METRIC_COLUMNS)
        yield Figure(
            f"thresholds-{number}", f"Thresholds on {image_set}", MAP_CAPTION, {"thresholds": overview}, 1, listed
        )
    caption = BAND_CAPTION.format(measure=band["measure"][0])
    table = band.sort("checkpoint", "place").select("checkpoint", "setting", "cycles", "top1", "low", "high", "n")
    yield Figure(
        f"critical-band-{number}", f"Band noise on {image_set}", caption, panels, 2, table, folded=len(models) > FEW
    )


def _not_computed(results: ReportData) -> str:
    return (
        f"The metrics are not computed yet; run `bandlens analyze --db {results.path.name}` and write the report again."
    )
