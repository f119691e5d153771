"""Attacks: images that each checkpoint gets for itself, and what it predicts for them.

The network that is attacked is the exported fp32 ONNX file, turned into torch, and it is the same that judges. Cells of
attacks have an engine of their own; parts, tables and rules are otherwise those of `engine.run`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import BandlensError, DeviceError, UsageError
from ..probes.attacks import uniform_start
from ..probes.images.image_set import ImageSet
from ..records import Cell, ImageSetInfo, Model, SessionInfo, Variant
from .backends.base import engine_of
from .cell_progress import RANGE_SECONDS, CellProgress, Outcome, Progress
from .decision import ALL, reduce_logits
from .device.devices import processor_name
from .device.streams import point

if TYPE_CHECKING:
    from .backends.torch import Attackable

ATTACK_ENGINES = {"numpy": "torch", "cupy": "torch-cuda"}
"""Where attacks run, by the array module of the engine that runs the rest of the study."""


def attack_variant(model: Model, engine: str) -> Variant:
    """What is attacked where a study runs on that engine: the fp32 file, in torch, on the same kind of device."""
    return Variant(model, ATTACK_ENGINES[engine_of(engine).arrays], "fp32", model.path, model.sha256)


def check_attackable(images: ImageSetInfo) -> None:
    """UsageError for images whose decision is not the argmax over all classes: an attack has no loss for another."""
    if images.decision_space != ALL:
        raise UsageError(
            f"image set {images.name} decides among {images.decision_space}, and attacks need a decision among all "
            "classes; leave it out of studies with attacks"
        )


def attack_info(variant: Variant, batch: int, threads: int) -> SessionInfo:
    """What attacks on the variant run on; EngineError where torch cannot use the device."""
    import torch

    from .backends.torch import check_gpu

    versions = {"torch": torch.__version__, "numpy": np.__version__}
    if variant.engine == "torch":
        return SessionInfo(processor_name(), batch, threads, json.dumps(versions))
    gpu = check_gpu()
    return SessionInfo(gpu.name, batch, 0, json.dumps(versions | {"driver": gpu.driver}))


def step_seconds(variant: Variant, batch: int, threads: int) -> float:
    """What a step of an attack takes for an image, measured with one batch: an estimate of many of them."""
    from .backends.torch import Attackable, single_precision

    with single_precision(threads):
        return Attackable(variant).step_seconds(batch)


def run_attacks(
    cells: Sequence[tuple[Cell, int]],
    image_set: ImageSet,
    batch: int,
    threads: int,
    range_seconds: float = RANGE_SECONDS,
    progress: Progress = lambda _: None,
    last: int | None = None,
    network: Callable[[Variant], Attackable] | None = None,
) -> Iterator[list[Outcome]]:
    """Run cells of attacks on one image set and yield the outcomes that belong into one transaction.

    Checkpoint by checkpoint and cell by cell, so that one network is in memory at a time. Arguments and outcomes are
    those of `engine.run.run`: a network that cannot be attacked fails its own cells, and a device that is lost or out
    of memory ends the run with DeviceError. Without labels the attack leads away from the network's own prediction for
    the clean image.

    Args:
        cells: each with the number of its images that are done. Their variants are those of `attack_variant`.
        image_set: what the cells are about; see `check_attackable`.
        batch: images that are attacked at once.
        threads: of the CPU, for torch.
        range_seconds: parts are yielded after about this time, at the end of a batch.
        progress: called with the number of predictions made since the last call.
        last: the image that ends the run, itself left out; all by default.
        network: gives the network of a variant, which is loaded by default.
    """
    check_attackable(image_set.info)
    last = image_set.info.count if last is None else last
    works = [CellProgress(cell, done) for cell, done in cells if done < last]
    if not works:
        return
    from .backends.torch import Attackable, single_precision

    with single_precision(threads):
        for variant in dict.fromkeys(work.cell.variant for work in works):
            mine = [work for work in works if work.cell.variant == variant]
            yield from _run_variant(mine, network or Attackable, _Job(image_set, last, batch, range_seconds, progress))


@dataclass(frozen=True, slots=True)
class _Job:
    """What all cells of a run have in common."""

    image_set: ImageSet
    last: int
    """The image that ends the run."""
    batch: int
    range_seconds: float
    progress: Progress


def _run_variant(
    works: Sequence[CellProgress], load: Callable[[Variant], Attackable], job: _Job
) -> Iterator[list[Outcome]]:
    try:
        network = load(works[0].cell.variant)
    except DeviceError:
        raise
    except BandlensError as error:
        for work in works:
            work.error = str(error)
        yield [outcome for work in works for outcome in work.flush(np)]
        return
    for work in works:
        yield from _run_cell(work, network, job)


def _run_cell(work: CellProgress, network: Attackable, job: _Job) -> Iterator[list[Outcome]]:
    started = time.monotonic()
    firsts = range(work.first, job.last, job.batch)
    for batch in _ahead(lambda first: _prepare(work.cell, job, first), firsts):
        if time.monotonic() - started > job.range_seconds:
            yield work.flush(np)
            started = time.monotonic()
        begun = point(np)
        try:
            logits = network.attacked(work.cell.condition, batch.pixels, batch.labels, batch.start)
        except DeviceError:
            raise
        except BandlensError as error:
            work.error = str(error)
            break
        work.columns.append(reduce_logits(np, logits, batch.labels))
        work.times.append((begun, point(np)))
        work.pending += len(logits)
        job.progress(len(logits))
    yield work.flush(np)


@dataclass(frozen=True, slots=True)
class _Batch:
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int32] | None
    start: NDArray[np.float32]


def _prepare(cell: Cell, job: _Job, first: int) -> _Batch:
    images = job.image_set
    rows = np.arange(first, min(first + job.batch, job.last))
    labels = None if images.labels is None else images.labels[rows]
    return _Batch(images.take(rows), labels, uniform_start(cell.seed, images.keys[rows], images.info.size))


def _ahead(make: Callable[[int], _Batch], firsts: Iterable[int]) -> Iterator[_Batch]:
    """What `make` gives for each, made by a thread while the one before is in use."""
    with ThreadPoolExecutor(1, "prepare") as pool:
        waiting = None
        for first in firsts:
            following = pool.submit(make, first)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
