"""List of all metrics, in the order in which they are computed and displayed, and which of them a study can compute.

To add a metric, add a file to the folder `families/` and list it here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import polars as pl

from ...core.protocol import CLASSES
from ...core.records import MULTILABEL, Cell, Condition, ImageSetInfo, Model
from . import slices
from .base import Available, Display, Estimate, Measure, Read
from .families import (
    accuracy,
    calibration,
    critical_band,
    cue_conflict,
    error_consistency,
    generalization,
    half_accuracy_cutoff,
    label_probability,
    octaves,
    psychometric,
    spectral_bias,
)
from .predictions import CellOutcomes, Outcomes

GRID_MEASURES: Sequence[Measure[Outcomes]] = (
    *spectral_bias.MEASURES,
    *half_accuracy_cutoff.MEASURES,
    *critical_band.MEASURES,
    *psychometric.MEASURES,
    *cue_conflict.MEASURES,
    *octaves.MEASURES,
)
"""Metrics computed from many conditions of one model on one image set."""
CONDITION_MEASURES: Sequence[Measure[CellOutcomes]] = (
    *accuracy.MEASURES,
    *cue_conflict.CONDITION_MEASURES,
    *calibration.MEASURES,
    *accuracy.RANK_MEASURES,
    *label_probability.MEASURES,
    *error_consistency.MEASURES,
    *slices.MEASURES,
)
"""Metrics computed for every single condition of one model on one image set."""
MODEL_MEASURES = error_consistency.MODEL_MEASURES
"""Metrics computed for every condition by comparing each model with the others."""
BENCHMARK_MEASURES = generalization.MEASURES
"""Metrics of one model over many image sets."""
_REGISTRY: Sequence[Measure[Any]] = (*MODEL_MEASURES, *CONDITION_MEASURES, *BENCHMARK_MEASURES, *GRID_MEASURES)
MEASURES: Mapping[str, Measure[Any]] = {measure.name: measure for measure in _REGISTRY}
"""Name -> metric. If a condition metric and a grid metric have the same name, this is the grid metric."""


def biases() -> list[str]:
    """Return the names of the metrics that `correlate` relates to generalization."""
    return [measure.name for measure in GRID_MEASURES if measure.is_bias]


def details() -> list[str]:
    """Return the names of metrics of single bands or pairs of bands, which summaries omit."""
    groups = {measure.name: measure.display.group for measure in GRID_MEASURES if not measure.is_bias}
    return [name for name, group in groups.items() if group and group not in MEASURES]


def without_replaced(values: pl.DataFrame) -> pl.DataFrame:
    """Remove rows of metrics that are replaced by another one, such as uncorrected by chance-corrected biases.

    `values` needs the columns checkpoint, image_set and metric.
    """
    stands_for = {measure.name: measure.display.stands_for for measure in GRID_MEASURES if measure.display.stands_for}
    replaced = values.select("checkpoint", "image_set", pl.col("metric").replace_strict(stands_for, default=None))
    return values.join(replaced, on=("checkpoint", "image_set", "metric"), how="anti")


def label_of(name: str) -> str:
    """Return the title of a metric with its unit. `NAME (IMAGE SET)` refers to one of several image sets."""
    return _described(name, lambda display: display.label)


def title_of(name: str) -> str:
    """Return the title of a metric without its unit."""
    return _described(name, lambda display: display.title)


def _described(name: str, words: Callable[[Display], str]) -> str:
    measure, bracket, image_set = name.partition(" (")
    return words(MEASURES[measure].display) + bracket + image_set if measure in MEASURES else name.replace("_", " ")


def people_estimates() -> dict[str, Estimate]:
    """Return the estimates for human observers from published trials, for the grid metrics that have them."""
    functions = dict.fromkeys(measure.people for measure in GRID_MEASURES if measure.people)
    return {name: estimate for people in functions for name, estimate in people().items()}


def panel_titles() -> dict[str, str]:
    """Return the quantities that a report plots, with the titles of their panels."""
    displays = (measure.display for measure in GRID_MEASURES)
    return {display.quantity: display.panel or display.label for display in displays if display.quantity}


def measures_in(group: str) -> list[str]:
    """Return the names of the grid metrics in a group, in their order."""
    return [measure.name for measure in GRID_MEASURES if measure.display.group == group]


# Which metrics a study can compute


@dataclass(frozen=True, slots=True)
class Determined:
    """One or several metrics that a study can compute, or cannot compute for the same reason."""

    image_set: str | None
    """Name of the image set. None for generalization: accuracies on benchmarks and means over groups of them."""
    name: str
    """Name of the metric, or of the group of metrics."""
    metrics: Sequence[str]
    why: str | None
    """Reason why they will be missing. None if they can be computed, provided that the predictions determine them."""

    @property
    def in_words(self) -> str:
        return f"{self.name} on {self.image_set}" if self.image_set else self.name


def lacking(measures: Iterable[Measure[Any]], available: Available) -> dict[str, str | None]:
    """Return the applicable metrics by name, each with what is missing for it, or None if it is complete."""
    return {measure.name: measure.needs(available) for measure in measures if measure.applies(available)}


def complete(measures: Iterable[Measure[Read]], *image_sets: Available) -> list[Measure[Read]]:
    """Return the metrics that apply to every given image set and whose requirements are all met."""
    return [
        measure
        for measure in measures
        if all(measure.applies(available) and not measure.needs(available) for available in image_sets)
    ]


def determined_metrics(
    conditions: Iterable[tuple[ImageSetInfo, Condition]],
    schemes: Mapping[str, Collection[str]],
    own_measures: Sequence[Measure[Outcomes]] = (),
    classes: Mapping[str, int] | None = None,
) -> list[Determined]:
    """List the metrics over many conditions for which a study has all or some of the required conditions.

    Args:
        conditions: Image sets and conditions that every checkpoint is run on.
        schemes: Digest of an image set -> names of its label schemes other than its main labels.
        own_measures: Custom metrics.
        classes: Digest of an image set -> smallest number of classes that a model decides between on it.

    Returns:
        Metrics with the same group and the same reason share one entry.
    """
    by_set: dict[ImageSetInfo, list[Condition]] = {}
    for images, condition in conditions:
        by_set.setdefault(images, []).append(condition)
    determined: list[Determined] = []
    for images, set_conditions in by_set.items():
        available = Available(
            set_conditions, schemes.get(images.digest, ()), images.labelled, (classes or {}).get(images.digest, CLASSES)
        )
        determined += _together(images.name, (*GRID_MEASURES, *own_measures), available)
    benchmarks = generalization.benchmarks_of_sets(by_set, schemes)
    return determined + list(_together(None, BENCHMARK_MEASURES, Available(benchmarks=benchmarks)))


def _together(image_set: str | None, measures: Sequence[Measure[Any]], available: Available) -> Iterator[Determined]:
    """Yield one entry per group if its metrics miss the same, otherwise one for each metric that misses something."""
    lacks = lacking(measures, available)
    applicable = [measure for measure in measures if measure.name in lacks]
    for group, grouped in groupby(applicable, lambda measure: measure.display.group or measure.name):
        names = [measure.name for measure in grouped]
        reasons = {lacks[name] for name in names}
        if len(reasons) == 1:
            name = names[0] if len(names) == 1 and None not in reasons else group
            yield Determined(image_set, name, tuple(names), *reasons)
            continue
        if determined := tuple(name for name in names if not lacks[name]):
            yield Determined(image_set, group, determined, None)
        for name in names:
            if lacks[name]:
                yield Determined(image_set, name, (name,), lacks[name])


def condition_metrics(
    cells: Iterable[Cell],
    schemes: Mapping[str, Collection[str]],
    own_measures: Sequence[Measure[CellOutcomes]] = (),
    sliced: Collection[str] = (),
) -> dict[str, list[str]]:
    """Return the metrics that are computed for each condition, by the name of each image set that a study perturbs.

    Custom metrics are last. Means over benchmarks are omitted, because `determined_metrics` lists those for the clean
    images.

    Args:
        cells: Cells of the study.
        schemes: Digest of an image set -> names of its label schemes other than its main labels.
        own_measures: Custom metrics.
        sliced: Digests of the image sets whose images have attributes.
    """
    models: dict[ImageSetInfo, set[Model]] = {}
    for cell in cells:
        if cell.condition.probe != "clean":
            models.setdefault(cell.image_set, set()).add(cell.model)
    metrics: dict[str, list[str]] = {}
    for images, set_models in models.items():
        available = Available(
            (),
            schemes.get(images.digest, ()),
            images.labelled,
            checkpoints=len(set_models),
            sliced=images.digest in sliced,
            multilabel=images.decision_space == MULTILABEL,
        )
        measures: Sequence[Measure[Any]] = (*CONDITION_MEASURES, *MODEL_MEASURES, *own_measures)
        metrics[images.name] = [measure.name for measure in complete(measures, available)]
    return metrics
