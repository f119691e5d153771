"""Compare the metrics of two runs, with paired confidence intervals.

For benchmarks, photographs are matched by their ILSVRC2012 number, and other images by image set and cluster. For all
other metrics, paired intervals require that the image sets have the same digest. Half-accuracy cutoffs, psychometric
metrics and custom metrics that return a single number have percentiles of the difference over resamples that draw the
same clusters for both runs. The remaining metrics have the interval of a difference (`statistics.proportions`).

There is no difference if two image sets share only some of their images, for example if one contains the first hundred
of a thousand. The difference would then partly be due to the images.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from ..database.study_versions import ORDER
from ..metrics.base import Ends, Measure
from ..metrics.custom import Answer, paired_interval, read_answers
from ..metrics.families.generalization import BenchmarkOutcomes, read_benchmarked
from ..metrics.predictions import CellOutcomes, Outcomes, PredictionReader, Subject, subjects
from ..metrics.registry import BENCHMARK_MEASURES, CONDITION_MEASURES, GRID_MEASURES, complete
from ..statistics.power import detected_widths
from ..statistics.proportions import difference_interval
from .cell_pairs import CYCLES, MATCH, Run

SUBJECT = ("checkpoint", "image_set")
METRIC_KEYS = (*SUBJECT, "metric")
CONDITION_KEYS = (*MATCH, "metric")
METRICS = "SELECT checkpoint, image_set, metric, value, low, high, state, note FROM metric_of(?) ORDER BY ALL"
CONDITIONS = f"""
SELECT checkpoint, image_set, probe, parameters::VARCHAR AS parameters, cycles, metric, value, low, high, state, note
FROM condition_metric_of(?)
ORDER BY checkpoint, image_set, metric, {ORDER}
"""  # noqa: S608 - made of constants
SETS = """
SELECT DISTINCT checkpoint, image_set, image_set_id, digest
FROM study_detail_of(?) JOIN (SELECT id, digest FROM image_set) AS images ON images.id = image_set_id
"""
OTHER_IMAGES = "the two have a part of the images in common"
"""Note of metrics that are not compared because the runs have only some of their images in common."""
PAIRED = dict.fromkeys(CONDITION_KEYS, pl.String) | {"paired_low": pl.Float64, "paired_high": pl.Float64}
"""Columns of paired intervals. The probe and parameters are null for metrics over many conditions."""


def compare_measures(a: Run, b: Run) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Compare the stored metrics of two runs.

    The interval of the difference is paired if both runs used the same images and the metric supports it. Otherwise, if
    both values have an interval, it is the interval for two independent values (`statistics.proportions`). There is no
    interval if all values of the checkpoint on the image set are equal. Metrics of single conditions that
    `compare_cells` tests are omitted.

    Returns:
        Two tables: one row for each checkpoint, image set and metric; and one row for each condition in addition. The
        columns are the keys, difference, low, high, detectable, value_a, value_b, state_a, state_b and note.
    """
    numbers = _joined(a, b, METRICS, METRIC_KEYS)
    primary = [measure.name for measure in CONDITION_MEASURES if measure.display.primary]
    conditions = _joined(a, b, CONDITIONS, CONDITION_KEYS).filter(~pl.col("metric").is_in(primary))
    changes = pl.concat([_moved(numbers), _moved(conditions)], how="diagonal")
    intervals = pl.DataFrame(list(_paired(a, b, changes)), PAIRED, orient="row")
    return (
        _differences(numbers, METRIC_KEYS, intervals.filter(pl.col("probe").is_null())),
        _differences(conditions, CONDITION_KEYS, intervals.filter(pl.col("probe").is_not_null())),
    )


def _joined(a: Run, b: Run, query: str, keys: Sequence[str]) -> pl.DataFrame:
    """Join the rows of both runs. Columns of B have the suffix _b.

    `moved` is True if any value of the checkpoint on the image set differs.
    """
    rows_a, rows_b = (run.renamed(run.store.frame(query, [run.label])) for run in (a, b))
    # Means over benchmarks have no image set, so nulls must match.
    rows = rows_a.join(rows_b, on=keys, suffix="_b", nulls_equal=True, maintain_order="left")
    return rows.with_columns(
        moved=((pl.col("value_b") - pl.col("value")).abs() > 0).any().over(SUBJECT),
        comparable=~pl.col("image_set").is_in(_sets_shared_in_part(a, b)).fill_null(value=False),
    )


def _sets_shared_in_part(a: Run, b: Run) -> list[str]:
    """Return the image sets that share some of their images between the runs, by path, but not all."""
    sets_a, sets_b = (run.renamed(run.store.frame(SETS, [run.label])) for run in (a, b))
    pairs = sets_a.join(sets_b, on=SUBJECT, suffix="_b", maintain_order="left").filter(
        pl.col("digest") != pl.col("digest_b")
    )
    names = []
    for name, *ids in pairs.select("image_set", "image_set_id", "image_set_id_b").unique(maintain_order=True).rows():
        paths_a, paths_b = (
            set(run.store.frame("SELECT path FROM image WHERE image_set = ?", [number])["path"])
            for run, number in zip((a, b), ids, strict=True)
        )
        if paths_a != paths_b and paths_a & paths_b:
            names.append(name)
    return names


def _moved(rows: pl.DataFrame) -> pl.DataFrame:
    keys = [name for name in CONDITION_KEYS if name in rows.columns]
    return rows.filter(pl.col("moved"), (pl.col("value_b") - pl.col("value")).is_not_null()).select(keys)


def _differences(rows: pl.DataFrame, keys: Sequence[str], paired: pl.DataFrame) -> pl.DataFrame:
    rows = rows.join(
        paired.select(*keys, "paired_low", "paired_high"), on=keys, how="left", nulls_equal=True, maintain_order="left"
    )
    value_a, value_b = pl.col("value"), pl.col("value_b")
    down = ((value_b - pl.col("low_b")) ** 2 + (pl.col("high") - value_a) ** 2).sqrt()
    up = ((pl.col("high_b") - value_b) ** 2 + (value_a - pl.col("low")) ** 2).sqrt()
    has_interval = pl.col("moved") & pl.col("comparable")
    low = pl.when(has_interval).then(pl.coalesce("paired_low", value_b - value_a - down))
    high = pl.when(has_interval).then(pl.coalesce("paired_high", value_b - value_a + up))
    return rows.select(
        *keys,
        *([CYCLES] if "cycles" in rows.columns else []),
        difference=pl.when("comparable").then(value_b - value_a),
        low=low,
        high=high,
        detectable=detected_widths() * (high - low),
        value_a="value",
        value_b="value_b",
        state_a="state",
        state_b="state_b",
        note=pl.when(~pl.col("comparable"))
        .then(pl.lit(OTHER_IMAGES))
        .when(value_a.is_null() != value_b.is_null())
        .then(
            pl.coalesce(
                pl.when(value_a.is_null()).then(pl.lit("A: ") + pl.col("note")),
                pl.when(value_b.is_null()).then(pl.lit("B: ") + pl.col("note_b")),
            )
        ),
    )


def _paired(a: Run, b: Run, changes: pl.DataFrame) -> Iterator[tuple[str | float | None, ...]]:
    """Yield the columns of PAIRED for the metrics that have a paired interval."""
    if changes.is_empty():
        return
    side_a, side_b = sides = read_sides(a, b)
    for (checkpoint, image_set), rows in changes.group_by(SUBJECT, maintain_order=True):
        names = set(rows.filter(pl.col("probe").is_null())["metric"])
        if image_set is None:
            benchmarks_a, benchmarks_b = (side.benchmarks(str(checkpoint)) for side in sides)
            if names and benchmarks_a and benchmarks_b:
                for name, ends in _intervals(BENCHMARK_MEASURES, benchmarks_a, benchmarks_b, names):
                    yield (str(checkpoint), None, None, None, name, *ends)
            continue
        key = (str(checkpoint), str(image_set))
        outcomes_a, outcomes_b = (side.outcomes(key) for side in sides)
        if outcomes_a and outcomes_b and outcomes_a.images.digest == outcomes_b.images.digest:
            if names:
                measures = complete(GRID_MEASURES, outcomes_a.available, outcomes_b.available)
                for name, ends in _intervals(measures, outcomes_a, outcomes_b, names):
                    yield (*key, None, None, name, *ends)
            conditions = rows.filter(pl.col("probe").is_not_null())
            for condition, name, ends in _condition_intervals(outcomes_a, outcomes_b, conditions):
                yield (*key, *condition, name, *ends)
            answers_a, answers_b = side_a.own_answers(outcomes_a), side_b.own_answers(outcomes_b)
            for number in answers_a.keys() & answers_b.keys():
                own_ends = paired_interval(answers_a[number], answers_b[number], outcomes_a.images.clusters)
                yield (*key, *number, *(own_ends or (None, None)))
        for side in sides:
            side.predictions.forget()


def _intervals(measures: Sequence[Measure[Any]], a: Any, b: Any, names: Collection[str]) -> Iterator[tuple[str, Ends]]:
    """Yield the paired intervals of the metrics in `names`. A function that several metrics share is called once."""
    for function in dict.fromkeys(measure.differences for measure in measures if measure.differences):
        yield from ((name, ends) for name, ends in function(a, b).items() if name in names)


def _condition_intervals(a: Outcomes, b: Outcomes, rows: pl.DataFrame) -> Iterator[tuple[tuple[str, str], str, Ends]]:
    """Yield the paired intervals of metrics of single conditions."""
    if rows.is_empty() or not a.images.has_same_labels(b.images):  # labels may have been added to one of them
        return
    cells_a, cells_b = by_condition(a), by_condition(b)
    determined = complete(CONDITION_MEASURES, a.available, b.available)
    means = {measure.name: measure for measure in determined if measure.values}
    for (probe, parameters), metrics in rows.group_by("probe", "parameters", maintain_order=True):
        condition, names = (str(probe), str(parameters)), metrics["metric"].to_list()
        cell_a, cell_b = cells_a[condition], cells_b[condition]
        for name in names:
            if name in means and (mean_ends := _mean_interval(means[name], cell_a, cell_b)):
                yield condition, name, mean_ends
        for name, ends in _intervals(determined, cell_a, cell_b, {*names} - means.keys()):
            yield condition, name, ends


def _mean_interval(measure: Measure[CellOutcomes], a: CellOutcomes, b: CellOutcomes) -> Ends | None:
    values = [measure.values(cell) if measure.values else None for cell in (a, b)]
    shares = [numbers and numbers.share(a.images.clusters) for numbers in values]
    return difference_interval(shares[0], shares[1]) if shares[0] and shares[1] else None


def by_condition(outcomes: Outcomes) -> Mapping[tuple[str, str], CellOutcomes]:
    """Return the cells by probe and parameters. The parameters are JSON."""
    return {(key.probe, key.parameters): cell for key, cell in outcomes.cells.items()}


@dataclass(frozen=True, slots=True)
class Side:
    """One of two compared runs. Checkpoints and image sets have their names in the comparison."""

    predictions: PredictionReader
    subjects: Mapping[tuple[str, str], Subject]

    def outcomes(self, key: tuple[str, str]) -> Outcomes | None:
        return self.predictions.outcomes(self.subjects[key]) if key in self.subjects else None

    def own_answers(self, outcomes: Outcomes) -> dict[tuple[str | None, str | None, str], Answer]:
        """Read results of custom metrics by probe, parameters and name.

        Results on clean images are included twice: under their condition, and with None as probe and parameters.
        """
        keys = {cell.decisions.cell: key for key, cell in outcomes.cells.items()}
        answers = dict[tuple[str | None, str | None, str], Answer]()
        stored_answers = read_answers(self.predictions.store, outcomes.subject.study_id, list(keys))
        for (name, cell), answer in stored_answers.items():
            answers[keys[cell].probe, keys[cell].parameters, name] = answer
            if outcomes.clean and outcomes.clean.decisions.cell == cell:
                answers[None, None, name] = answer
        return answers

    def benchmarks(self, checkpoint: str) -> BenchmarkOutcomes | None:
        subject = next((subject for (name, _), subject in self.subjects.items() if name == checkpoint), None)
        if subject is None:
            return None
        benchmarked = read_benchmarked(self.predictions.store, subject.study_id)
        return BenchmarkOutcomes(self.predictions, benchmarked, subject.checkpoint_id)


def read_sides(a: Run, b: Run) -> tuple[Side, Side]:
    """Open both runs. They share one reader of predictions if they are in the same database."""
    predictions_a = PredictionReader(a.store)
    predictions_b = predictions_a if a.store is b.store else PredictionReader(b.store)
    return Side(predictions_a, _subjects(a)), Side(predictions_b, _subjects(b))


def _subjects(run: Run) -> dict[tuple[str, str], Subject]:
    """Return the subjects of a run by their names in the comparison."""
    run_subjects = subjects(run.store, run.label)
    if run.column is not None:
        names: dict[str, Any] = {run.column: run.alias}
        run_subjects = [
            replace(subject, **names) for subject in run_subjects if getattr(subject, run.column) == run.value
        ]
    return {(subject.checkpoint, subject.image_set): subject for subject in run_subjects}
