"""All measures of a study, from the predictions in the database and back into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ..database.store import Store
from ..statistics.arrays import Mask
from ..statistics.shares import Share, mean_interval, share_of
from .base import Estimate, Measure, Options, State, less_clean, nothing
from .generalization import BenchmarkOutcomes, perturbed_estimates, read_benchmarked, read_perturbed
from .outcomes import KEYS, CellOutcomes, Images, Outcomes, Predictions, Subject, subjects
from .registry import BENCHMARK_MEASURES, CONDITION_MEASURES, GRID_MEASURES, MODEL_MEASURES, lacking

CONDITION = ("condition_id", "probe", "parameters")
SCHEMA = {
    **{name: pl.Int32 if name.endswith("_id") else pl.String for name in (*KEYS, "condition_id")},
    **dict.fromkeys(("probe", "parameters", "metric"), pl.String),
    "n": pl.Int64,
    **dict.fromkeys(("value", "low", "high", "difference", "difference_low", "difference_high"), pl.Float64),
    **dict.fromkeys(("state", "note"), pl.String),
}
"""Columns of the values of a study. The condition is null for numbers of many conditions, and the image set for means
over benchmarks."""
Row = dict[str, Any]
DEFAULTS = Options()


def compute_measures(
    store: Store, study: str, options: Options = DEFAULTS, advance: Callable[[float], None] = lambda _: None
) -> pl.DataFrame:
    """Compute the measures of a study (name, name@version, or `*` for the newest of all) and keep them.

    Args:
        store: open for writing.
        study: name, name@version, or `*`.
        options: how to estimate.
        advance: called once a checkpoint and image set.

    Returns:
        The columns of SCHEMA: first the rows without a condition, then those with one.
    """
    predictions = Predictions(store)
    values = [
        row
        for study_subjects in _by_study(store, study)
        for row in _of_study(predictions, study_subjects, options, advance)
    ]
    frame = pl.DataFrame(sorted(values, key=lambda row: "condition_id" in row), SCHEMA)
    store.write_values(frame)
    return frame


def metrics_of(values: pl.DataFrame) -> pl.DataFrame:
    """Select the numbers of many conditions: the columns of the view `metric`, with the keys in the database."""
    return values.filter(pl.col("condition_id").is_null()).select(
        *KEYS, "metric", "value", "low", "high", "state", "note"
    )


def condition_metrics_of(values: pl.DataFrame) -> pl.DataFrame:
    """Select the numbers of single conditions."""
    return values.filter(pl.col("condition_id").is_not_null())


def _by_study(store: Store, study: str) -> Iterator[list[Subject]]:
    return (list(group) for _, group in groupby(subjects(store, study), lambda subject: subject.study_id))


def _of_study(
    predictions: Predictions,
    study_subjects: Sequence[Subject],
    options: Options,
    advance: Callable[[float], None],
) -> Iterator[Row]:
    study_id = study_subjects[0].study_id
    benchmarked, perturbed = read_benchmarked(predictions.store, study_id), read_perturbed(predictions.store, study_id)
    answers = Answers()
    for checkpoint_id, of_checkpoint in groupby(study_subjects, lambda subject: subject.checkpoint_id):
        for subject in of_checkpoint:
            outcomes = predictions.outcomes(subject)
            keys = _keys(subject, KEYS)
            yield from (keys | row for row in (*_grid_rows(outcomes, options), *_condition_rows(outcomes, options)))
            answers.add(outcomes)
            advance(1)
        keys = _keys(subject, KEYS[:4])
        on_benchmarks = BenchmarkOutcomes(predictions, benchmarked, checkpoint_id)
        under_conditions = {
            setting: BenchmarkOutcomes(predictions, of_setting, checkpoint_id)
            for setting, of_setting in perturbed.items()
        }
        yield from (
            keys | _row(name, estimate) for name, estimate in _estimates(BENCHMARK_MEASURES, on_benchmarks, options)
        )
        for setting, name, estimate in perturbed_estimates(under_conditions):
            yield keys | dict(zip(CONDITION, setting, strict=True)) | _row(name, estimate)
        predictions.forget()
    yield from answers.rows()


def _keys(subject: Subject, names: Iterable[str]) -> Row:
    return {name: getattr(subject, name) for name in names}


def _row(name: str, estimate: Estimate) -> Row:
    return {"metric": name} | estimate.row()


def _estimates(measures: Iterable[Measure[Any]], read: Any, options: Options) -> Iterator[tuple[str, Estimate]]:
    """The estimates of measures, each function called once."""
    for function in dict.fromkeys(measure.estimates for measure in measures if measure.estimates):
        yield from function(read, options).items()


def _grid_rows(outcomes: Outcomes, options: Options) -> Iterator[Row]:
    """Rows of the columns from metric on. A bias that lacks a condition has a row that says so."""
    lacks = lacking(GRID_MEASURES, outcomes.available)
    asked = [measure for measure in GRID_MEASURES if measure.name in lacks]
    for measure in asked:
        if (why := lacks[measure.name]) and measure.is_bias:
            yield _row(measure.name, nothing(State.MISSING, why))
    determined = [measure for measure in asked if not lacks[measure.name]]
    for name, estimate in _estimates(determined, outcomes, options):
        if not lacks.get(name):
            yield _row(name, estimate)


def _condition_rows(outcomes: Outcomes, options: Options) -> Iterator[Row]:
    """Rows of the columns from condition_id on, for every condition."""
    asked = [measure for measure in CONDITION_MEASURES if measure.asked(outcomes.available)]
    clean = outcomes.clean
    clean_shares = {measure.name: _share(measure, clean) for measure in asked} if clean else {}
    for stored, cell in outcomes.cells.items():
        keys = dict(zip(CONDITION, (stored.condition_id, stored.condition.probe, stored.parameters), strict=True))
        for measure in asked:
            if measure.values:
                compared = None if cell.is_clean or not measure.against_clean else clean_shares.get(measure.name)
                if estimate := _mean_estimate(measure, cell, compared):
                    yield keys | _row(measure.name, estimate)
        for name, estimate in _estimates(asked, cell, options):
            yield keys | _row(name, estimate)


def _share(measure: Measure[CellOutcomes], cell: CellOutcomes) -> Share | None:
    values = measure.values(cell) if measure.values else None
    return None if values is None else values.share(cell.images.clusters)


def _mean_estimate(measure: Measure[CellOutcomes], cell: CellOutcomes, clean: Share | None) -> Estimate | None:
    """The estimate of a mean over images, and its difference from that of the clean images."""
    values = measure.values(cell) if measure.values else None
    if values is None:
        return None
    share = values.share(cell.images.clusters)
    if share is None:
        return nothing(State.UNDETERMINED, values.uncounted, 0)
    return measure.judge(cell, less_clean(share, clean))


@dataclass
class Answers:
    """What every model has right under each condition: kept as bits until all models are read."""

    _of_set: dict[int, dict[tuple[int, str, str], list[tuple[int, Subject, NDArray[np.uint8]]]]] = field(
        default_factory=dict
    )
    _images: dict[int, Images] = field(default_factory=dict)

    def add(self, outcomes: Outcomes) -> None:
        images, subject = outcomes.images, outcomes.subject
        if not images.labelled:
            return
        self._images[subject.image_set_id] = images
        conditions = self._of_set.setdefault(subject.image_set_id, {})
        for stored, cell in outcomes.cells.items():
            if cell.right is not None:
                key = (stored.condition_id, stored.condition.probe, stored.parameters)
                answers = conditions.setdefault(key, [])
                answers.append((stored.cell, subject, np.packbits(cell.right[images.judged])))

    def rows(self) -> Iterator[Row]:
        """Whole rows of each model beside the others, for each condition that several models ran."""
        for image_set, conditions in sorted(self._of_set.items()):
            images = self._images[image_set]
            clean: dict[str, Mapping[int, Share]] = {}
            for key in sorted(conditions, key=lambda key: (key[1] != "clean", key[0])):
                answers = sorted(conditions[key], key=lambda answer: answer[0])
                if len(answers) < 2:
                    continue
                subjects_of_cells = [subject for _, subject, _ in answers]
                bits = np.stack([packed for _, _, packed in answers])
                right = np.unpackbits(bits, axis=1, count=int(images.judged.sum())).astype(bool)
                for measure in MODEL_MEASURES:
                    shares = _peer_shares(measure, right, images, subjects_of_cells)
                    if key[1] == "clean":
                        clean[measure.name] = shares
                    # Kappas with other models are comparable only where these are the same models.
                    compared = clean.get(measure.name, {}) if key[1] != "clean" else {}
                    same_models = compared.keys() == shares.keys()
                    for subject in subjects_of_cells:
                        share = compared.get(subject.checkpoint_id) if same_models else None
                        estimate = _peer_estimate(measure, shares[subject.checkpoint_id], share)
                        yield (
                            _keys(subject, KEYS) | dict(zip(CONDITION, key, strict=True)) | _row(measure.name, estimate)
                        )


def _peer_shares(
    measure: Measure[CellOutcomes], right: Mask, images: Images, of_cells: Sequence[Subject]
) -> Mapping[int, Share]:
    """Checkpoint -> its mean, from what each model has right, (m, n)."""
    if measure.among is None:
        return {}
    clusters = images.clusters[images.judged]
    return {
        subject.checkpoint_id: share_of(contributions, clusters)
        for subject, contributions in zip(of_cells, measure.among(right), strict=True)
    }


def _peer_estimate(measure: Measure[CellOutcomes], share: Share, clean: Share | None) -> Estimate:
    if np.isnan(share.value):
        return nothing(State.UNDETERMINED, measure.undetermined, share.images)
    return less_clean(share, None if clean is None or np.isnan(clean.value) else clean, mean_interval)
