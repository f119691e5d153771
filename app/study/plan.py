"""The plan of a run: what it would do, and how long it would take here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...analysis.database.open import open_store
from ...analysis.measures.own import OwnMeasure, read_measures
from ...analysis.measures.registry import Determined, condition_metrics, determined_metrics
from ...core.errors import BandlensError, DeviceError, ExportError
from ...core.protocol import classes_decided
from ...core.records import Cell, Failed, Model, Variant, enlarged_in_words
from ...engine.backends.base import open_attacker
from ...engine.device.devices import gpus
from ...engine.device.gpu_errors import gpu_errors
from ...engine.tasks import by_attack, gradients
from ...engine.tasks import passes as passes_of
from ...engine.tuning import measure_rate
from ...export.model_files import FINISHED, verify_model
from ...probes.family import Family
from ...probes.grid import Grid, make_grid
from . import GATE_IMAGES
from .detectable import Detectable, detectable_differences
from .file import Study
from .mislabelling import doubt_numbers, doubt_results
from .record import failures_in_words, missing_cells, stored_images
from .resolve import Work, takes_images


@dataclass(frozen=True, slots=True)
class Plan:
    rows: list[dict[str, Any]]
    """A row for each checkpoint, image set and probe: cells that are done, begun, missing, and stale."""
    missing: list[Cell]
    """The cells that a run would complete, begun or not."""
    predictions: int
    """The number of missing predictions."""
    seconds: float
    """The time that the missing predictions would take on this machine, estimated."""
    estimate: str
    """The source of the estimate, in words."""
    cost: Cost
    """Disk space and least time of the missing predictions."""
    failed: list[Failed]
    """The missing cells that failed when they were last tried."""
    smaller_maps: dict[str, int]
    """Smaller grids than the missing conditions of a probe, and how many predictions each would be."""
    packed: dict[str, tuple[list[str], list[str]]]
    """Preprocessing -> the checkpoints that take such images, and the image sets that have them."""
    metrics: list[Determined]
    """The metrics that `analyze` will find once all cells are done, and those that it will not, with the reason."""
    condition_metrics: dict[str, list[str]]
    """The metrics that it will find under each condition of the image sets that are perturbed."""
    precision: str
    gate_predictions: int
    """The predictions that a gate would run at fp32, and as many at the study's precision; 0 for fp32."""
    own_probes: list[Family]
    """The probes that are files of the user's."""
    detectable: list[Detectable]
    """The smallest differences between two of its models, and the smallest correlation, that it would likely find."""
    doubts: list[str]
    """Lines on image sets whose labels may be numbered otherwise than the classes of the models."""

    @property
    def failures(self) -> list[str]:
        """A line for each error of the missing cells that failed, with their conditions."""
        return failures_in_words(self.failed)


def plan_study(work: Work, database: Path) -> Plan:
    """Compare a study with what the database has.

    Stale are cells of the newest version of the study that this one no longer has: they stay, and the views stop
    showing them once this one has run.
    """
    image_counts: dict[str, int] = {}
    stale: list[tuple[str, str, str]] = []
    rates: dict[Variant, float] = {}
    errors: dict[str, str] = {}
    doubts = [
        *doubt_numbers(work),
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
    if not database.exists():
        detectable = detectable_differences(work, metrics, metrics_by_set, None)
    else:
        with open_store(database, read_only=True) as store:
            image_counts, stale, rates = (
                stored_images(work, store),
                store.stale(work.study.name, work.cells),
                store.rates({cell.variant for cell in work.cells}),
            )
            errors = dict(store.frame("SELECT key, error FROM cell WHERE error IS NOT NULL").rows())
            doubts += doubt_results(work, store)
            detectable = detectable_differences(work, metrics, metrics_by_set, store)
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for cell in work.cells:
        group = (cell.model.name, cell.image_set.name, cell.condition.probe)
        counts.setdefault(group, Counter())[_state(cell, image_counts.get(cell.key))] += 1
    for group in stale:
        counts.setdefault(group, Counter())["stale"] += 1
    names = ("checkpoint", "image_set", "probe")
    states = ("done", "begun", "missing", "stale")
    rows = [
        dict(zip(names, group, strict=True)) | {state: count[state] for state in states}
        for group, count in counts.items()
    ]
    missing = missing_cells(work.cells, image_counts)
    lacking = {cell.key: cell.image_set.count - image_counts.get(cell.key, 0) for cell in missing}
    seconds, estimate = _estimate(work, missing, lacking, rates)
    gated = [] if work.study.precision == "fp32" else by_attack(work.cells)[0]
    return Plan(
        rows=rows,
        missing=missing,
        predictions=sum(lacking.values()),
        seconds=seconds,
        estimate=estimate,
        cost=cost_of(work, lacking, missing),
        failed=[Failed(cell, errors[cell.key]) for cell in missing if cell.key in errors],
        smaller_maps=smaller_maps_of(work.grid, missing, lacking),
        packed=packed_for(work),
        metrics=metrics,
        condition_metrics=metrics_by_set,
        precision=work.study.precision,
        gate_predictions=sum(min(cell.image_set.count, GATE_IMAGES) for cell in gated),
        own_probes=[family for family in work.grid.families.values() if family.files is not None],
        detectable=detectable,
        doubts=doubts,
    )


def smaller_maps_of(grid: Grid, missing: Sequence[Cell], lacking: Mapping[str, int]) -> dict[str, int]:
    """Smaller grids that tell much of what the missing conditions of a probe do, and their predictions."""
    predictions: dict[str, int] = {}
    for family in grid.families.values():
        cells = [cell for cell in missing if cell.condition.probe == family.name] if family.smaller else []
        images = sum(images.count for _, images in {(cell.variant, cell.image_set) for cell in cells})
        for title, probes in family.smaller.items():
            smaller = make_grid(probes, Path())
            count = images * (len(smaller.conditions) - len(smaller.clean))
            if count < sum(lacking[cell.key] for cell in cells):
                predictions[title] = count
    return predictions


def packed_for(work: Work) -> dict[str, tuple[list[str], list[str]]]:
    """The checkpoints and image sets of a study by how images are made."""
    packed: dict[str, tuple[list[str], list[str]]] = {}
    for images in work.image_sets:
        models, sets = packed.setdefault(images.info.preprocessing, ([], []))
        sets.append(images.info.name)
        models += [model.name for model in work.models if takes_images(model, images.info) and model.name not in models]
    return packed


def metrics_of(work: Work, measures: Sequence[OwnMeasure]) -> list[Determined]:
    """The metrics that a study has conditions for, and whether these are all that they need."""
    conditions = dict.fromkeys((cell.image_set, cell.condition) for cell in work.cells)
    class_counts: dict[str, int] = {}
    for model, images in dict.fromkeys((cell.model, cell.image_set) for cell in work.cells):
        classes = classes_decided(images.decision_space, model.classes)
        class_counts[images.digest] = min(class_counts.get(images.digest, classes), classes)
    return determined_metrics(conditions, _schemes(work), [measure.grid_measure for measure in measures], class_counts)


def _schemes(work: Work) -> dict[str, Collection[str]]:
    return {images.info.digest: images.schemes for images in work.image_sets}


def _state(cell: Cell, images: int | None) -> str:
    if not images:
        return "missing"
    return "done" if images == cell.image_set.count else "begun"


def _estimate(
    work: Work, missing: Sequence[Cell], lacking: Mapping[str, int], rates: Mapping[Variant, float]
) -> tuple[float, str]:
    if not missing:
        return 0.0, "nothing to do"
    perturbed, attacked = by_attack(missing)
    parts = []
    if perturbed:
        parts.append(_estimate_perturbed(work, perturbed, lacking, rates))
    if attacked:
        parts.append(_estimate_attacked(work.study, attacked, lacking))
    return sum(seconds for seconds, _ in parts), "; ".join(basis for _, basis in parts)


def _estimate_perturbed(
    work: Work, cells: Sequence[Cell], lacking: Mapping[str, int], rates: Mapping[Variant, float]
) -> tuple[float, str]:
    study = work.study
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
    """The first variant that its engine does not refuse, and its measurement; the first error where all are refused."""
    errors: list[BandlensError] = []
    for variant in variants:
        try:
            return variant, measure(variant)
        except DeviceError:
            raise
        except BandlensError as error:
            errors.append(error)
    raise errors[0]


# The cost of a study wherever it runs: operations and disk; and its least time on a card of which the peak is known
H100_FP16, H100_FP32 = 989e12, 67e12
"""Dense FP16 tensor operations a second of an H100 SXM, and FP32 ones without tensor cores (NVIDIA's data sheet).
Nothing runs at a peak."""
PREDICTION_BYTES = 7.5
"""Bytes by which the database grows with a prediction (docs/measured.md)."""


@dataclass(frozen=True, slots=True)
class Cost:
    operations: float | None
    """Floating-point operations of the predictions, and of attacks with gradients in bf16; None where a network's are
    not known."""
    attack_operations: float | None
    """Operations of attacks with gradients in FP32."""
    database_bytes: float
    """Bytes by which the database will grow."""
    image_bytes: int
    """Bytes of the image sets' pixels."""

    @property
    def h100_seconds(self) -> float | None:
        """Seconds on an H100 at its peaks: a lower bound, and no measurement. None on a machine that has none."""
        machine = gpus()
        is_h100 = isinstance(machine, tuple) and "H100" in machine[0].name
        if not is_h100 or self.operations is None or self.attack_operations is None:
            return None
        return self.operations / H100_FP16 + self.attack_operations / H100_FP32


def cost_of(work: Work, images: Mapping[str, int], cells: Sequence[Cell]) -> Cost:
    """The cost of `images[key]` images of each of these cells."""
    passes, attacks = Counter[Model](), Counter[Model]()
    for cell in cells:
        if cell.condition.facts.attack and gradients(cell) == "fp32":
            attacks[cell.model] += images[cell.key] * passes_of(cell)
        else:
            passes[cell.model] += images[cell.key] * passes_of(cell)
    return Cost(
        operations=_operations(passes),
        attack_operations=_operations(attacks),
        database_bytes=PREDICTION_BYTES * sum(images.values()),
        image_bytes=sum(image_set.nbytes for image_set in work.image_sets),
    )


def _operations(passes: Mapping[Model, int]) -> float | None:
    """Operations of so many forward passes of each model; models of one known architecture are counted once."""
    from ...export.onnx.operations import count_operations  # ONNX, which a run would load to say what a study lacks

    operations_by_kind: dict[tuple[str, int, int], float] = {}
    total = 0.0
    try:
        for model, count in passes.items():
            architecture = model.sha256 if model.architecture == FINISHED else model.architecture
            kind = (architecture, model.image_size, model.classes)
            if kind not in operations_by_kind:
                operations_by_kind[kind] = count_operations(verify_model(model))
            total += count * operations_by_kind[kind]
    except ExportError:
        return None
    return total
