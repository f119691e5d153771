"""What a run would do, and how long it would take here."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.store import open_store
from ..engine.session import arrays_of, open_session
from ..probes.arrays import to_numpy
from ..records import Cell, Variant
from .study import Study, Work


@dataclass(frozen=True, slots=True)
class Plan:
    rows: list[dict[str, Any]]
    """Per checkpoint, image set and probe family: cells that are done, begun, missing, and stale."""
    missing: list[Cell]
    """Begun or not: what a run would do."""
    predictions: int
    seconds: float
    """Estimated for the missing predictions on this machine."""
    estimate: str
    """What the estimate rests on."""


def plan_study(work: Work, database: Path) -> Plan:
    """Compare a study with what the database has.

    Stale are cells of the newest version of the study that this one no longer has: they stay, and the views stop
    showing them once this one has run.
    """
    done: dict[str, int] = {}
    stale: list[tuple[str, str, str]] = []
    rates: dict[Variant, float] = {}
    if database.exists():
        with open_store(database, read_only=True) as store:
            done, stale, rates = (
                store.progress(work.cells),
                store.stale(work.study.name, work.cells),
                store.rates({cell.variant for cell in work.cells}),
            )
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for cell in work.cells:
        group = (cell.model.name, cell.image_set.name, cell.condition.family)
        counts.setdefault(group, Counter())[_state(cell, done.get(cell.key))] += 1
    for group in stale:
        counts.setdefault(group, Counter())["stale"] += 1
    names = ("checkpoint", "image_set", "probe")
    states = ("done", "begun", "missing", "stale")
    rows = [dict(zip(names, group, strict=True)) | {s: count[s] for s in states} for group, count in counts.items()]
    missing = [cell for cell in work.cells if done.get(cell.key, 0) < cell.image_set.count]
    left = {cell.key: cell.image_set.count - done.get(cell.key, 0) for cell in missing}
    seconds, estimate = _estimate(work, missing, left, rates)
    return Plan(rows, missing, sum(left.values()), seconds, estimate)


def _state(cell: Cell, images: int | None) -> str:
    if not images:
        return "missing"
    return "done" if images == cell.image_set.count else "begun"


def _estimate(
    work: Work, missing: Sequence[Cell], left: dict[str, int], rates: dict[Variant, float]
) -> tuple[float, str]:
    variants = list(dict.fromkeys(cell.variant for cell in missing))
    if not variants:
        return 0.0, "nothing to do"
    known = {variant: rates[variant] for variant in variants if variant in rates}
    basis = "rates of earlier runs in this database"
    if not known:
        known = {variants[0]: _measured_rate(variants[0], work.study)}
        basis = f"one batch of {variants[0].model.name}, measured now"
    usual = float(np.median(list(known.values())))
    return sum(left[cell.key] / known.get(cell.variant, usual) for cell in missing), basis


def _measured_rate(variant: Variant, study: Study) -> float:
    """Images a second of one model, from the second batch on."""
    xp, size = arrays_of(variant.backend), variant.model.image_size
    images = xp.zeros((study.batch, 3, size, size), dtype=xp.float32)
    with open_session(variant, study.batch, study.thread_count) as session:
        to_numpy(session.infer(images))
        started = time.perf_counter()
        to_numpy(session.infer(images))  # on a GPU it has ended only when its logits are here
        return study.batch / (time.perf_counter() - started)
