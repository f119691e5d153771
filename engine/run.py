"""The run: each batch is perturbed once for all checkpoints, and every cell's predictions come back in parts.

For each group of conditions, for each batch, for each condition: perturb, run every session, reduce. Perturbing the
next condition overlaps with running this one. Where the condition is an attack, what is made ahead is its start, and
the session does the rest. About once a minute the parts of the images since the last time are yielded together, so that
the database can commit them as one.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import cast

import numpy as np

from ..core.errors import BandlensError, DeviceError, UsageError
from ..core.protocol import CLASSES
from ..core.records import MULTILABEL, Cell, Condition, ImageSetInfo, Model, Variant
from ..core.timeouts import Watchdog
from ..core.user_functions import show_stack
from ..probes.arrays import Array
from ..probes.family import Batch, Buffer, Perturb
from ..probes.grid import Grid
from ..probes.images.image_set import ImageSet, Scheme
from .backends.base import ENGINES, Attacker, Session
from .cell_progress import RANGE_SECONDS, CellProgress, Outcome, Progress, flush
from .decision import Decision, best_rank, decides_by_logits, reduce_logits
from .device.gpu_errors import COMMITTED, device_errors
from .device.pixels import Take, pixels_of
from .device.streams import blas_threads, named_items, named_range, network_stream, perturbing_stream, point
from .prefetch import COUNT, Buffers, prefetch

HANG_SECONDS = 1800.0
"""Seconds without a prediction after which a GPU counts as hung: more than any batch takes, with a user's probe."""
HUNG = "the GPU has not ended any work for {seconds:.0f} s; " + COMMITTED + ", once `nvidia-smi` shows it well"


def run(
    cells: Sequence[tuple[Cell, int]],
    grid: Grid,
    resources: RunResources,
    range_seconds: float = RANGE_SECONDS,
    progress: Progress = lambda _: None,
    last: int | None = None,
) -> Iterator[list[Outcome]]:
    """Run cells of one image set and yield, range by range, the outcomes that belong into one transaction.

    Args:
        cells: each with the number of its images that are done: it goes on from there.
        grid: the families that perturb for the cells' conditions.
        resources: the images and sessions, by `make_resources`; a later run of the same images may have them again.
        range_seconds: the work that may be lost: parts are yielded after about this time.
        progress: called with the number of predictions made since the last call.
        last: the image that ends the run, itself left out; all by default.

    A cell whose logits are not finite, or whose probe raises, comes back as Failed, and the others go on. A device that
    is lost, or out of memory, ends the run with DeviceError: what was yielded before is whole. One that hangs ends the
    process, since no thread comes back from its driver. Labels must be classes of every model: see `check_labels`.
    Without labels an attack leads away from the network's own prediction.

    Between two parts the caller's code runs in the stream of the run; on NumPy the BLAS of the whole process may have
    one thread then. Close the generator in the thread that began it, since a thread's current stream is its own.
    """
    last = resources.image_set.info.count if last is None else last
    works = [CellProgress(cell, first) for cell, first in cells if first < last]
    if not works:
        return
    if not runs_on_gpu(works[0].cell):
        yield from _run_works(works, grid, resources, range_seconds, progress, last)
        return
    watchdog = Watchdog(HANG_SECONDS, HUNG)

    def signed_progress(count: int) -> None:
        watchdog.sign()
        progress(count)

    yield from watchdog.watch(_run_works(works, grid, resources, range_seconds, signed_progress, last))


def runs_on_gpu(cell: Cell) -> bool:
    """Whether the cell's model runs on a GPU."""
    return ENGINES[cell.variant.engine].arrays == "cupy"


def _run_works(
    works: Sequence[CellProgress],
    grid: Grid,
    resources: RunResources,
    range_seconds: float,
    progress: Progress,
    last: int,
) -> Generator[list[Outcome]]:
    images = resources.image_set.info
    if any(work.cell.condition.facts.attack for work in works):
        check_attackable(images)
    xp = resources.xp
    with device_errors(xp, images.size, resources.batch), network_stream(xp):
        for perturb, conditions in grid.groups(list(dict.fromkeys(work.cell.condition for work in works))):
            condition_set = set(conditions)
            members = [work for work in works if work.cell.condition in condition_set]
            for seed in dict.fromkeys(work.cell.seed for work in members):
                works_of_seed = [work for work in members if work.cell.seed == seed]
                group = _Group(perturb, seed, works_of_seed, resources, last)
                yield from _run_group(group, range_seconds, progress)


def check_tasks(image_set: ImageSet, models: Iterable[Model]) -> None:
    """UsageError where images have several labels each, and a model decides one, or the other way round."""
    multilabel = image_set.info.decision_space == MULTILABEL
    for model in models:
        if image_set.labels is not None and model.multilabel != multilabel:
            raise UsageError(
                f"image set {image_set.info.name} has {'several labels' if multilabel else 'one label'} an image, and "
                f"{model.name} decides {'one' if multilabel else 'several'}; pack it "
                f"{'without' if multilabel else 'with'} --decision-space {MULTILABEL}, or leave one of them out"
            )


def check_labels(image_set: ImageSet, models: Iterable[Model]) -> None:
    """UsageError when an image's label, or a class that ReaL lists for it, is one that a model does not have."""
    if not decides_by_logits(image_set.info.decision_space):
        for model in models:
            if model.classes != CLASSES:
                raise UsageError(
                    f"image set {image_set.info.name} is decided between classes of ImageNet, and {model.name} has "
                    f"{model.classes} classes, not {CLASSES}; leave one of them out"
                )
        return
    schemes = [image_set.schemes["real"]] if "real" in image_set.schemes else []
    if image_set.labels is not None:
        schemes.append(Scheme(np.arange(len(image_set.labels)), image_set.labels))
    for model in models:
        for rows, classes in schemes:
            for beyond in np.flatnonzero(classes >= model.classes)[:1]:
                raise UsageError(
                    f"image set {image_set.info.name}: {image_set.paths[rows[beyond]]} is labelled {classes[beyond]}, "
                    f"but {model.name} has {model.classes} classes; pack the images with labels of that model"
                )


def check_attackable(images: ImageSetInfo) -> None:
    """UsageError for images whose decision is not the argmax over all classes: an attack has no loss for another."""
    if not decides_by_logits(images.decision_space):
        raise UsageError(
            f"image set {images.name} decides among {images.decision_space}, and attacks need a decision among all "
            "classes; leave it out of studies with attacks"
        )


@dataclass(frozen=True, slots=True)
class RunResources:
    """The images, sessions and buffers of a run, in the memory of its array module.

    `sessions` have the same batch, and those of attacked cells are Attackers. `xp` is the array module whose batches
    they take; it is NumPy for attacks, wherever they compute.
    """

    xp: ModuleType
    image_set: ImageSet
    sessions: Mapping[Variant, Session]
    batch: int
    take: Take
    decision: Decision
    labels: Array | None
    """(n,) indices of the labels among the scores, in the memory where the logits are."""
    accepted: Array | None
    """(n, k) classes that count as right, as `best_rank` takes them, where images have several."""
    arrays: list[Array]
    """The buffers. A CUDA graph belongs to the address of its input, so they stay the same to the end of the run."""


def make_resources(xp: ModuleType, image_set: ImageSet, sessions: Mapping[Variant, Session]) -> RunResources:
    """Make what runs of these images need. Sessions of the same batch may join `sessions` later."""
    batch = next(iter(sessions.values())).info.batch
    decision = Decision(xp, image_set.info.decision_space)
    with device_errors(xp, image_set.info.size, batch):
        # CuPy gives a block of memory that is freed to the next work of the stream in which it was allocated. So what
        # a stream writes is allocated there, and no run that is interrupted has to wait for its end.
        with perturbing_stream(xp):
            arrays = [xp.empty((batch, *image_set.shape[1:]), dtype=xp.float32) for _ in range(COUNT)]
            take = pixels_of(xp, image_set, batch)
        with network_stream(xp):
            labels = decision.score_indices(image_set.labels)
            label_lists = image_set.schemes.get("real") if decides_by_logits(decision.space) else None
            accepted = None if label_lists is None else xp.asarray(label_lists.padded(image_set.info.count))
    return RunResources(xp, image_set, sessions, batch, take, decision, labels, accepted, arrays)


@dataclass(frozen=True, slots=True)
class _Group:
    """Cells whose conditions are perturbed together."""

    perturb: Perturb
    seed: int
    works: list[CellProgress]
    resources: RunResources
    last: int
    """The image that ends the run."""

    @property
    def conditions(self) -> list[Condition]:
        return list(dict.fromkeys(work.cell.condition for work in self.works))

    def lacking(self, first: int) -> list[Condition]:
        """The conditions under which some cell still needs the batch that begins at `first`."""
        needing = (work for work in self.works if not work.error and work.first < first + self.resources.batch)
        return list(dict.fromkeys(work.cell.condition for work in needing))

    def by_condition(self) -> list[_Group]:
        return [
            replace(self, works=[work for work in self.works if work.cell.condition == condition])
            for condition in self.conditions
        ]

    def flush(self) -> list[Outcome]:
        with named_range(self.resources.xp, "flush"):
            return flush(self.resources.xp, self.works)


def _run_group(group: _Group, range_seconds: float, progress: Progress) -> Iterator[list[Outcome]]:
    try:
        yield from _run_batches(group, range_seconds, progress)
    except DeviceError:
        raise
    except BandlensError as error:  # the probe raised it
        smaller_groups = group.by_condition()
        if len(smaller_groups) == 1:
            show_stack(error)
            for work in group.works:
                work.error = work.error or str(error)
        else:
            yield group.flush()
            for smaller_group in smaller_groups:  # each condition alone shows which of them fail
                yield from _run_group(smaller_group, range_seconds, progress)
    yield group.flush()


def _run_batches(group: _Group, range_seconds: float, progress: Progress) -> Iterator[list[Outcome]]:
    range_start = time.monotonic()
    works: dict[Condition, list[CellProgress]] = {}
    for work in group.works:
        works.setdefault(work.cell.condition, []).append(work)
    xp = group.resources.xp
    buffers = Buffers(xp, group.resources.arrays)
    # Perturbing has one thread, and on a CPU its products of small matrices must not take those of the sessions.
    with blas_threads(xp, 1), prefetch(lambda buffer: _perturbed(group, buffer), buffers) as batches:
        for first, condition, pixels, images in batches:
            # Parts end between conditions too: a batch of many models and conditions can take a quarter of an hour.
            if time.monotonic() - range_start > range_seconds:
                yield group.flush()
                range_start = time.monotonic()
            for work in works[condition]:
                if not work.error:
                    progress(_infer(group, work, first, pixels, images))
            buffers.give(images)


def _perturbed(group: _Group, buffer: Buffer) -> Iterator[tuple[int, Condition, Array, Array]]:
    """Every batch, as it is and under every condition; the last one is padded with its last image."""
    xp, batch, count = group.resources.xp, group.resources.batch, group.resources.image_set.info.count
    for first in range(min(work.first for work in group.works), group.last, batch):
        conditions = group.lacking(first)
        if not conditions:
            continue
        index = np.minimum(np.arange(first, first + batch), count - 1)
        keys = xp.asarray(group.resources.image_set.keys[index])
        images_of_batch = Batch(group.resources.take(index), keys, index, group.seed)
        perturbed = group.perturb(xp, images_of_batch, conditions, buffer)
        for condition, images in named_items(xp, "perturb", perturbed):
            yield first, condition, images_of_batch.pixels, images


def _infer(group: _Group, work: CellProgress, first: int, pixels: Array, images: Array) -> int:
    """Run one cell's model on one batch and keep the rows that the cell still needs; gives their number."""
    resources = group.resources
    begin = max(work.first + work.pending - first, 0)  # the number of this batch's rows that the cell has already
    end = min(resources.batch, group.last - first)
    if begin >= end:
        return 0
    rows = slice(first + begin, first + end)
    labels = None if resources.labels is None else resources.labels[rows]
    session, condition = resources.sessions[work.cell.variant], work.cell.condition
    start = point(resources.xp)
    try:
        with named_range(resources.xp, "model"):
            if condition.facts.attack:
                logits = cast(Attacker, session).attacked(condition, pixels[begin:end], labels, images[begin:end])
            else:
                logits = session.infer(images, slice(begin, end))[begin:end]
    except DeviceError:
        raise
    except BandlensError as error:
        work.error = str(error)
        return 0
    # The session's next batch overwrites the logits. They are reduced now, in the stream of all networks; the small
    # columns stay on the card until the part is flushed.
    with named_range(resources.xp, "reduce"):
        scores = resources.decision.scores(logits)
        predicted, rank, confidence = reduce_logits(resources.xp, scores, labels)
        best = None if resources.accepted is None else best_rank(resources.xp, scores, resources.accepted[rows])
    work.columns.append((resources.decision.classes(predicted), rank, confidence, best))
    work.times.append((start, point(resources.xp)))
    work.pending += end - begin
    return end - begin
