"""Generalization: accuracy on each benchmark, and the means over groups of benchmarks.

All metrics are top-1 accuracies in percent, on images without perturbation or, for `pgd_linf`, on attacked images. They
summarize several image sets and therefore belong to none.

    top1_imagenet, top1_imagenet-v2, top1_imagenet-sketch   on the benchmark, among 1000 classes
    top1_imagenet-real              predictions for ImageNet, correct if ReaL accepts the class (Beyer et al. 2020).
                                    Images without an accepted class are excluded.
    top1_imagenet-a, top1_imagenet-r                        on the benchmark, among its 200 classes
    top1_imagenet-c, top1_imagenet-cbar                     mean over 19 x 5, and 10 x 5, corruptions and severities
    top1_stylized                   on the benchmark, among 16 classes
    top1_pgd_linf                   on ImageNet under `pgd_linf`: eps 0.5/255, step 2/255, 40 steps

    ID                mean of imagenet, imagenet-v2, imagenet-real
    Robustness        mean of imagenet-a, imagenet-c, imagenet-cbar
    Concepts          mean of imagenet-sketch, imagenet-r, stylized
    Adversarial       pgd_linf

All image sets of a benchmark have the same weight. A group with a missing benchmark, or a benchmark with a missing
corruption, has no value. The 95% confidence intervals (`statistics.proportions`) treat each photograph as a cluster.
Images with the same ILSVRC2012 number show the same photograph.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import isclose
from typing import Any

import numpy as np
import polars as pl

from ....core.errors import some_of
from ....core.protocol import ACCURACIES, BENCHMARKS, EPS, GROUPS, SAME_IMAGES, STEP, STEPS, Accuracy
from ....core.records import Condition, ImageSetInfo
from ...database.store import Store
from ...statistics.proportions import Share, mean_of, share_of
from ..base import Available, Display, Ends, Estimate, Measure, State, estimate_of, nothing, paired_intervals
from ..predictions import ConditionKey, PredictionReader
from .accuracy import real_right

BUDGET: Mapping[str, float] = {"eps": EPS, "step": STEP, "steps": STEPS}
"""Parameters of the published attack."""
ID_ACCURACY = "top1_imagenet"
"""Accuracy on ImageNet, the data set that the models were trained for."""
MOST_SETS = 3
"""Maximum number of missing image sets that a note lists by name."""
Row = Mapping[str, Any]
CELLS = """
SELECT detail.cell, detail.checkpoint_id, cell.condition, detail.probe, detail.parameters::VARCHAR AS parameters,
       image_set.id AS image_set, shown.name, shown.benchmark, shown.corruption, shown.severity,
       image_set.count, image_set.decision_space,
       image_set.id IN (SELECT image_set FROM label WHERE scheme = 'real') AS real
FROM study_cell JOIN cell_detail AS detail USING (cell) JOIN cell ON cell.id = detail.cell
JOIN image_set ON image_set.id = detail.image_set_id
JOIN study_image_set AS shown ON shown.study = study_cell.study AND shown.image_set = image_set.id
WHERE study_cell.study = ? AND image_set.labelled
ORDER BY image_set.count DESC, detail.cell
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """Result of one checkpoint on a benchmark or a group of benchmarks."""

    share: Share | None
    """Accuracy with its error. None if the benchmark or group is incomplete."""
    doubts: str = ""
    """Reasons to interpret the accuracy with caution."""
    lacks: str | None = None
    """What is missing, for example `is missing`. None if the benchmark or group is complete."""

    def estimate(self, clean: Share | None = None) -> Estimate:
        """Return the estimate in percent. If `clean` is given, include the difference from it."""
        if not self.share:
            return nothing(State.MISSING, self.lacks or "")
        estimate = estimate_of(self.share, clean).times(100)
        return replace(estimate, state=State.DOUBTFUL, note=self.doubts) if self.doubts else estimate


@dataclass(frozen=True, slots=True)
class Benchmarked:
    """Cells of a study version whose images belong to benchmarks."""

    cells: Mapping[int, Mapping[str, Sequence[Row]]]
    """Checkpoint -> name in ACCURACIES -> its cells that may be (part of) the benchmark, large sets first."""
    names: Sequence[str]
    """Names in ACCURACIES for which there is at least one cell."""
    groups: Sequence[str]
    """Groups for which there is at least one cell of a benchmark other than `imagenet`."""


def read_benchmarked(store: Store, study_id: int) -> Benchmarked:
    """Read the benchmark cells of a study version. `names` is empty if it includes no benchmark."""
    cells = _read_cells(store, study_id)
    return Benchmarked(_by_checkpoint(cells), *accuracies_of(by_accuracy(cells)))


def read_perturbed(store: Store, study_id: int) -> dict[ConditionKey, Benchmarked]:
    """Read the benchmark cells under each condition, as if the perturbed images were benchmarks themselves.

    `names` and `groups` contain only means, that is benchmarks of several image sets and groups, and only those that
    are complete for at least one checkpoint. The dictionary is empty if no perturbation has any.
    """
    cells: dict[ConditionKey, list[Row]] = {}
    for cell in _read_cells(store, study_id):
        cells.setdefault(ConditionKey(cell["condition"], cell["probe"], cell["parameters"]), []).append(cell)
    benchmarked: dict[ConditionKey, Benchmarked] = {}
    for key, rows in cells.items():
        by_checkpoint = _by_checkpoint(rows, perturbed=True)
        names, groups = _complete_means(by_checkpoint.values())
        if names or groups:
            benchmarked[key] = Benchmarked(by_checkpoint, names, groups)
    return benchmarked if any(not key.is_clean for key in benchmarked) else {}


def _read_cells(store: Store, study_id: int) -> list[dict[str, Any]]:
    return store.frame(CELLS, [study_id]).with_columns(pl.col("benchmark").replace(SAME_IMAGES)).to_dicts()


def _by_checkpoint(cells: Sequence[Row], perturbed: bool = False) -> dict[int, dict[str, list[Row]]]:
    """Return the result of `by_accuracy` for each checkpoint."""
    by_checkpoint: dict[int, list[Row]] = {}
    for cell in cells:
        by_checkpoint.setdefault(cell["checkpoint_id"], []).append(cell)
    return {checkpoint: by_accuracy(rows, perturbed) for checkpoint, rows in by_checkpoint.items()}


def _complete_means(cells: Iterable[Mapping[str, Sequence[Row]]]) -> tuple[list[str], list[str]]:
    """Return the benchmarks of several image sets, and the groups, that are complete for at least one checkpoint."""
    gaps_of_checkpoints = [{name: gap(rows[name], accuracy) for name, accuracy in ACCURACIES.items()} for rows in cells]
    names = [
        name
        for name, accuracy in sorted(ACCURACIES.items())
        if BENCHMARKS[accuracy.benchmark].corruptions and not all(gaps[name] for gaps in gaps_of_checkpoints)
    ]
    return names, [group for group in GROUPS if not all(incomplete(group, gaps) for gaps in gaps_of_checkpoints)]


def by_accuracy(cells: Sequence[Row], perturbed: bool = False) -> dict[str, list[Row]]:
    """Return the cells that may be (part of) each benchmark in ACCURACIES.

    If `perturbed`, the cells are under one condition, and their images are treated as the benchmarks' own images.
    """
    return {
        name: [
            cell
            for cell in cells
            if _shows(cell, accuracy) and (accuracy.probe == "clean" if perturbed else _is_under(accuracy.probe, cell))
        ]
        for name, accuracy in ACCURACIES.items()
    }


def benchmarks_of_sets(
    conditions: Mapping[ImageSetInfo, Sequence[Condition]], schemes: Mapping[str, Collection[str]]
) -> dict[str, list[Row]]:
    """Apply `by_accuracy` to image sets and conditions that may not have run yet.

    Args:
        conditions: Image set -> its conditions.
        schemes: Digest of an image set -> names of its label schemes.
    """
    return by_accuracy(
        [
            {
                "benchmark": SAME_IMAGES.get(images.benchmark, images.benchmark),
                "corruption": images.corruption,
                "severity": images.severity,
                "count": images.count,
                "probe": condition.probe,
                "parameters": json.dumps(dict(condition.parameters)),
                "real": "real" in schemes.get(images.digest, ()),
            }
            for images, conditions_of_set in sorted(conditions.items(), key=lambda pair: -pair[0].count)
            for condition in conditions_of_set
            if images.labelled
        ]
    )


def accuracies_of(cells: Mapping[str, Sequence[Row]]) -> tuple[list[str], list[str]]:
    """Return the accuracies with at least one cell, and the groups with a benchmark other than `imagenet`."""
    names = [name for name, rows in cells.items() if rows]
    return names, [group for group, members in GROUPS.items() if {*names} & {*members} - {"imagenet"}]


def gap(cells: Sequence[Row], accuracy: Accuracy) -> str | None:
    """Return what is missing from a benchmark, given the cells of one checkpoint, or None if it is complete."""
    places = {_place(cell) for cell in cells}
    missing = [place for place in BENCHMARKS[accuracy.benchmark].places if place not in places]
    if missing:
        if not places:
            return "is missing"
        return f"lacks {some_of([f'{corruption} {severity}' for corruption, severity in missing], MOST_SETS)}"
    return None


def incomplete(group: str, gaps: Mapping[str, str | None]) -> str | None:
    """Return why a group has no mean, given what is missing from each benchmark, or None if it is complete."""
    missing = [f"{name} {gaps[name]}" for name in GROUPS[group] if gaps[name]]
    return f"incomplete: {', '.join(missing)}" if missing else None


@dataclass(frozen=True)
class BenchmarkOutcomes:
    """Predictions of one checkpoint on the benchmarks of a study, optionally under one condition."""

    predictions: PredictionReader
    study: Benchmarked
    checkpoint_id: int
    condition: ConditionKey | None = None
    """Condition of the images. None for the original benchmarks."""
    clean: BenchmarkOutcomes | None = None
    """The same checkpoint on the clean images, with which the metrics under a condition are compared."""

    @cached_property
    def measured(self) -> dict[str, Measured]:
        """Results by name: `top1_NAME` for each benchmark in the study, and the groups."""
        cells = self.study.cells.get(self.checkpoint_id, {})
        measured = {
            name: _measure_benchmark(self.predictions, cells.get(name, ()), accuracy)
            for name, accuracy in ACCURACIES.items()
        }
        benchmarks = {f"top1_{name}": measured[name] for name in self.study.names}
        return benchmarks | {group: group_mean(group, measured) for group in self.study.groups}


def benchmark_estimates(outcomes: BenchmarkOutcomes) -> dict[str, Estimate]:
    """Compute accuracies and group means in percent. Under a condition, incomplete ones are omitted."""
    clean = outcomes.clean.measured if outcomes.clean else {}
    return {
        name: measured.estimate(clean[name].share if name in clean else None)
        for name, measured in outcomes.measured.items()
        if measured.share or outcomes.condition is None
    }


def benchmark_differences(a: BenchmarkOutcomes, b: BenchmarkOutcomes) -> dict[str, Ends]:
    """Compute the paired intervals, in percent, of the metrics that are complete in both runs."""
    shares_a, shares_b = (
        {name: measured.share for name, measured in outcomes.measured.items() if measured.share} for outcomes in (a, b)
    )
    return {name: (100 * low, 100 * high) for name, (low, high) in paired_intervals(shares_a, shares_b).items()}


def _shows(cell: Row, accuracy: Accuracy) -> bool:
    """Return whether the images of a cell may be (part of) the benchmark, whatever the condition of the cell."""
    return (
        cell["benchmark"] == accuracy.benchmark
        and _place(cell) in BENCHMARKS[accuracy.benchmark].places
        and (cell["real"] or accuracy.scheme != "real")
    )


def _place(cell: Row) -> tuple[str | None, int | None]:
    """Return the corruption and severity of a cell's images, or None for images without corruption."""
    return cell["corruption"], cell["severity"]


def _is_under(probe: str, cell: Row) -> bool:
    """Return whether a cell has the condition of an accuracy: clean, or attacked with the published parameters."""
    if cell["probe"] != probe:
        return False
    if probe == "clean":
        return True
    budget = json.loads(cell["parameters"])
    return "band" not in budget and all(
        isclose(float(budget.get(name, 0)), value, rel_tol=1e-6) for name, value in BUDGET.items()
    )


def _measure_benchmark(predictions: PredictionReader, cells: Sequence[Row], accuracy: Accuracy) -> Measured:
    """Compute the accuracy on a benchmark from the cells of one checkpoint, which are sorted by decreasing set size."""
    if lacks := gap(cells, accuracy):
        return Measured(None, lacks=lacks)
    # If there are several image sets of the same kind, use the largest. It is first in `cells`, so the reversed order
    # makes it overwrite the others.
    cells_by_place = {_place(cell): cell for cell in reversed(cells)}
    doubled = [cells_by_place[place] for place, count in Counter(map(_place, cells)).items() if count > 1]
    shares = [_share(predictions, cell, accuracy) for cell in cells_by_place.values()]
    return Measured(mean_of(shares), "; ".join(_doubts(list(cells_by_place.values()), doubled, accuracy)))


def _doubts(cells: Sequence[Row], doubled: Sequence[Row], accuracy: Accuracy) -> Iterator[str]:
    """Yield notes on the chosen cells. `doubled` are those that were chosen among several image sets."""
    benchmark = BENCHMARKS[accuracy.benchmark]
    smallest_count, spaces = min(cell["count"] for cell in cells), {cell["decision_space"] for cell in cells}
    if smallest_count != benchmark.count:
        yield f"{smallest_count:,} of {benchmark.count:,} images" + (" in a set" if benchmark.corruptions else "")
    for space in sorted(spaces - {benchmark.decision_space}):
        yield f"decided among {space} classes instead of {benchmark.decision_space}"
    if doubled:
        yield f"the largest of several sets, {some_of([cell['name'] for cell in doubled])}"


def _share(predictions: PredictionReader, cell: Row, accuracy: Accuracy) -> Share:
    decisions, images = predictions.decisions([cell["cell"]])[0], predictions.images(cell["image_set"])
    index, hits = np.arange(len(images)), np.asarray(decisions.rank == 0)
    if accuracy.scheme == "real":
        index, hits = real_right(images, decisions)
    return share_of(hits, images.photographs[index])


def group_mean(group: str, measured: Mapping[str, Measured]) -> Measured:
    """Compute the mean over the benchmarks of a group, with equal weights. All of them must be in `measured`."""
    members = {name: measured[name] for name in GROUPS[group]}
    if lacks := incomplete(group, {name: member.lacks for name, member in members.items()}):
        return Measured(None, lacks=lacks)
    doubts = [f"{name}: {member.doubts}" for name, member in members.items() if member.doubts]
    return Measured(mean_of([member.share for member in members.values() if member.share]), "; ".join(doubts))


# Metrics


def _has(name: str, available: Available) -> bool:
    return any(name in names for names in accuracies_of(available.benchmarks))


def _lacking_sets(name: str, available: Available) -> str | None:
    return gap(available.benchmarks[name], ACCURACIES[name])


def _lacking_members(group: str, available: Available) -> str | None:
    return incomplete(group, {name: _lacking_sets(name, available) for name in ACCURACIES})


def _measure(
    name: str, accuracy: str, title: str, lacking: Callable[[str, Available], str | None]
) -> Measure[BenchmarkOutcomes]:
    return Measure(
        name,
        Display(title, "percent"),
        applies=partial(_has, accuracy),
        needs=partial(lacking, accuracy),
        estimates=benchmark_estimates,
        differences=benchmark_differences,
    )


MEASURES = (
    *(_measure(f"top1_{name}", name, f"top-1 {name}", _lacking_sets) for name in ACCURACIES),
    *(_measure(group, group, group, _lacking_members) for group in GROUPS),
)
