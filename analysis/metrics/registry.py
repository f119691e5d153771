"""All measures, in the order in which they are computed and shown, and which of them a study has.

A new measure is a file of the folder `families/` and its row here.
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
"""Numbers of many conditions of one model on one image set."""
CONDITION_MEASURES: Sequence[Measure[CellOutcomes]] = (
    *accuracy.MEASURES,
    *cue_conflict.CONDITION_MEASURES,
    *calibration.MEASURES,
    *accuracy.RANK_MEASURES,
    *label_probability.MEASURES,
    *error_consistency.MEASURES,
    *slices.MEASURES,
)
"""Numbers of every condition of one model on one image set."""
MODEL_MEASURES = error_consistency.MODEL_MEASURES
"""Numbers of every condition of each model beside the others."""
BENCHMARK_MEASURES = generalization.MEASURES
"""Numbers of many image sets of one model."""
_REGISTRY: Sequence[Measure[Any]] = (*MODEL_MEASURES, *CONDITION_MEASURES, *BENCHMARK_MEASURES, *GRID_MEASURES)
MEASURES: Mapping[str, Measure[Any]] = {measure.name: measure for measure in _REGISTRY}
"""Name -> measure; what is a number of a condition and of the clean images too is here as the latter."""


def biases() -> list[str]:
    """Names of the measures that are set against generalization."""
    return [measure.name for measure in GRID_MEASURES if measure.is_bias]


def details() -> list[str]:
    """Names of the measures of single bands or pairs of them, which a summary leaves out."""
    groups = {measure.name: measure.display.group for measure in GRID_MEASURES if not measure.is_bias}
    return [name for name, group in groups.items() if group and group not in MEASURES]


def without_replaced(values: pl.DataFrame) -> pl.DataFrame:
    """Rows with the columns checkpoint, image_set and metric, less those of measures that another one stands for."""
    stands_for = {measure.name: measure.display.stands_for for measure in GRID_MEASURES if measure.display.stands_for}
    replaced = values.select("checkpoint", "image_set", pl.col("metric").replace_strict(stands_for, default=None))
    return values.join(replaced, on=("checkpoint", "image_set", "metric"), how="anti")


def label_of(name: str) -> str:
    """The title of a number in charts and tables; `NAME (IMAGE SET)` is one of several image sets."""
    return _described(name, lambda display: display.label)


def title_of(name: str) -> str:
    """The label without its unit."""
    return _described(name, lambda display: display.title)


def _described(name: str, words: Callable[[Display], str]) -> str:
    measure, bracket, image_set = name.partition(" (")
    return words(MEASURES[measure].display) + bracket + image_set if measure in MEASURES else name.replace("_", " ")


def people_estimates() -> dict[str, Estimate]:
    """Name of each number of GRID_MEASURES that published trials of people have -> the estimate of these people."""
    functions = dict.fromkeys(measure.people for measure in GRID_MEASURES if measure.people)
    return {name: estimate for people in functions for name, estimate in people().items()}


def panel_titles() -> dict[str, str]:
    """The quantities that a report draws, and what their panels are called."""
    displays = (measure.display for measure in GRID_MEASURES)
    return {display.quantity: display.panel or display.label for display in displays if display.quantity}


def measures_in(group: str) -> list[str]:
    """Names of the measures of many conditions that are listed under one name, in their order."""
    return [measure.name for measure in GRID_MEASURES if measure.display.group == group]


# Which measures a study has


@dataclass(frozen=True, slots=True)
class Determined:
    """Measures that a study has together, or not."""

    image_set: str | None
    """None for generalization: accuracies on benchmarks, and means over groups of them."""
    name: str
    """Name of the measure, or what several are called together."""
    metrics: Sequence[str]
    why: str | None
    """Why they will be missing; None where they will be there, as far as the predictions determine them."""

    @property
    def in_words(self) -> str:
        return f"{self.name} on {self.image_set}" if self.image_set else self.name


def lacking(measures: Iterable[Measure[Any]], available: Available) -> dict[str, str | None]:
    """Name of each measure that an image set has, or has some of what it needs -> what is lacking, in words."""
    return {measure.name: measure.needs(available) for measure in measures if measure.applies(available)}


def complete(measures: Iterable[Measure[Read]], *image_sets: Available) -> list[Measure[Read]]:
    """The measures that each of some image sets has all of."""
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
    """List the numbers of many conditions that a study has what they need of, all of it or some.

    Args:
        conditions: what every checkpoint is run on.
        schemes: digest of an image set -> names of the label schemes that it has beside its labels.
        classes: digest of an image set -> the fewest classes that a model decides between on it.
        own_measures: measures of the user's own.
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
    """Measures of one group that lack the same are one entry; otherwise each that lacks something is one by itself."""
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
    """Name of an image set that a study perturbs -> measures of each of its conditions, those of the user's own last.

    `sliced` are digests of image sets with attributes. Means over benchmarks are left out: `determined_metrics` has
    those of the unperturbed images.
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
