"""Plan a run: list what it would compute, and estimate how long it would take on this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...analysis.database.open import open_store
from ...analysis.metrics.custom import OwnMeasure, read_measures
from ...analysis.metrics.registry import Determined, condition_metrics, determined_metrics
from ...analysis.statistics.power import DISCORDANCE, design_effect, smallest_tested_difference
from ...core.errors import BandlensError, DeviceError
from ...core.protocol import classes_decided
from ...core.records import Cell, Failed, Variant, enlarged_in_words
from ...engine.backends.base import open_attacker
from ...engine.device.gpu_errors import gpu_errors
from ...engine.tasks import by_attack, gradients
from ...engine.tuning import measure_rate
from .file import Study
from .label_checks import doubt_numbers, doubt_results
from .resolve import Work
from .reuse import find_stored, missing_cells

PREDICTION_BYTES = 7.5
"""Size of a prediction in the database, in bytes (docs/measured.md)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would compute, its estimated cost, and the metrics that would follow from it."""

    rows: list[dict[str, Any]]
    """One row per checkpoint, image set and probe: numbers of cells that are done, begun, missing and stale."""
    missing: list[Cell] = field(repr=False)
    """Incomplete cells, which a run would complete."""
    predictions: int
    """Number of missing predictions."""
    seconds: float
    """Estimated time for the missing predictions on this machine, in seconds."""
    estimate: str
    """Description of how the time was estimated."""
    database_bytes: float
    """Number of bytes by which the database would grow."""
    image_bytes: int
    """Size of the pixels of all image sets in bytes."""
    failed: list[Failed]
    """Incomplete cells that failed in their last attempt."""
    metrics: list[Determined]
    """Metrics that `analyze` can compute once all cells are complete, and unavailable metrics with the reason."""
    condition_metrics: dict[str, list[str]]
    """Metrics that it can compute for each condition of the perturbed image sets."""
    own_probes: dict[str, list[str]]
    """Custom probe -> the files that it depends on. Empty for a function in memory."""
    detectable: dict[str, float]
    """Image set -> minimum detectable difference in accuracy between two models. At most 1."""
    doubts: list[str]
    """Warnings about image sets, for example if their labels seem to use different class indices than the models."""


def plan_study(work: Work, database: Path) -> Plan:
    """Compare a study with the contents of the database and plan the rest.

    A cell is stale if the newest stored version of the study contains it and this study does not. Stale cells remain in
    the database, but the views no longer show them after this study has run.

    Args:
        work: The resolved study.
        database: Results database, which need not exist.
    """
    doubts = [
        *doubt_numbers(work.models, work.image_sets),
        *(enlarged_in_words(images.info.name, images.own_cycles) for images in work.image_sets if images.own_cycles),
    ]
    measures = read_measures(work.study.measures, work.study.folder)
    metrics = metrics_of(work, measures)
    metrics_by_set = condition_metrics(
        work.cells,
        _schemes(work),
        [measure.condition_measure for measure in measures],
        {images.info.digest for images in work.image_sets if images.attributes},
    )
    image_counts: dict[str, int] = {}
    stale: list[tuple[str, str, str]] = []
    rates: dict[Variant, float] = {}
    errors: dict[str, str] = {}
    with ExitStack() as stack:
        store = stack.enter_context(open_store(database, read_only=True)) if database.exists() else None
        if store is not None:
            image_counts = find_stored(work, store).image_counts
            stale = store.stale(work.study.name, work.cells)
            rates = store.rates({cell.variant for cell in work.cells})
            errors = dict(store.frame("SELECT key, error FROM cell WHERE error IS NOT NULL").rows())
            doubts += doubt_results(work, store)
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for cell in work.cells:
        images = image_counts.get(cell.key, 0)
        state = "missing" if not images else "done" if images == cell.image_set.count else "begun"
        counts.setdefault((cell.model.name, cell.image_set.name, cell.condition.probe), Counter())[state] += 1
    for group in stale:
        counts.setdefault(group, Counter())["stale"] += 1
    rows = [
        {"checkpoint": checkpoint, "image_set": image_set, "probe": probe}
        | {state: count[state] for state in ("done", "begun", "missing", "stale")}
        for (checkpoint, image_set, probe), count in counts.items()
    ]
    missing = missing_cells(work.cells, image_counts)
    lacking = {cell.key: cell.image_set.count - image_counts.get(cell.key, 0) for cell in missing}
    seconds, estimate = _estimate(work, missing, lacking, rates)
    return Plan(
        rows=rows,
        missing=missing,
        predictions=sum(lacking.values()),
        seconds=seconds,
        estimate=estimate,
        database_bytes=PREDICTION_BYTES * sum(lacking.values()),
        image_bytes=sum(images.nbytes for images in work.image_sets),
        failed=[Failed(cell, errors[cell.key]) for cell in missing if cell.key in errors],
        metrics=metrics,
        condition_metrics=metrics_by_set,
        own_probes={family.name: [*family.files] for family in work.grid.families.values() if family.files is not None},
        detectable=detectable_differences(work),
        doubts=doubts,
    )


def metrics_of(work: Work, measures: Sequence[OwnMeasure]) -> list[Determined]:
    """Return the metrics for which a study has conditions, and for each whether all required conditions are present."""
    conditions = dict.fromkeys((cell.image_set, cell.condition) for cell in work.cells)
    class_counts: dict[str, int] = {}
    for model, images in dict.fromkeys((cell.model, cell.image_set) for cell in work.cells):
        classes = classes_decided(images.decision_space, model.classes)
        class_counts[images.digest] = min(class_counts.get(images.digest, classes), classes)
    return determined_metrics(conditions, _schemes(work), [measure.grid_measure for measure in measures], class_counts)


def detectable_differences(work: Work) -> dict[str, float]:
    """Return the minimum detectable difference in accuracy between two models for each image set.

    It is the smallest difference that is significant with 80% power after the Holm correction. Two models are assumed
    to disagree on 10% of the images. All images of a cluster count as one.
    """
    tests = len({(cell.image_set.digest, cell.condition.digest) for cell in work.cells})
    models = Counter(digest for digest, _ in {(cell.image_set.digest, cell.model.sha256) for cell in work.cells})
    return {
        images.info.name: smallest_tested_difference(
            images.info.count, DISCORDANCE, tests, design_effect(images.clusters)
        )
        for images in work.image_sets
        if models[images.info.digest] > 1
    }


def _schemes(work: Work) -> dict[str, Collection[str]]:
    return {images.info.digest: images.schemes for images in work.image_sets}


def _estimate(
    work: Work, missing: Sequence[Cell], lacking: Mapping[str, int], rates: Mapping[Variant, float]
) -> tuple[float, str]:
    """Return the estimated seconds for the missing predictions, and a description of how they were estimated."""
    perturbed, attacked = by_attack(missing)
    parts = [_estimate_perturbed(work.study, perturbed, lacking, rates)] if perturbed else []
    parts += [_estimate_attacked(work.study, attacked, lacking)] if attacked else []
    return sum((seconds for seconds, _ in parts), 0.0), "; ".join(basis for _, basis in parts) or "nothing to do"


def _estimate_perturbed(
    study: Study, cells: Sequence[Cell], lacking: Mapping[str, int], rates: Mapping[Variant, float]
) -> tuple[float, str]:
    variants = list(dict.fromkeys(cell.variant for cell in cells))
    rate_of_variant = {variant: rates[variant] for variant in variants if variant in rates}
    basis = "rates of earlier runs in this database"
    if not rate_of_variant:
        measured, rate = _measure_first(
            variants, lambda variant: measure_rate(variant, study.batch, study.thread_count)
        )
        rate_of_variant = {measured: rate}
        basis = f"one batch of {measured.model.name}, measured now"
    usual = float(np.median(list(rate_of_variant.values())))
    return sum(lacking[cell.key] / rate_of_variant.get(cell.variant, usual) for cell in cells), basis


def _estimate_attacked(study: Study, cells: Sequence[Cell], lacking: Mapping[str, int]) -> tuple[float, str]:
    steps = Counter[str]()
    for cell in cells:
        steps[gradients(cell)] += int(lacking[cell.key] * (cell.condition.number("steps") or 0))

    def attack_seconds(variant: Variant) -> float:
        with gpu_errors(), open_attacker(variant, study.batch, study.thread_count) as session:
            return sum(count * session.step_seconds(precision) for precision, count in steps.items())

    variant, seconds = _measure_first(list(dict.fromkeys(cell.variant for cell in cells)), attack_seconds)
    return seconds, f"one step of an attack on {variant.model.name}, measured now"


def _measure_first(variants: Sequence[Variant], measure: Callable[[Variant], float]) -> tuple[Variant, float]:
    """Measure the first variant that its engine can run, and return both. If none can be run, raise the first error."""
    errors: list[BandlensError] = []
    for variant in variants:
        try:
            return variant, measure(variant)
        except DeviceError:
            raise
        except BandlensError as error:
            errors.append(error)
    raise errors[0]
