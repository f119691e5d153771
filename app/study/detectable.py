"""The smallest differences between two models that a study would most likely find: `analysis.statistics.power`.

Accuracies: the paired intervals of earlier runs in the database, scaled to the images of the study; without such, two
models differ on 10 % of the images, and the images of a cluster count as one. Biases and kappas: the intervals of
earlier runs, taken as independent, so that the figure is at most as large as told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import polars as pl

from ...analysis.comparison.cells import pair_cells
from ...analysis.correlations.model_values import FEWEST_MODELS
from ...analysis.database.store import Store
from ...analysis.measures.registry import MEASURES, STAND_INS, Determined
from ...analysis.statistics.power import (
    DISCORDANCE,
    design_effect,
    detected_widths,
    smallest_correlation,
    smallest_tested_difference,
)
from ...core.protocol import GROUPS
from ...probes.images.image_set import ImageSet
from .resolve import Work

MOST_SETS, MOST_PAIRS, MOST_CONDITIONS = 3, 2, 6
"""How many image sets, pairs of models and conditions of each tell how often two models differ."""
SPREADS = {"digest": pl.String, "measure": pl.String, "width": pl.Float64, "discordance": pl.Float64}
"""Columns on earlier runs: `width` is that of the 95 % interval of a difference, times the root of its images."""
STORED_SPREADS = """
SELECT digest, metric AS measure, median((high - low) * sqrt(2 * count)) AS width
FROM measure_value JOIN image_set ON image_set.id = image_set
WHERE state = 'ok' AND high > low AND metric <> 'accuracy' GROUP BY ALL
"""
"""Accuracies are left out, since two models are paired on the same images: see `_accuracy_spreads`."""
STORED_CELLS = """
SELECT DISTINCT cell, clean_cell, image_set_id, detail.labelled, itself, digest, checkpoint_id, probe, parameters
FROM study_detail AS detail JOIN image_set ON image_set.id = image_set_id WHERE NOT itself ORDER BY ALL
"""
KAPPAS = {name for name, measure in MEASURES.items() if measure.display.unit == "kappa"}
"""Measures of error consistency, whose spread is that of each condition."""


@dataclass(frozen=True, slots=True)
class Detectable:
    """The smallest difference of two models, or correlation, that 80 % of such studies find at 5 % after Holm."""

    image_set: str | None
    """None for correlations, which are over models."""
    measure: str
    difference: float
    """In the unit of the measure; for a correlation its size."""
    tests: int
    """The number of tests that Holm's method corrects for."""
    basis: str
    """The source of the standard error, in words."""

    def __str__(self) -> str:
        unit = MEASURES[self.measure].display.unit if self.measure in MEASURES else ""
        if unit == "share" and self.difference > 1:
            return f"{self.measure} none"
        return f"{self.measure} {self.difference:.2g} {unit if unit not in ('share', 'kappa') else ''}".rstrip()


def detectable_differences(
    work: Work, metrics: Sequence[Determined], condition_metrics: Mapping[str, Sequence[str]], store: Store | None
) -> list[Detectable]:
    """List them for the accuracy on each image set, for biases and kappas with earlier runs, and for correlations.

    Args:
        work: the study.
        metrics: the numbers of many conditions that it has what they need of, or lacks something of.
        condition_metrics: name of an image set -> the numbers of each of its conditions.
        store: the database of earlier runs, where there is one.
    """
    spreads = pl.DataFrame(schema=SPREADS)
    if store is not None:
        frames = (spreads, store.frame(STORED_SPREADS), *_accuracy_spreads(store, work))
        spreads = pl.concat(frames, how="diagonal_relaxed")
    determined = [(row.image_set, name) for row in metrics if not row.why for name in row.metrics]
    biases = [
        (image_set, name)
        for image_set, name in determined
        if image_set and _is_bias(name) and (image_set, STAND_INS.get(name)) not in determined
    ]
    models = {images.info.digest: set[str]() for images in work.image_sets}
    for cell in work.cells:
        models[cell.image_set.digest].add(cell.model.sha256)
    cells = len({(cell.image_set.digest, cell.condition.digest) for cell in work.cells})
    rows: list[Detectable] = []
    for images in work.image_sets:
        name = images.info.name
        if len(models[images.info.digest]) < 2:
            continue
        rows.append(_detectable_accuracy(images, _spread(spreads, images, "accuracy"), cells))
        biases_of_set = [bias for image_set, bias in biases if image_set == name]
        kappas = [metric for metric in condition_metrics.get(name, ()) if metric in KAPPAS]
        for metric, tests in (dict.fromkeys(biases_of_set, len(biases_of_set)) | dict.fromkeys(kappas, cells)).items():
            width, _ = _spread(spreads, images, metric)
            if width is not None:
                difference = width * detected_widths(tests)
                rows.append(Detectable(name, metric, difference, tests, "intervals of earlier runs"))
    groups = [metric for image_set, metric in determined if image_set is None and metric in GROUPS]
    tests = len(biases) * (len(groups) or sum(images.info.labelled for images in work.image_sets))
    if len(work.models) >= FEWEST_MODELS and tests:
        smallest = smallest_correlation(len(work.models), tests)
        rows.append(Detectable(None, "correlation", smallest, tests, f"{len(work.models)} models"))
    return rows


def _is_bias(metric: str) -> bool:
    """Whether it is a bias; a measure of the user's own is."""
    return metric not in MEASURES or MEASURES[metric].is_bias


def _spread(spreads: pl.DataFrame, images: ImageSet, measure: str) -> tuple[float | None, float | None]:
    """The width of an interval on these images, and the discordance: those of the same images, or else of all."""
    measure_spreads = spreads.filter(measure=measure)
    set_spreads = measure_spreads.filter(digest=images.info.digest)
    row = (measure_spreads if set_spreads.is_empty() else set_spreads).select(pl.median("width", "discordance")).row(0)
    return (None if row[0] is None else row[0] / sqrt(images.info.count)), row[1]


def _detectable_accuracy(images: ImageSet, spread: tuple[float | None, float | None], tests: int) -> Detectable:
    width, discordance = spread
    if width is None:
        effect = design_effect(images.clusters)
        difference = smallest_tested_difference(images.info.count, DISCORDANCE, tests, effect)
        return Detectable(images.info.name, "accuracy", difference, tests, f"discordance {DISCORDANCE:.0%}, assumed")
    difference = width * detected_widths(tests) + 1 / images.info.count
    return Detectable(images.info.name, "accuracy", difference, tests, f"discordance {discordance:.1%} in earlier runs")


def _accuracy_spreads(store: Store, work: Work) -> Iterator[pl.DataFrame]:
    """Rows of SPREADS for the accuracies of some pairs of models under some conditions of earlier runs."""
    cells = store.frame(STORED_CELLS)
    digests = [images.info.digest for images in work.image_sets]
    study_cells = cells.filter(pl.col("digest").is_in(digests))
    source_cells = cells if study_cells.is_empty() else study_cells
    for _, set_cells in list(source_cells.group_by("image_set_id", maintain_order=True))[:MOST_SETS]:
        models = set_cells.partition_by("checkpoint_id", maintain_order=True)
        for cells_a, cells_b in list(pairwise(models))[:MOST_PAIRS]:
            settings_a, settings_b = (
                side.unique(["probe", "parameters"], maintain_order=True) for side in (cells_a, cells_b)
            )
            pairs = settings_a.join(settings_b, on=["probe", "parameters"], suffix="_b", maintain_order="left")
            if pairs.is_empty():
                continue
            pairs = pairs.gather_every(max(1, len(pairs) // MOST_CONDITIONS)).head(MOST_CONDITIONS)
            rows = pair_cells(store, store, pairs).rows.filter(pl.col("low").is_not_null())
            yield rows.select(
                digest=pl.lit(set_cells["digest"][0]),
                measure=pl.lit("accuracy"),
                width=(pl.col("high") - pl.col("low")) * pl.col("n").sqrt(),
                discordance=(pl.col("lost") + pl.col("gained")) / pl.col("n"),
            )
