"""Generalization of the checkpoints of a study: the accuracy on each benchmark, and the means of the groups.

Percent of top-1 with 95 % intervals (`photographs`); see `benchmarks` for what the groups are. A group that lacks a
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

from .benchmarks import BENCHMARKS, GROUPS, PGD, VALIDATION, Benchmark
from .photographs import Share, mean_of, photographs_of, share_interval, share_of
from .store import Store
from .subjects import rights_of

ALIASES = {"imagenet-real": "imagenet"}
"""Sets of the same photographs, with more labels."""
Photographs = Mapping[int, NDArray[np.int64]]
"""image_set.id -> which photograph each of its images shows."""
CELLS = """
SELECT detail.cell, detail.checkpoint_id, detail.checkpoint, detail.family, detail.parameters::VARCHAR AS parameters,
       image_set.id AS image_set, image_set.name, image_set.benchmark, image_set.corruption, image_set.severity,
       image_set.count, image_set.decision_space,
       image_set.id IN (SELECT image_set FROM label WHERE scheme = 'real') AS real
FROM study_cell JOIN cell_detail AS detail USING (cell) JOIN image_set ON image_set.id = detail.image_set_id
WHERE study_cell.study = ? AND image_set.labelled AND detail.family IN ('clean', 'pgd_linf')
ORDER BY detail.cell
"""
REAL = """
SELECT label.image_index, bool_or(label.class = prediction.predicted) AS correct
FROM label JOIN prediction ON prediction.image_index = label.image_index
WHERE label.image_set = ? AND label.scheme = 'real' AND prediction.cell = ? GROUP BY ALL ORDER BY ALL
"""
LAST = """
SELECT image_index FROM image JOIN label USING (image_set, image_index)
WHERE image_set = ? AND label.scheme = 'single' ORDER BY label.class DESC, parse_filename(path) DESC LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """A benchmark, or a group of them, as one checkpoint does on it."""

    share: Share | None
    """None where it is not whole."""
    note: str = ""

    def row(self, metric: str) -> dict[str, Any]:
        """In percent."""
        value = low = high = None
        if self.share:
            value, (low, high) = self.share.value, share_interval(self.share)
        percent = {
            name: None if one is None else 100 * one for name, one in zip(_ENDS, (value, low, high), strict=True)
        }
        return {"metric": metric, **percent, "note": self.note or None}


_ENDS = ("value", "low", "high")


def generalization(store: Store, study_id: int) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Each checkpoint (checkpoint.id) of a version of a study, with rows of metric, value, low, high, note.

    There are `top1_NAME` for each benchmark that the study has, and groups one of whose benchmarks it has. A study of
    `imagenet` alone, or of none of them, has no rows.
    """
    cells = store.frame(CELLS, [study_id]).with_columns(pl.col("benchmark").replace(ALIASES))
    there = {name for name, benchmark in BENCHMARKS.items() if len(_candidates(cells, benchmark))}
    if there <= {"imagenet"}:
        return
    groups = [group for group, names in GROUPS.items() if there & set(names) - {"imagenet"}]
    wanted = cells.filter(pl.col("benchmark").is_in([one.benchmark for one in BENCHMARKS.values()]))
    photographs = {one: photographs_of(store, one) for one in wanted["image_set"].unique()}
    for (checkpoint,), mine in cells.group_by("checkpoint_id", maintain_order=True):
        measured = {
            name: _measure(store, _candidates(mine, BENCHMARKS[name]), name, photographs) for name in BENCHMARKS
        }
        rows = [measured[name].row(f"top1_{name}") for name in BENCHMARKS if name in there]
        yield int(str(checkpoint)), rows + [group_mean(group, measured).row(group) for group in groups]


def _candidates(cells: pl.DataFrame, of: Benchmark) -> pl.DataFrame:
    """Cells that may be the benchmark, or a part of it; one for each image set."""
    found = cells.filter(benchmark=of.benchmark, family=of.family).filter(pl.col("real") | (of.scheme != "real"))
    if of.family != "clean":
        found = found.filter(pl.Series([_published_budget(text) for text in found["parameters"]], dtype=pl.Boolean))
    return found.unique("image_set", keep="first", maintain_order=True)


def _published_budget(parameters: str) -> bool:
    given = json.loads(parameters)
    return all(isclose(float(given.get(name, 0)), value, rel_tol=1e-6) for name, value in PGD.items())


def _measure(store: Store, cells: pl.DataFrame, name: str, photographs: Photographs) -> Measured:
    """The accuracy on a benchmark by cells of one checkpoint."""
    of = BENCHMARKS[name]
    # Where several sets are of one kind, the largest stands for it.
    largest = cells.sort("count", descending=True, maintain_order=True)
    chosen = largest.unique(["corruption", "severity"], keep="first", maintain_order=True)
    if chosen.is_empty():
        return Measured(None, "is missing")
    if len(chosen) != of.sets:
        return Measured(None, f"{len(chosen)} of {of.sets} sets")
    smallest = chosen["count"].min()
    if of.last and smallest != VALIDATION:
        return Measured(None, f"needs all {VALIDATION:,} images to know the last {of.last} of them")
    shares = _judged(store, chosen, of, photographs)
    return Measured(mean_of(shares), "; ".join(_doubts(cells, chosen, of)))


def _doubts(cells: pl.DataFrame, chosen: pl.DataFrame, of: Benchmark) -> Iterator[str]:
    smallest, spaces = chosen["count"].min(), set(chosen["decision_space"]) - {of.decision_space}
    if of.last:
        yield f"its last {of.last} images alone, as published"
    if smallest != of.images:
        yield f"{smallest:,} of {of.images:,} images" + (" in a set" if of.sets > 1 else "")
    if spaces:
        yield f"decided among {spaces.pop()} classes instead of {of.decision_space}"
    if len(cells) > len(chosen):
        yield f"the largest of several sets, {chosen['name'][0]}"


def _judged(store: Store, chosen: pl.DataFrame, of: Benchmark, photographs: Photographs) -> Sequence[Share]:
    """A share for each set."""
    sets = chosen["image_set"].to_list()
    if of.scheme == "single":
        rights = rights_of(store, chosen["cell"].to_list(), chosen["count"].to_list())
        return [share_of(right, photographs[one]) for right, one in zip(rights, sets, strict=True)]
    found = store.frame(REAL, [sets[0], chosen["cell"][0]])
    if of.last:
        found = found.filter(
            pl.col("image_index").is_in(store.frame(LAST, [sets[0], of.last])["image_index"].implode())
        )
    index, right = found["image_index"].to_numpy(), found["correct"].to_numpy()
    return [share_of(right, photographs[sets[0]][index])]


def group_mean(group: str, measured: Mapping[str, Measured]) -> Measured:
    """The mean of the benchmarks of a group, which are all in `measured`; each weighs the same."""
    members = {name: measured[name] for name in GROUPS[group]}
    missing = [_told(name, one.note) for name, one in members.items() if not one.share]
    if missing:
        return Measured(None, f"incomplete: {'; '.join(missing)}")
    notes = [_told(name, one.note) for name, one in members.items() if one.note]
    return Measured(mean_of([one.share for one in members.values() if one.share]), "; ".join(notes))


def _told(name: str, note: str) -> str:
    return f"{name} {note}" if note.startswith("is ") else f"{name}: {note}"
