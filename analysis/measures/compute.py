"""All measures of a study, from the predictions in the database and back into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ...core.records import digest_of
from ..database.store import Store
from .base import Measure, Options
from .generalization import Benchmarked, BenchmarkOutcomes, read_benchmarked, read_perturbed
from .outcomes import (
    SUBJECT_KEYS,
    CellOutcomes,
    ConditionKey,
    ImageTruth,
    Outcomes,
    PeerOutcomes,
    Peers,
    PredictionReader,
    Subject,
    subjects,
)
from .own import OwnMeasure, answer_table
from .registry import BENCHMARK_MEASURES, CONDITION_MEASURES, GRID_MEASURES, MODEL_MEASURES, people_estimates
from .subject_rows import SCHEMA, Row, SubjectProcesses, estimates_of, open_processes, row_of, subject_rows, wait_for

PEOPLE_COLUMNS = ("metric", "value", "low", "high", "state", "note")
"""Columns of SCHEMA that the table human_value has."""
COMPARING = 0.1
"""The share of a study's progress that its models are compared in; the rest of it is each model by itself."""
DEFAULTS = Options()


@dataclass(frozen=True, slots=True)
class MeasureSelection:
    """The measures that are computed together; by default all built-in ones."""

    grid: Sequence[Measure[Outcomes]] = GRID_MEASURES
    condition: Sequence[Measure[CellOutcomes]] = CONDITION_MEASURES
    models: Sequence[Measure[PeerOutcomes]] = MODEL_MEASURES
    benchmarks: Sequence[Measure[BenchmarkOutcomes]] = BENCHMARK_MEASURES


def compute_measures(
    store: Store, study: str, options: Options = DEFAULTS, advance: Callable[[float], None] = lambda _: None
) -> pl.DataFrame:
    """Compute the built-in measures of a study (name, name@version, or `*` for the newest of all) and keep them.

    Args:
        store: open for writing.
        study: name, name@version, or `*`.
        options: how to estimate.
        advance: called with amounts that add up to the number of checkpoints and image sets.

    Returns:
        The columns of SCHEMA: first the rows without a condition, then those with one.
    """
    study_subjects = subjects(store, study)
    with open_processes(len(study_subjects)) as processes:
        values = _values(store, study_subjects, MeasureSelection(), options, advance, processes)
    store.write_values(values, {subject.study_id for subject in study_subjects})
    store.replace("human_value", _people_values())
    return values


def _people_values() -> pl.DataFrame:
    """The columns of human_value: numbers of people in published trials, by measures of models."""
    columns = {name: kind for name, kind in SCHEMA.items() if name in PEOPLE_COLUMNS}
    return pl.DataFrame([row_of(name, estimate) for name, estimate in people_estimates().items()], columns)


def compute_own(
    store: Store, study: str, measures: Sequence[OwnMeasure], advance: Callable[[float], None] = lambda _: None
) -> list[str]:
    """Compute measures of the user's own for one version of a study, and keep them; gives the names of those.

    A measure whose files, parameters and cells are those of its stored values is not computed again.
    """
    study_subjects = subjects(store, study)
    study_id = study_subjects[0].study_id
    cells = store.frame(
        "SELECT list(key ORDER BY key) FROM study_cell JOIN cell ON cell.id = study_cell.cell "
        "WHERE study_cell.study = ? AND complete",
        [study_id],
    ).item()
    digests = {measure.name: digest_of(measure.digest, list(cells)) for measure in measures}
    previous = dict(store.frame("SELECT name, digest FROM own_measure WHERE study = ?", [study_id]).rows())
    changed = [measure for measure in measures if previous.get(measure.name) != digests[measure.name]]
    if not changed:
        return []
    selection = MeasureSelection(
        [measure.grid_measure for measure in changed], [measure.condition_measure for measure in changed], (), ()
    )
    for measure in changed:
        measure.answers.clear()  # those of another study
    values = _values(store, study_subjects, selection, DEFAULTS, advance)
    described = [
        {"name": measure.name, "title": measure.title, "unit": measure.unit, "digest": digests[measure.name]}
        for measure in changed
    ]
    store.write_own_values(values, study_id, pl.DataFrame(described), map(answer_table, changed))
    return [measure.name for measure in changed]


def has_values(store: Store, study: str) -> bool:
    """Whether every version that a word asks for has numbers of built-in measures."""
    counts = store.frame(
        "SELECT version.study_id, count(found.study) AS count FROM version_of(?) AS version "
        "LEFT JOIN (FROM measure_value ANTI JOIN own_measure ON own_measure.study = measure_value.study "
        "AND own_measure.name = measure_value.metric) AS found ON found.study = version.study_id GROUP BY ALL",
        [study],
    )
    return bool((counts["count"] > 0).all())


def stored_values(store: Store, study: str, conditions: bool) -> pl.DataFrame:
    """Read the numbers of a study: of many conditions, or of single ones.

    The columns are those of `compute_measures`, and `cycles`, as the views have it.
    """
    return store.frame(
        "SELECT found.study AS study_id, version.label AS study, found.checkpoint AS checkpoint_id, "
        "named.name AS checkpoint, found.image_set AS image_set_id, shown.name AS image_set, "
        "found.condition AS condition_id, condition.probe, condition.parameters::VARCHAR AS parameters, "
        "cycles_at(condition.cycles_per_pixel, condition.cuts, image_set.size) AS cycles, "
        "found.* EXCLUDE (study, checkpoint, image_set, condition) "
        "FROM measure_value AS found JOIN version_of(?) AS version ON version.study_id = found.study "
        "JOIN study_checkpoint AS named ON (named.study, named.checkpoint) = (found.study, found.checkpoint) "
        "LEFT JOIN study_image_set AS shown ON (shown.study, shown.image_set) = (found.study, found.image_set) "
        "LEFT JOIN condition ON condition.id = found.condition "
        "LEFT JOIN image_set ON image_set.id = found.image_set "
        "WHERE (found.condition IS NOT NULL) = ? ORDER BY found.rowid",
        [study, conditions],
    )


def metrics_of(values: pl.DataFrame) -> pl.DataFrame:
    """Select the numbers of many conditions: the columns of the view `metric`, with the keys in the database."""
    return values.filter(pl.col("condition_id").is_null()).select(
        *SUBJECT_KEYS, "metric", "value", "low", "high", "state", "note"
    )


def _values(
    store: Store,
    study_subjects: Sequence[Subject],
    selection: MeasureSelection,
    options: Options,
    advance: Callable[[float], None],
    processes: SubjectProcesses | None = None,
) -> pl.DataFrame:
    # A thousand checkpoints have half a million rows, which take less memory as columns.
    parts = list[pl.DataFrame | Future[pl.DataFrame]]()
    predictions = PredictionReader(store)
    for study_id, subjects_of_study in groupby(study_subjects, lambda subject: subject.study_id):
        answers, count = PeerAnswers(selection.models, options), 0
        benchmarked: dict[ConditionKey | None, Benchmarked] = {}
        if selection.benchmarks:
            benchmarked = {None: read_benchmarked(store, study_id), **read_perturbed(store, study_id)}
        for checkpoint_id, subjects_of_checkpoint in groupby(subjects_of_study, lambda subject: subject.checkpoint_id):
            for subject in subjects_of_checkpoint:
                outcomes = predictions.outcomes(subject)
                if processes:
                    parts.append(processes.compute(outcomes, options))
                else:
                    parts.append(subject_rows(outcomes, options, selection.grid, selection.condition))
                answers.add(outcomes)
                count += 1
                advance(1 - COMPARING)
            keys = _keys(subject, SUBJECT_KEYS[:4])
            rows = [
                keys | (benchmarks.condition._asdict() if benchmarks.condition else {}) | row_of(name, estimate)
                for benchmarks in _benchmark_outcomes(predictions, benchmarked, checkpoint_id)
                for name, estimate in estimates_of(selection.benchmarks, benchmarks, options)
            ]
            parts.append(pl.DataFrame(rows, SCHEMA))
            predictions.forget()
        parts += answers.frames()
        advance(COMPARING * count)
    frames = [part if isinstance(part, pl.DataFrame) else wait_for(part) for part in parts]
    return pl.concat(frames).sort(pl.col("condition_id").is_not_null(), maintain_order=True)


def _benchmark_outcomes(
    predictions: PredictionReader, benchmarked: Mapping[ConditionKey | None, Benchmarked], checkpoint_id: int
) -> Iterator[BenchmarkOutcomes]:
    """Yield the benchmarks of a checkpoint as they are, then under each condition, the clean images among them."""
    clean_key = next((key for key in benchmarked if key and key.is_clean), None)
    clean = BenchmarkOutcomes(predictions, benchmarked[clean_key], checkpoint_id) if clean_key else None
    for key, benchmarks in benchmarked.items():
        yield BenchmarkOutcomes(predictions, benchmarks, checkpoint_id, key, None if key == clean_key else clean)


def _keys(subject: Subject, names: Iterable[str]) -> Row:
    return {name: getattr(subject, name) for name in names}


class PeerAnswer(NamedTuple):
    """The images that a model has right under one condition."""

    cell: int
    """The cell.id of its predictions."""
    subject: Subject
    bits: NDArray[np.uint8]
    """Whether each of the judged images is right, packed."""


@dataclass
class PeerAnswers:
    """The answers of all models under each condition of each image set, kept until all models are read."""

    measures: Sequence[Measure[PeerOutcomes]]
    options: Options
    _answers: dict[int, dict[ConditionKey, list[PeerAnswer]]] = field(default_factory=dict)
    _images: dict[int, ImageTruth] = field(default_factory=dict)

    def add(self, outcomes: Outcomes) -> None:
        images, subject = outcomes.images, outcomes.subject
        if not images.labelled or not self.measures:
            return
        self._images[subject.image_set_id] = images
        conditions = self._answers.setdefault(subject.image_set_id, {})
        for condition, cell in outcomes.cells.items():
            if cell.right is not None:
                answers = conditions.setdefault(condition.key, [])
                answers.append(PeerAnswer(condition.cell, subject, np.packbits(cell.right[images.judged])))

    def frames(self) -> Iterator[pl.DataFrame]:
        """Yield, for each condition, rows of SCHEMA of each model beside the others; none where there are no others."""
        for image_set, conditions in sorted(self._answers.items()):
            images = self._images[image_set]
            clean: Peers | None = None
            # Clean images come first, since every other condition is compared with them.
            for key in sorted(conditions, key=lambda key: (not key.is_clean, key.condition_id)):
                answers = sorted(conditions[key], key=lambda answer: answer.cell)
                count = int(images.judged.sum())
                hits = np.unpackbits(np.stack([answer.bits for answer in answers]), axis=1, count=count).astype(bool)
                peers = Peers(images, [answer.subject.checkpoint_id for answer in answers], hits, clean)
                if key.is_clean:
                    clean = peers
                rows = [
                    _keys(answer.subject, SUBJECT_KEYS) | key._asdict() | row_of(name, estimate)
                    for answer in answers
                    if len(answers) > 1
                    for name, estimate in estimates_of(
                        self.measures, PeerOutcomes(peers, answer.subject.checkpoint_id), self.options
                    )
                ]
                yield pl.DataFrame(rows, SCHEMA)
