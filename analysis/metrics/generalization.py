"""Generalization of the checkpoints of a study: the accuracy on each benchmark, and the means of the groups.

Percent of top-1 with 95 % intervals (`clusters`); see `protocol` for what the groups are. A group that lacks a
benchmark, or a benchmark that lacks a corruption, has no value and a note that says what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ...errors import some_of
from ...protocol import ACCURACIES, BENCHMARKS, EPS, GROUPS, SAME_IMAGES, STEP, STEPS, VALIDATION, Accuracy
from ..database.store import Store
from ..statistics.shares import Share, mean_of, share_interval, share_of
from .states import State

BUDGET: Mapping[str, float] = {"eps": EPS, "step": STEP, "steps": STEPS}
"""Parameters of the published attack."""
NAMED = 3
"""A note names so many of the sets that are missing."""
Row = Mapping[str, Any]
Place = tuple[str | None, int | None]
"""Corruption and severity of an image set; None where its images are as they were taken."""
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
SINGLE = "SELECT image_index, label_rank = 0 AS correct FROM prediction WHERE cell = ?"
REAL = "SELECT image_index, correct FROM cell_label_outcome WHERE cell = ? AND scheme = 'real'"
LAST = """
SELECT image_index FROM image JOIN label USING (image_set, image_index)
WHERE image_set = ? AND label.scheme = 'single' ORDER BY label.class DESC, parse_filename(path) DESC LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """A benchmark, or a group of them, as one checkpoint does on it."""

    share: Share | None
    """None where it is not whole."""
    doubts: str = ""
    """What to mind about the share, in words."""
    lacks: str | None = None
    """Where there is no share, why, such as `is missing`."""

    @property
    def note(self) -> str | None:
        return self.lacks or self.doubts or None

    @property
    def state(self) -> State:
        return State.MISSING if self.lacks else State.DOUBTFUL if self.doubts else State.OK

    def row(self, metric: str) -> dict[str, Any]:
        """The columns metric, state and note, and where there is a share its value, low and high in percent."""
        row: dict[str, Any] = {"metric": metric, "state": self.state, "note": self.note}
        if not self.share:
            return row
        low, high = share_interval(self.share)
        return row | {"value": 100 * self.share.value, "low": 100 * low, "high": 100 * high}


@dataclass(frozen=True, slots=True)
class Benchmarked:
    """What a version of a study has of the benchmarks."""

    cells: Mapping[str, Sequence[Row]]
    """Name in ACCURACIES -> cells of every checkpoint that may be the benchmark or a part of it; large sets first."""
    names: Sequence[str]
    groups: Sequence[str]
    """Groups of which it has more than `imagenet`."""
    clusters: Mapping[int, NDArray[np.int64]]
    """image_set.id -> which cluster each of its images shows."""


def read_benchmarked(store: Store, study_id: int) -> Benchmarked:
    """Read what a version of a study has; `names` is empty where it has none of the benchmarks."""
    cells = by_accuracy(_cells(store, study_id))
    return Benchmarked(cells, *accuracies_of(cells), _clusters(store, cells))


def _cells(store: Store, study_id: int) -> list[dict[str, Any]]:
    return store.frame(CELLS, [study_id]).with_columns(pl.col("benchmark").replace(SAME_IMAGES)).to_dicts()


def _clusters(store: Store, cells: Mapping[str, Sequence[Row]]) -> dict[int, NDArray[np.int64]]:
    return {one: clusters_of(store, one) for one in {cell["image_set"] for some in cells.values() for cell in some}}


def by_accuracy(cells: Sequence[Row]) -> dict[str, list[Row]]:
    """Name in ACCURACIES -> those of the cells that may be the benchmark, or a part of it."""
    return {
        name: [
            cell
            for cell in cells
            if _shows(cell, of)
            and cell["probe"] == of.probe
            and (of.probe == "clean" or _published_budget(cell["parameters"]))
        ]
        for name, of in ACCURACIES.items()
    }


def accuracies_of(cells: Mapping[str, Sequence[Row]]) -> tuple[list[str], list[str]]:
    """The accuracies of which there is something, and the groups of which there is more than `imagenet`."""
    names = [name for name, some in cells.items() if some]
    return names, [group for group, members in GROUPS.items() if {*names} & {*members} - {"imagenet"}]


def gap(cells: Sequence[Row], of: Accuracy) -> str | None:
    """What a benchmark lacks of which one checkpoint has these cells, those of large sets first; None if nothing."""
    places = {_place(cell) for cell in cells}
    missing = [place for place in BENCHMARKS[of.benchmark].places if place not in places]
    if missing:
        if not places:
            return "is missing"
        return f"lacks {some_of([f'{corruption} {severity}' for corruption, severity in missing], NAMED)}"
    if of.last and cells[0]["count"] != VALIDATION:
        return f"needs all {VALIDATION:,} images to know the last {of.last} of them"
    return None


def incomplete(group: str, gaps: Mapping[str, str | None]) -> str | None:
    """Why a group has no mean, from what is missing of each benchmark; None where nothing is."""
    missing = [f"{name} {gaps[name]}" for name in GROUPS[group] if gaps[name]]
    return f"incomplete: {', '.join(missing)}" if missing else None


def generalization(store: Store, study: Benchmarked, checkpoint_id: int) -> Iterator[dict[str, Any]]:
    """Rows of metric, value, low, high, state, note: `top1_NAME` for each benchmark, and the groups."""
    return (one.row(metric) for metric, one in measure(store, study, checkpoint_id).items())


def measure(store: Store, study: Benchmarked, checkpoint_id: int) -> dict[str, Measured]:
    """Metric -> what a checkpoint does: `top1_NAME` for each benchmark that the study has, and the groups."""
    mine = _of(checkpoint_id, study.cells)
    measured = {name: _measure(store, mine[name], of, study.clusters) for name, of in ACCURACIES.items()}
    found = {f"top1_{name}": measured[name] for name in study.names}
    return found | {group: group_mean(group, measured) for group in study.groups}


def _of(checkpoint_id: int, cells: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    return {name: [cell for cell in some if cell["checkpoint_id"] == checkpoint_id] for name, some in cells.items()}


Setting = tuple[int, str, str]
"""A condition: its condition.id, probe and parameters."""


def read_perturbed(store: Store, study_id: int) -> dict[Setting, Benchmarked]:
    """Condition -> what the study has of the benchmarks under it: as if these images were the benchmarks' own.

    `names` and `groups` are the means that some checkpoint has whole: of a benchmark of several sets, or of a group.
    Empty where no perturbation has any.
    """
    cells: dict[Setting, list[Row]] = {}
    for cell in _cells(store, study_id):
        cells.setdefault((cell["condition"], cell["probe"], cell["parameters"]), []).append(cell)
    found = {}
    for setting, some in cells.items():
        under = {
            name: [cell for cell in some if of.probe == "clean" and _shows(cell, of)] for name, of in ACCURACIES.items()
        }
        names, groups = _whole(under)
        if names or groups:
            found[setting] = Benchmarked(under, names, groups, _clusters(store, under))
    return found if any(probe != "clean" for _, probe, _ in found) else {}


def _whole(cells: Mapping[str, Sequence[Row]]) -> tuple[list[str], list[str]]:
    """The benchmarks of several sets, and the groups, that some checkpoint has whole."""
    names, groups = set[str](), set[str]()
    for checkpoint in {cell["checkpoint_id"] for some in cells.values() for cell in some}:
        mine = _of(checkpoint, cells)
        gaps = {name: gap(mine[name], of) for name, of in ACCURACIES.items()}
        names |= {name for name, of in ACCURACIES.items() if BENCHMARKS[of.benchmark].corruptions and not gaps[name]}
        groups |= {group for group in GROUPS if not incomplete(group, gaps)}
    return sorted(names), [group for group in GROUPS if group in groups]


def measure_perturbed(
    store: Store, perturbed: Mapping[Setting, Benchmarked], checkpoint_id: int
) -> dict[Setting, dict[str, Measured]]:
    """Condition -> metric -> what a checkpoint does on the benchmarks under it."""
    return {setting: measure(store, study, checkpoint_id) for setting, study in perturbed.items()}


def _shows(cell: Row, of: Accuracy) -> bool:
    """Whether the images of a cell, under whatever condition, may be those of the benchmark, or a part of them."""
    return (
        cell["benchmark"] == of.benchmark
        and _place(cell) in BENCHMARKS[of.benchmark].places
        and (cell["real"] or of.scheme != "real")
    )


def _place(cell: Row) -> Place:
    return cell["corruption"], cell["severity"]


def _published_budget(parameters: str) -> bool:
    given = json.loads(parameters)
    if "band" in given:
        return False
    return all(isclose(float(given.get(name, 0)), value, rel_tol=1e-6) for name, value in BUDGET.items())


def _measure(store: Store, cells: Sequence[Row], of: Accuracy, clusters: Mapping[int, NDArray[np.int64]]) -> Measured:
    """The accuracy on a benchmark by its cells of one checkpoint, those of large sets first."""
    if lacks := gap(cells, of):
        return Measured(None, lacks=lacks)
    # Where several sets are of one kind, the largest stands for it.
    chosen = {_place(cell): cell for cell in reversed(cells)}
    shares = [_share(store, cell, of, clusters[cell["image_set"]]) for cell in chosen.values()]
    return Measured(mean_of(shares), "; ".join(_doubts(list(chosen.values()), len(cells), of)))


def _doubts(chosen: Sequence[Row], candidates: int, of: Accuracy) -> Iterator[str]:
    benchmark = BENCHMARKS[of.benchmark]
    smallest, spaces = min(cell["count"] for cell in chosen), {cell["decision_space"] for cell in chosen}
    if of.last:
        yield f"its last {of.last} images alone, as published"
    if smallest != benchmark.count:
        yield f"{smallest:,} of {benchmark.count:,} images" + (" in a set" if benchmark.corruptions else "")
    for space in sorted(spaces - {benchmark.decision_space}):
        yield f"decided among {space} classes instead of {benchmark.decision_space}"
    if candidates > len(chosen):
        yield f"the largest of several sets, {chosen[0]['name']}"


def _share(store: Store, cell: Row, of: Accuracy, clusters: NDArray[np.int64]) -> Share:
    found = store.frame(REAL if of.scheme == "real" else SINGLE, [cell["cell"]])
    if of.last:
        last = store.frame(LAST, [cell["image_set"], of.last])
        found = found.join(last, on="image_index", how="semi")
    return share_of(found["correct"].to_numpy(), clusters[found["image_index"].to_numpy()])


def group_mean(group: str, measured: Mapping[str, Measured]) -> Measured:
    """The mean of the benchmarks of a group, which are all in `measured`; each weighs the same."""
    members = {name: measured[name] for name in GROUPS[group]}
    if lacks := incomplete(group, {name: one.lacks for name, one in members.items()}):
        return Measured(None, lacks=lacks)
    doubts = [f"{name}: {one.doubts}" for name, one in members.items() if one.doubts]
    return Measured(mean_of([one.share for one in members.values() if one.share]), "; ".join(doubts))


def clusters_of(store: Store, image_set: int) -> NDArray[np.int64]:
    """The cluster of each image of a set: numbers that are the same in any set that shows the same photograph.

    Validation images of ImageNet, and the corrupted ones made of them, go by the number in their file names. Any other
    image, or cluster of images of the set, is a cluster of its own, known by the set's digest, in any database.
    """
    found = store.frame(
        "SELECT CASE WHEN clusters = count THEN try_cast(regexp_extract(path, 'ILSVRC2012_val_(\\d{8})', 1) AS BIGINT) "
        "END AS number, ((1 + (hash(digest) >> 34))::BIGINT << 32) + cluster AS own "
        "FROM image JOIN image_set AS s ON s.id = image_set WHERE image_set = ? ORDER BY image_index",
        [image_set],
    )
    return found.select(cluster=found["number"].fill_null(found["own"]))["cluster"].to_numpy()
