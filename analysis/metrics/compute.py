"""Compute all metrics of a study from the predictions in the database, and store them there.

A subject is one checkpoint on one image set. Few subjects are computed in this process. If there are many, worker
processes compute them. The results are the same.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from multiprocessing import get_context, parent_process
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ...core.errors import EngineError, UsageError
from ...core.jobs import Progress, end_with_parent, processors, silent
from ...core.records import digest_of
from ..database.store import Store
from ..statistics.consistency import consistency_with_others
from ..statistics.proportions import Share, share_of
from .base import NUMBERS, Estimate, ImageValues, Measure, State, nothing
from .custom import OwnMeasure, answer_table
from .families.error_consistency import judged_images, write_consistencies
from .families.generalization import Benchmarked, BenchmarkOutcomes, read_benchmarked, read_perturbed
from .predictions import (
    SUBJECT_KEYS,
    CellOutcomes,
    ConditionKey,
    ImageTruth,
    Outcomes,
    PredictionReader,
    Subject,
    subjects,
)
from .registry import (
    BENCHMARK_MEASURES,
    CONDITION_MEASURES,
    GRID_MEASURES,
    MODEL_MEASURES,
    complete,
    lacking,
    people_estimates,
)

Row = dict[str, Any]
SCHEMA = {
    **{name: pl.Int32 if name.endswith("_id") else pl.String for name in (*SUBJECT_KEYS, *ConditionKey._fields)},
    "metric": pl.String,
    "n": pl.Int64,
    **dict.fromkeys(NUMBERS, pl.Float64),
    **dict.fromkeys(("state", "note"), pl.String),
}
"""Columns of the metrics of a study. Condition columns are null for metrics over many conditions, and image set columns
are null for means over benchmarks."""
PEOPLE_COLUMNS = ("metric", "value", "low", "high", "state", "note")
"""Columns of SCHEMA that the table human_value has. The view `metric` has them in addition to its keys."""
FEWEST_SUBJECTS = 16
"""Number of subjects for each additional process. Fewer do not justify the second that a process takes to start."""
MOST_PROCESSES = 8
"""Maximum number of processes. One process reads the predictions for all, which takes a fifth of the other work."""
BUILT_IN = """
FROM measure_value ANTI JOIN own_measure ON (own_measure.study, own_measure.name) = (measure_value.study, metric)
"""
UNMEASURED = f"""
WITH built_in AS ({BUILT_IN})
SELECT count(*) FROM version_of(?) AS version JOIN study_cell ON study_cell.study = version.study_id
JOIN cell ON cell.id = study_cell.cell AND complete
ANTI JOIN built_in ON (built_in.study, built_in.checkpoint, built_in.image_set, built_in.condition)
= (version.study_id, cell.checkpoint, cell.image_set, cell.condition)
"""  # noqa: S608 - made of constants
"""Number of complete cells of a study for whose condition no built-in metric is stored."""


def compute_measures(store: Store, study: str, advance: Callable[[float], None] = lambda _: None) -> pl.DataFrame:
    """Compute the built-in metrics of a study and store them.

    Args:
        store: Database, opened for writing.
        study: Name, name@version, or `*` for the newest version of all studies.
        advance: Called with 1 for each checkpoint and image set.

    Returns:
        The columns of SCHEMA. Rows without a condition come first.
    """
    study_subjects = subjects(store, study)
    with open_processes(len(study_subjects)) as compute:
        parts = [
            part.result() if isinstance(part, Future) else part
            for part in [*_parts(store, study_subjects, compute, advance)]
        ]
    values = _without_condition_first(parts)
    store.write_values(values, {subject.study_id for subject in study_subjects})
    rows = [estimate.row(name) for name, estimate in people_estimates().items()]
    store.replace("human_value", pl.DataFrame(rows, SCHEMA).select(PEOPLE_COLUMNS))
    return values


def compute_own(
    store: Store, study: str, measures: Sequence[OwnMeasure], advance: Callable[[float], None] = lambda _: None
) -> list[str]:
    """Compute custom metrics for one version of a study and store them.

    A metric is skipped if its stored values were computed by the same function, with the same parameters, from the same
    cells.

    Args:
        store: Database, opened for writing.
        study: Name or name@version.
        measures: Custom metrics.
        advance: Called with 1 for each checkpoint and image set.

    Returns:
        The names of the metrics that were computed.

    Raises:
        UsageError: If a function in memory returns other values than those stored for the same version.
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
    todo = [measure for measure in measures if previous.get(measure.name) != digests[measure.name]]
    # A function in memory is identified only by its declared version. If its code has changed without a new version,
    # only its values can reveal it.
    for measure in measures:
        if measure.function.in_memory and measure not in todo:
            _check_stored_value(store, study_subjects, measure)
    if not todo:
        return []
    for measure in todo:
        measure.answers.clear()  # results of another study
    grid, condition = [measure.grid_measure for measure in todo], [measure.condition_measure for measure in todo]
    predictions, parts = PredictionReader(store), list[pl.DataFrame]()
    for subject in study_subjects:
        parts.append(subject_rows(predictions.outcomes(subject), grid, condition))
        predictions.forget()
        advance(1)
    described = [
        {"name": measure.name, "title": measure.title, "unit": measure.unit, "digest": digests[measure.name]}
        for measure in todo
    ]
    values = _without_condition_first(parts)
    store.write_own_values(values, study_id, pl.DataFrame(described), map(answer_table, todo))
    return [measure.name for measure in todo]


STORED_VALUE = """
SELECT checkpoint, image_set, condition, value FROM measure_value
WHERE study = ? AND metric = ? AND condition IS NOT NULL AND value IS NOT NULL ORDER BY ALL LIMIT 1
"""


def _check_stored_value(store: Store, study_subjects: Sequence[Subject], measure: OwnMeasure) -> None:
    """Compute one stored value of a custom metric again, and raise UsageError if it has changed."""
    for checkpoint_id, image_set_id, condition_id, stored in store.frame(
        STORED_VALUE, [study_subjects[0].study_id, measure.name]
    ).rows():
        [subject] = [
            subject
            for subject in study_subjects
            if (subject.checkpoint_id, subject.image_set_id) == (checkpoint_id, image_set_id)
        ]
        cells = PredictionReader(store).outcomes(subject).cells
        [cell] = [cell for key, cell in cells.items() if key.condition_id == condition_id]
        value = measure.estimates(cell)[measure.name].value
        if not np.isclose(value, stored):
            raise UsageError(
                f"measure {measure.name} has other values than those that are stored of its version ({stored:.6g} is "
                f"now {value:.6g}); give it another version"
            )


def _without_condition_first(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(parts).sort(pl.col("condition_id").is_not_null(), maintain_order=True)


def analyze_study(
    store: Store,
    study: str,
    measures: Sequence[OwnMeasure] = (),
    progress: Progress = silent,
    *,
    renew: bool = False,
) -> None:
    """Compute what is missing for a study: custom metrics, built-in metrics and error consistencies.

    Args:
        store: Database, opened for writing.
        study: Name, name@version, or `*` for the newest version of all studies.
        measures: Custom metrics.
        progress: Progress display.
        renew: Compute built-in metrics again even if they are stored for all complete cells.

    Raises:
        UsageError: If no cell is complete.
    """
    count = len(subjects(store, study))
    if measures:
        with progress("analyzing measures of the study", count, "checkpoints and image sets") as advance:
            compute_own(store, study, measures, advance)
    if renew or store.frame(UNMEASURED, [study]).item():
        with progress("analyzing", count, "checkpoints and image sets") as advance:
            compute_measures(store, study, advance)
        write_consistencies(store, judged_images(store, study), progress)


def has_values(store: Store, label: str) -> bool:
    """Return whether a study version has stored values of built-in metrics."""
    query = f"SELECT count(*) > 0 FROM ({BUILT_IN}) AS found SEMI JOIN version_of(?) ON study_id = found.study"  # noqa: S608
    return bool(store.frame(query, [label]).item())


def stored_values(store: Store, study: str, conditions: bool) -> pl.DataFrame:
    """Read the metrics of a study.

    Args:
        store: Open database.
        study: Name or name@version, or `*` for the newest version of all studies.
        conditions: Whether to read the metrics of single conditions or those over many conditions.

    Returns:
        The columns of `compute_measures`, and `cycles`, the frequency of the condition as in the views.
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


def _parts(
    store: Store,
    study_subjects: Sequence[Subject],
    compute: Callable[[Outcomes], Part],
    advance: Callable[[float], None],
) -> Iterator[Part]:
    """Yield rows of SCHEMA for each subject, the benchmarks of each checkpoint, and comparisons between models."""
    predictions = PredictionReader(store)
    for study_id, subjects_of_study in groupby(study_subjects, lambda subject: subject.study_id):
        answers = PeerAnswers()
        benchmarked, perturbed = read_benchmarked(store, study_id), read_perturbed(store, study_id)
        for checkpoint_id, subjects_of_checkpoint in groupby(subjects_of_study, lambda subject: subject.checkpoint_id):
            for subject in subjects_of_checkpoint:
                outcomes = predictions.outcomes(subject)
                yield compute(outcomes)
                answers.add(outcomes)
                advance(1)
            # A thousand checkpoints have half a million rows. Data frames need less memory for them than dictionaries.
            rows = [
                _keys(subject, SUBJECT_KEYS[:4])
                | (benchmarks.condition._asdict() if benchmarks.condition else {})
                | estimate.row(name)
                for benchmarks in _benchmark_outcomes(predictions, benchmarked, perturbed, checkpoint_id)
                for name, estimate in estimates_of(BENCHMARK_MEASURES, benchmarks)
            ]
            yield pl.DataFrame(rows, SCHEMA)
            predictions.forget()
        yield from answers.frames()


def _benchmark_outcomes(
    predictions: PredictionReader,
    benchmarked: Benchmarked,
    perturbed: Mapping[ConditionKey, Benchmarked],
    checkpoint_id: int,
) -> Iterator[BenchmarkOutcomes]:
    """Yield the benchmarks of a checkpoint as they are, then under each condition, including the clean images."""
    yield BenchmarkOutcomes(predictions, benchmarked, checkpoint_id)
    clean_key = next((key for key in perturbed if key.is_clean), None)
    clean = BenchmarkOutcomes(predictions, perturbed[clean_key], checkpoint_id) if clean_key else None
    for key, benchmarks in perturbed.items():
        yield BenchmarkOutcomes(predictions, benchmarks, checkpoint_id, key, None if key == clean_key else clean)


def _keys(subject: Subject, names: Iterable[str]) -> Row:
    return {name: getattr(subject, name) for name in names}


# Rows of a subject: metrics that do not depend on other subjects


def subject_rows(
    outcomes: Outcomes,
    grid: Sequence[Measure[Outcomes]] = GRID_MEASURES,
    condition: Sequence[Measure[CellOutcomes]] = CONDITION_MEASURES,
) -> pl.DataFrame:
    """Compute the rows of SCHEMA for a subject. Metrics over many conditions come first."""
    rows = [*_grid_rows(grid, outcomes), *_condition_rows(condition, outcomes)]
    keys = {name: pl.lit(getattr(outcomes.subject, name), SCHEMA[name]) for name in SUBJECT_KEYS}
    return pl.DataFrame(rows, SCHEMA).with_columns(**keys)


def estimates_of(measures: Iterable[Measure[Any]], outcomes: Any) -> Iterator[tuple[str, Estimate]]:
    """Yield the names and estimates of metrics. A function that several metrics share is called once."""
    for function in dict.fromkeys(measure.estimates for measure in measures if measure.estimates):
        yield from function(outcomes).items()


def _grid_rows(measures: Sequence[Measure[Outcomes]], outcomes: Outcomes) -> Iterator[Row]:
    """Yield rows with the columns from `metric` on. A bias with missing conditions has a row with the reason."""
    lacks = lacking(measures, outcomes.available)
    for measure in measures:
        if measure.is_bias and (why := lacks.get(measure.name)):
            yield nothing(State.MISSING, why).row(measure.name)
    for name, estimate in estimates_of(complete(measures, outcomes.available), outcomes):
        if not lacks.get(name):
            yield estimate.row(name)


def _condition_rows(measures: Sequence[Measure[CellOutcomes]], outcomes: Outcomes) -> Iterator[Row]:
    """Yield rows with the columns from `condition_id` on, for every condition."""
    applicable = complete(measures, outcomes.available)
    means = {measure.name: measure.values for measure in applicable if measure.values}
    clean_shares = {name: _clean_share(values, outcomes.clean) for name, values in means.items()}
    for key, cell in outcomes.cells.items():
        columns = key._asdict()
        for name, values in means.items():
            if image_values := values(cell):
                clean = None if cell.is_clean else clean_shares[name]
                yield columns | image_values.estimate(cell.images.clusters, clean).row(name)
        for name, estimate in estimates_of(applicable, cell):
            yield columns | estimate.row(name)


def _clean_share(values: Callable[[CellOutcomes], ImageValues | None], clean: CellOutcomes | None) -> Share | None:
    """Return the mean over the clean images if other conditions are compared with it, otherwise None."""
    image_values = values(clean) if clean else None
    return image_values.share(clean.images.clusters) if clean and image_values and image_values.comparable else None


# Worker processes

Part = pl.DataFrame | Future[pl.DataFrame]


@contextmanager
def open_processes(subjects: int) -> Iterator[Callable[[Outcomes], Part]]:
    """Provide a function that computes the rows of a subject, in worker processes if there are enough subjects.

    Raises EngineError if a process ends unexpectedly.
    """
    count = min(processors(), subjects // FEWEST_SUBJECTS + 1, MOST_PROCESSES)
    if count == 1:
        yield subject_rows
        return
    pending = deque[Future[pl.DataFrame]]()

    def compute(outcomes: Outcomes) -> Part:
        # Limit the number of queued subjects, which are large. One more than there are processes keeps all busy.
        while len(pending) > count:
            pending.popleft().result()
        with _starting_processes():
            pending.append(pool.submit(subject_rows, outcomes))
        return pending[-1]

    try:
        with _starting_processes():
            executor = ProcessPoolExecutor(count, get_context("spawn"), _prepare_process)
        with executor as pool:
            yield compute
    except BrokenProcessPool:
        raise EngineError(
            "analyzing failed: a process of it was ended, perhaps for want of memory; analyze again"
        ) from None


@contextmanager
def _starting_processes() -> Iterator[None]:
    """Prevent worker processes that start in this block from running the user's program."""
    # With the start method `spawn`, a worker imports the main module of this process. A user's program without the
    # guard `if __name__ == "__main__"` would then run again in every worker. An empty main module avoids this.
    program, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    # Workers are started with `python -c`, which puts the current folder first on the module path. PYTHONSAFEPATH
    # prevents files there from shadowing modules.
    safe_path, os.environ["PYTHONSAFEPATH"] = os.environ.get("PYTHONSAFEPATH"), "1"
    try:
        yield
    finally:
        sys.modules["__main__"] = program
        del os.environ["PYTHONSAFEPATH"]
        if safe_path is not None:
            os.environ["PYTHONSAFEPATH"] = safe_path


def _prepare_process() -> None:
    """End this worker when its parent process ends, and ignore Ctrl-C, which the parent handles."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    starter = parent_process()
    end_with_parent(starter.pid if starter else None)
    threadpool_limits(1)  # arrays are small, so that BLAS threads of several workers would only wait for each other


# Comparisons between the models of a study


class PeerAnswer(NamedTuple):
    """Which images a model classifies correctly under one condition."""

    cell: int
    """cell.id of its predictions."""
    subject: Subject
    bits: NDArray[np.uint8]
    """Whether each of the judged images is correct, packed into bits."""


@dataclass
class PeerAnswers:
    """Correctness of all models under each condition of each image set, collected until all models are read."""

    _answers: defaultdict[tuple[int, ConditionKey], list[PeerAnswer]] = field(default_factory=lambda: defaultdict(list))
    _images: dict[int, ImageTruth] = field(default_factory=dict)

    def add(self, outcomes: Outcomes) -> None:
        images, subject = outcomes.images, outcomes.subject
        self._images[subject.image_set_id] = images
        for key, cell in outcomes.cells.items():
            if images.labelled and cell.hits is not None:
                answer = PeerAnswer(cell.decisions.cell, subject, np.packbits(cell.hits[images.judged]))
                self._answers[subject.image_set_id, key].append(answer)

    def frames(self) -> Iterator[pl.DataFrame]:
        """Yield rows of SCHEMA for each condition that at least two models have."""
        clean: dict[int, dict[int, Share]] = {}
        # The clean images come first, because all other conditions of an image set are compared with them.
        for image_set, key in sorted(
            self._answers, key=lambda place: (place[0], not place[1].is_clean, place[1].condition_id)
        ):
            answers = sorted(self._answers[image_set, key], key=lambda answer: answer.cell)
            if len(answers) == 1:
                continue
            kappas = self._mean_kappas(image_set, answers)
            # Mean kappas can be compared only if they are means over the same models.
            reference = clean.get(image_set, {})
            comparable = reference if reference.keys() == kappas.keys() else {}
            if key.is_clean:
                clean[image_set] = kappas
            rows = [
                _keys(answer.subject, SUBJECT_KEYS) | key._asdict() | estimate.row(name)
                for answer in answers
                for name, estimate in estimates_of(
                    MODEL_MEASURES,
                    (kappas[answer.subject.checkpoint_id], comparable.get(answer.subject.checkpoint_id)),
                )
            ]
            yield pl.DataFrame(rows, SCHEMA)

    def _mean_kappas(self, image_set: int, answers: Sequence[PeerAnswer]) -> dict[int, Share]:
        """Return the mean kappa of each checkpoint with the others. NaN if it is undefined."""
        images = self._images[image_set]
        clusters = images.clusters[images.judged]
        hits = np.unpackbits(np.stack([answer.bits for answer in answers]), axis=1, count=len(clusters)).astype(bool)
        return {
            answer.subject.checkpoint_id: share_of(contributions, clusters)
            for answer, contributions in zip(answers, consistency_with_others(hits), strict=True)
        }
