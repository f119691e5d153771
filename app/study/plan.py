"""The plan of a run: what it would do, and how long it would take here."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...analysis.database.open import open_store
from ...analysis.measures.own import OwnMeasure, start_measures
from ...analysis.measures.registry import Determined, condition_metrics, determined_metrics
from ...engine.backends.base import arrays_of, open_attacker, open_session
from ...engine.tasks import by_attack
from ...engine.tasks import passes as passes_of
from ...errors import ExportError
from ...export.models import FINISHED, verify_model
from ...export.onnx.operations import count_operations
from ...probes.arrays import to_numpy
from ...probes.grid import Grid, make_grid
from ...records import Cell, Failed, Model, Variant
from .file import Study
from .resolve import Work, fits


@dataclass(frozen=True, slots=True)
class Plan:
    rows: list[dict[str, Any]]
    """Per checkpoint, image set and probe: cells that are done, begun, missing, and stale."""
    missing: list[Cell]
    """Begun or not: what a run would do."""
    predictions: int
    seconds: float
    """Estimated for the missing predictions on this machine."""
    estimate: str
    """The source of the estimate, in words."""
    cost: Cost
    """Disk and least time of the missing predictions."""
    failed: list[Failed]
    """The missing cells that failed when they were last tried."""
    smaller_maps: dict[str, int]
    """What could stand in place of the missing conditions of a probe, and its predictions."""
    packed: dict[str, tuple[list[str], list[str]]]
    """Preprocessing -> the checkpoints that take such images, and the image sets that have them."""
    metrics: list[Determined]
    """What `analyze` will find once all cells are done, and what not."""
    condition_metrics: dict[str, list[str]]
    """What it will find under each condition of the image sets that are perturbed."""


def plan_study(work: Work, database: Path) -> Plan:
    """Compare a study with what the database has.

    Stale are cells of the newest version of the study that this one no longer has: they stay, and the views stop
    showing them once this one has run.
    """
    done: dict[str, int] = {}
    stale: list[tuple[str, str, str]] = []
    rates: dict[Variant, float] = {}
    errors: dict[str, str] = {}
    if database.exists():
        with open_store(database, read_only=True) as store:
            done, stale, rates = (
                store.progress(work.cells),
                store.stale(work.study.name, work.cells),
                store.rates({cell.variant for cell in work.cells}),
            )
            errors = dict(store.frame("SELECT key, error FROM cell WHERE error IS NOT NULL").rows())
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for cell in work.cells:
        group = (cell.model.name, cell.image_set.name, cell.condition.probe)
        counts.setdefault(group, Counter())[_state(cell, done.get(cell.key))] += 1
    for group in stale:
        counts.setdefault(group, Counter())["stale"] += 1
    names = ("checkpoint", "image_set", "probe")
    states = ("done", "begun", "missing", "stale")
    rows = [dict(zip(names, group, strict=True)) | {s: count[s] for s in states} for group, count in counts.items()]
    missing = [cell for cell in work.cells if done.get(cell.key, 0) < cell.image_set.count]
    left = {cell.key: cell.image_set.count - done.get(cell.key, 0) for cell in missing}
    seconds, estimate = _estimate(work, missing, left, rates)
    failed = [Failed(cell, errors[cell.key]) for cell in missing if cell.key in errors]
    own = start_measures(work.study.measures, work.study.folder)
    return Plan(
        rows,
        missing,
        sum(left.values()),
        seconds,
        estimate,
        cost_of(work, left, missing),
        failed,
        smaller_maps_of(work.grid, missing, left),
        packed_for(work),
        metrics_of(work, own),
        condition_metrics(work.cells, _schemes(work), [measure.condition_measure for measure in own]),
    )


def smaller_maps_of(grid: Grid, missing: Sequence[Cell], left: Mapping[str, int]) -> dict[str, int]:
    """Smaller grids that tell much of what the missing conditions of a probe do, and their predictions."""
    predictions: dict[str, int] = {}
    for family in grid.families.values():
        cells = [cell for cell in missing if cell.condition.probe == family.name] if family.smaller else []
        images = sum(images.count for _, images in {(cell.variant, cell.image_set) for cell in cells})
        for title, probes in family.smaller.items():
            smaller = make_grid(probes, Path())
            count = images * (len(smaller.conditions) - len(smaller.clean))
            if count < sum(left[cell.key] for cell in cells):
                predictions[title] = count
    return predictions


def packed_for(work: Work) -> dict[str, tuple[list[str], list[str]]]:
    """The checkpoints and image sets of a study by how images are made."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for images in work.image_sets:
        models, sets = found.setdefault(images.info.preprocessing, ([], []))
        sets.append(images.info.name)
        models += [one.name for one in work.models if fits(one, images.info) and one.name not in models]
    return found


def metrics_of(work: Work, own: Sequence[OwnMeasure]) -> list[Determined]:
    """The metrics that a study has conditions for, and whether these are all that they need."""
    conditions = dict.fromkeys((cell.image_set, cell.condition) for cell in work.cells)
    return determined_metrics(conditions, _schemes(work), [measure.grid_measure for measure in own])


def _schemes(work: Work) -> dict[str, Collection[str]]:
    return {images.info.digest: images.schemes for images in work.image_sets}


def _state(cell: Cell, images: int | None) -> str:
    if not images:
        return "missing"
    return "done" if images == cell.image_set.count else "begun"


def _estimate(
    work: Work, missing: Sequence[Cell], left: dict[str, int], rates: dict[Variant, float]
) -> tuple[float, str]:
    if not missing:
        return 0.0, "nothing to do"
    perturbed, attacked = by_attack(missing)
    parts = []
    if perturbed:
        parts.append(_estimate_perturbed(work.study, perturbed, left, rates))
    if attacked:
        parts.append(_estimate_attacked(work.study, attacked, left))
    return sum(seconds for seconds, _ in parts), "; ".join(basis for _, basis in parts)


def _estimate_perturbed(
    study: Study, cells: Sequence[Cell], left: dict[str, int], rates: dict[Variant, float]
) -> tuple[float, str]:
    variants = list(dict.fromkeys(cell.variant for cell in cells))
    known = {variant: rates[variant] for variant in variants if variant in rates}
    basis = "rates of earlier runs in this database"
    if not known:
        known = {variants[0]: _measured_rate(variants[0], study)}
        basis = f"one batch of {variants[0].model.name}, measured now"
    usual = float(np.median(list(known.values())))
    return sum(left[cell.key] / known.get(cell.variant, usual) for cell in cells), basis


def _estimate_attacked(study: Study, cells: Sequence[Cell], left: dict[str, int]) -> tuple[float, str]:
    variant = cells[0].variant
    with open_attacker(variant, study.batch, study.thread_count) as session:
        seconds = session.step_seconds()
    steps = sum(left[cell.key] * (cell.condition.number("steps") or 0) for cell in cells)
    return steps * seconds, f"one step of an attack on {variant.model.name}, measured now"


def _measured_rate(variant: Variant, study: Study) -> float:
    """Images a second of one model, from the second batch on."""
    xp, size = arrays_of(variant.engine), variant.model.image_size
    images = xp.zeros((study.batch, 3, size, size), dtype=xp.float32)
    with open_session(variant, study.batch, study.thread_count) as session:
        to_numpy(session.infer(images))
        started = time.perf_counter()
        to_numpy(session.infer(images))  # on a GPU it has ended only when its logits are here
        return study.batch / (time.perf_counter() - started)


# What a study costs wherever it runs: operations, disk, and the least time on a card that everybody knows
H100_FP16, H100_FP32 = 989e12, 67e12
"""Dense FP16 tensor operations a second of an H100 SXM, and FP32 ones without tensor cores (NVIDIA's data sheet).
Nothing runs at a peak."""
PREDICTION_BYTES = 7.5
"""The database grows by so many bytes a prediction (docs/measured.md)."""


@dataclass(frozen=True, slots=True)
class Cost:
    operations: float | None
    """Floating-point operations of the predictions; None where a network's are not known."""
    attack_operations: float | None
    """Operations of attacks, which are in FP32: a gradient needs it."""
    database_bytes: float
    """By which the database will grow."""
    image_bytes: int
    """Bytes of the image sets' pixels."""

    @property
    def h100_seconds(self) -> float | None:
        """At the card's peaks: a lower bound, and no measurement."""
        if self.operations is None or self.attack_operations is None:
            return None
        return self.operations / H100_FP16 + self.attack_operations / H100_FP32


def cost_of(work: Work, left: Mapping[str, int], cells: Sequence[Cell]) -> Cost:
    """The cost of `left[key]` images of each of these cells."""
    passes, attacks = Counter[Model](), Counter[Model]()
    for cell in cells:
        if cell.condition.facts.attack:
            attacks[cell.model] += left[cell.key] * passes_of(cell)
        else:
            passes[cell.model] += left[cell.key]
    return Cost(
        operations=_operations(passes),
        attack_operations=_operations(attacks),
        database_bytes=PREDICTION_BYTES * sum(left.values()),
        image_bytes=sum(images.nbytes for images in work.image_sets),
    )


def _operations(passes: Mapping[Model, int]) -> float | None:
    """Operations of so many forward passes of each model; models of one known architecture are counted once."""
    known: dict[tuple[str, int, int], float] = {}
    total = 0.0
    try:
        for model, count in passes.items():
            architecture = model.sha256 if model.architecture == FINISHED else model.architecture
            kind = (architecture, model.image_size, model.classes)
            if kind not in known:
                known[kind] = count_operations(verify_model(model))
            total += count * known[kind]
    except ExportError:
        return None
    return total
