"""Metrics of single conditions of two runs: shape bias at a cutoff in both, and the like."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from ..database.store import Store
from ..metrics.conditions import CELLS, read_decided, read_truth, shares_of
from ..statistics.shares import difference_interval
from .cells import MATCH, Run
from .metrics import Ends, beside, digest_of_images, subjects_of

KEYS = [*MATCH, "metric"]
IN_CELLS = ("accuracy", "agreement")
"""Metrics that `compare_cells` has, with a test."""


def compare_conditions(a: Run, b: Run) -> pl.DataFrame:
    """One row a checkpoint, image set, condition and metric that both runs have: see `metrics.beside`.

    Accuracy and agreement are left out: `compare_cells` has them. Intervals are paired over images where both runs saw
    the same ones; error consistencies and means over benchmarks are taken as independent.
    """
    query = (
        "SELECT checkpoint, image_set, probe, parameters::VARCHAR AS parameters, metric, value, low, high, state, note "
        "FROM condition_metric_of(?) WHERE metric NOT IN (SELECT unnest(?::VARCHAR[])) "
        "ORDER BY checkpoint, image_set, metric, probe, cutoff, noise_sd, frequency, parameters"
    )
    mine, theirs = (run.renamed(run.store.frame(query, [run.label, [*IN_CELLS]])) for run in (a, b))
    return beside(mine, theirs, KEYS, lambda moved: _paired(a, b, moved))


def _paired(a: Run, b: Run, moved: pl.DataFrame) -> Iterator[Ends]:
    """The keys, low and high of differences of means over the same images."""
    of_a, of_b = ({(one.checkpoint, one.image_set): one for one in subjects_of(run)} for run in (a, b))
    for (checkpoint, image_set), rows in moved.group_by("checkpoint", "image_set", maintain_order=True):
        key = checkpoint, image_set
        one, other = of_a.get(key), of_b.get(key)  # means over benchmarks have no image set
        if not one or not other or digest_of_images(a.store, one) != digest_of_images(b.store, other):
            continue
        truth, theirs = read_truth(a.store, one), read_truth(b.store, other)
        if any(not np.array_equal(getattr(truth, name), getattr(theirs, name)) for name in ("accepted", "texture")):
            continue  # labels were added to one of them
        cells = [
            _cells(run, [who.study_id, who.checkpoint_id, who.image_set_id])
            for run, who in ((a.store, one), (b.store, other))
        ]
        for condition, mine in rows.group_by("probe", "parameters", maintain_order=True):
            before, after = (
                shares_of(read_decided(run.store, of[condition]), truth, None)
                for run, of in zip((a, b), cells, strict=True)
            )
            for metric in mine["metric"]:
                shares = before.get(metric), after.get(metric)
                if shares[0] and shares[1] and (ends := difference_interval(shares[0], shares[1])):
                    yield (*key, *condition, metric, *ends)


def _cells(store: Store, subject: list[int]) -> dict[tuple[str, str], int]:
    """(probe, parameters) -> cell.id, of a study, checkpoint and image set."""
    found = store.frame(CELLS, subject).select("probe", "parameters", "cell")
    return {(probe, parameters): cell for probe, parameters, cell in found.rows()}
