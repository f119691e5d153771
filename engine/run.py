"""Run models on perturbed images. Each batch is perturbed once for all models.

The loop is: for each group of conditions, for each batch, for each condition: perturb the batch, run every session on
it, and reduce the logits to predictions. Perturbing the next condition overlaps with running the current one. For
adversarial attacks only the starting point is prepared ahead; the session computes the attack itself.

About once a minute the predictions since the last time are yielded together, so that the database can commit them in
one transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from types import ModuleType
from typing import Any, NamedTuple, cast

import numpy as np

from ..core.custom.call import show_stack
from ..core.errors import BandlensError, DeviceError
from ..core.records import SEVERAL, Cell, Condition, Failed, Finished, Predictions, Variant
from ..core.timeouts import Watchdog
from ..probes.arrays import Array, to_numpy
from ..probes.family import Batch, Buffer, Perturb
from ..probes.grid import Grid
from ..probes.images.image_set import ImageSet
from .backends.base import ENGINES, Attacker, Session
from .decision import Decision, best_class, best_rank, reduce_logits
from .device.gpu_errors import COMMITTED, device_errors
from .device.run_images import Take, streamed
from .device.streams import (
    Point,
    blas_threads,
    network_stream,
    perturbing_stream,
    point,
    seconds_between,
)
from .prefetch import COUNT, Buffers, prefetch
from .tasks import Outcome, cells_together

HANG_SECONDS = 1800.0
"""Seconds without a prediction after which a GPU is considered hung.

Longer than any batch takes, even with a custom probe.
"""
HUNG = "the GPU has not ended any work for {seconds:.0f} s; " + COMMITTED + ", once `nvidia-smi` shows it well"
"""Error message for a GPU that hangs."""


def run(
    cells: Sequence[tuple[Cell, int]],
    grid: Grid,
    resources: RunResources,
    range_seconds: float = inf,
    progress: Callable[[int], None] = lambda _: None,
    last: int | None = None,
) -> Iterator[list[Outcome]]:
    """Run cells of one image set and yield lists of outcomes, each of which belongs in one transaction.

    The caller has to validate two things when it resolves a study: labels are valid classes of every model, and
    attacked cells use all classes as their decision space. Without labels an attack maximizes the loss of the class
    that the model predicts for the clean image.

    Between two yields the caller's code runs in the CUDA stream of the run, and with NumPy the BLAS library of the
    whole process may be limited to one thread. Close the generator in the thread that started it, because the current
    CUDA stream is a property of the thread.

    A device that hangs ends the process, because a thread that is blocked in the driver cannot be stopped.

    Args:
        cells: Each cell with the number of its images that have been computed before. The cell continues there.
        grid: Provides the probe families for the conditions of the cells.
        resources: The images, sessions and buffers, from `make_resources`. A later run on the same images may reuse
            them.
        range_seconds: Interval in seconds at which outcomes are yielded. A crash loses at most this much work.
        progress: Called with the number of predictions since the last call.
        last: Index after the last image of the run. By default the number of images in the set.

    Yields:
        Outcomes of the images since the last yield. A cell whose logits are not finite, or whose probe raises an error,
        yields `Failed`, and the other cells continue.

    Raises:
        DeviceError: If the device is lost or out of memory. Everything yielded before is complete.
    """
    last = resources.image_set.info.count if last is None else last
    works = {cell: CellProgress(cell, first) for cell, first in cells if first < last}
    if not works:
        return
    resources.works[:] = works.values()
    groups = [
        _Group(grid.family(members[0].condition).perturb, [works[cell] for cell in members], resources, last)
        for members in cells_together(list(works), grid)
    ]
    if not runs_on_gpu(next(iter(works))):
        yield from _run_groups(groups, range_seconds, progress)
        return
    watchdog = Watchdog(HANG_SECONDS, HUNG)

    def signed_progress(count: int) -> None:
        """Reset the watchdog, then report progress."""
        watchdog.sign()
        progress(count)

    yield from watchdog.watch(_run_groups(groups, range_seconds, signed_progress))


def runs_on_gpu(cell: Cell) -> bool:
    """Return whether the model of the cell runs on a GPU."""
    return ENGINES[cell.variant.engine].arrays == "cupy"


@dataclass(frozen=True, slots=True)
class RunResources:
    """The images, sessions and buffers of a run, in the memory of its array module.

    All sessions have the same batch size. Sessions of attacked cells are Attackers. `xp` is the array module of the
    batches that the sessions accept. It is NumPy for attacks, even if they compute on a GPU.
    """

    xp: ModuleType
    image_set: ImageSet
    sessions: Mapping[Variant, Session]
    batch: int
    take: Take
    decision: Decision
    labels: Array | None
    """(n,) column indices of the labels among the scores, on the device of the logits."""
    several: Array | None
    """(n, k) correct classes per image for multi-label sets, as `best_class` expects them.

    The best-ranked of them replaces the label.
    """
    accepted: Array | None
    """(n, k) classes that the ReaL labels accept, as `best_rank` expects them."""
    arrays: list[Array]
    """Buffers for perturbed batches.

    A CUDA graph is bound to the address of its input, so the same buffers are used until the end of the run.
    """
    works: list[CellProgress] = field(default_factory=list)
    """Progress of the cells of the current run."""


def make_resources(xp: ModuleType, image_set: ImageSet, sessions: Mapping[Variant, Session]) -> RunResources:
    """Allocate what runs on these images need. Sessions with the same batch size may be added to `sessions` later."""
    batch = next(iter(sessions.values())).info.batch
    with device_errors(xp, image_set.info.size, batch):
        # CuPy's memory pool reuses a freed block for later work in the stream in which it was allocated. Allocating
        # each buffer in the stream that writes it means that reuse is ordered by the stream, and an interrupted run
        # needs no synchronization.
        with perturbing_stream(xp):
            arrays = [xp.empty((batch, *image_set.shape[1:]), dtype=xp.float32) for _ in range(COUNT)]
            take = image_set.take if xp is np else streamed(xp, image_set, batch)
        with network_stream(xp):
            decision = Decision(xp, image_set.info.decision_space)
            labels = decision.score_indices(image_set.labels)
            schemes = image_set.schemes if decision.by_logits else {}
            several, accepted = (
                xp.asarray(schemes[name].padded(image_set.info.count)) if name in schemes else None
                for name in (SEVERAL, "real")
            )
    return RunResources(xp, image_set, sessions, batch, take, decision, labels, several, accepted, arrays)


Columns = tuple[Array, Array | None, Array, Array | None, Array | None]
"""The columns of `Predictions`, in the same order."""


class CellBatch(NamedTuple):
    """The predictions for one batch of a cell, on the device."""

    columns: Columns
    start: Point
    """Event recorded in the stream before the model ran on the batch."""
    end: Point
    """Event recorded after it."""
    pending: int
    """Number of the cell's images that are computed and not yet yielded, including this batch."""


@dataclass(slots=True)
class CellProgress:
    """A cell that is being computed, with the batches that have not been yielded yet.

    A batch is added by a single `append`, which is atomic in Python, because another thread may call `flush` after the
    run was interrupted at any point.
    """

    cell: Cell
    first: int
    """Index of the first image that has not been yielded."""
    batches: list[CellBatch] = field(default_factory=list)
    error: str | None = None
    has_ended: bool = False

    @property
    def pending(self) -> int:
        """Number of images that are computed and not yet yielded."""
        return self.batches[-1].pending if self.batches else 0


def flush(xp: ModuleType, works: Sequence[CellProgress]) -> list[Outcome]:
    """Return the outcomes of the cells since the last call: their new predictions, or their failure.

    The columns of all cells are concatenated on the device first. One array per column is then copied to the host,
    instead of one array per column and cell.

    Another thread may call this while the run is interrupted, so the state of each cell is read only once.
    """
    states = [(work, work.first, [*work.batches], work.error) for work in works if not work.has_ended]
    pieces = [batch.columns for _, _, batches, error in states if not error for batch in batches]
    columns = [None if column[0] is None else to_numpy(xp.concatenate(column)) for column in zip(*pieces, strict=True)]
    outcomes: list[Outcome] = []
    row = 0
    for work, first, batches, error in states:
        if error is None and batches:
            count = batches[-1].pending
            rows, row = slice(row, row + count), row + count
            cell_columns: list[Any] = [None if column is None else column[rows] for column in columns]
            cell_predictions = Predictions(*cell_columns)
            nan_rows = np.flatnonzero(np.isnan(cell_predictions.confidence))
            if not len(nan_rows):
                # The copies to the host above have synchronized with the stream, so all of these events have occurred
                # and their times can be read.
                seconds = sum(seconds_between(xp, batch.start, batch.end) for batch in batches)
                outcomes.append(Finished(work.cell, first, cell_predictions, seconds))
                work.first, work.batches = first + count, []
                continue
            work.error = f"logits are not finite at image {first + nan_rows[0]}; check the weights and the precision"
        if work.error:
            work.has_ended = True
            outcomes.append(Failed(work.cell, work.error))
    return outcomes


@dataclass(frozen=True, slots=True)
class _Group:
    """Cells with the same seed whose conditions are perturbed together."""

    perturb: Perturb
    works: list[CellProgress]
    resources: RunResources
    last: int
    """Index after the last image of the run."""

    def lacking(self, first: int) -> list[Condition]:
        """Return the conditions under which at least one cell still needs the batch that starts at image `first`."""
        needing = (work for work in self.works if not work.error and work.first < first + self.resources.batch)
        return list(dict.fromkeys(work.cell.condition for work in needing))

    def by_condition(self) -> dict[Condition, list[CellProgress]]:
        """Return the progress of the cells, grouped by condition."""
        works: dict[Condition, list[CellProgress]] = {}
        for work in self.works:
            works.setdefault(work.cell.condition, []).append(work)
        return works

    def flush(self) -> list[Outcome]:
        """Return the outcomes of the group's cells since the last call."""
        return flush(self.resources.xp, self.works)


def _run_groups(
    groups: Sequence[_Group], range_seconds: float, progress: Callable[[int], None]
) -> Generator[list[Outcome]]:
    """Run the groups one after another, in the stream of all models."""
    resources = groups[0].resources
    with device_errors(resources.xp, resources.image_set.info.size, resources.batch), network_stream(resources.xp):
        for group in groups:
            yield from _run_group(group, range_seconds, progress)


def _run_group(group: _Group, range_seconds: float, progress: Callable[[int], None]) -> Iterator[list[Outcome]]:
    """Run a group. If a probe raises an error, run each condition alone, so that only the failing ones fail."""
    try:
        yield from _run_batches(group, range_seconds, progress)
    except DeviceError:
        raise
    except BandlensError as error:  # raised by the probe
        conditions = group.by_condition()
        if len(conditions) == 1:
            show_stack(error)
            for work in group.works:
                work.error = work.error or str(error)
        else:
            yield group.flush()
            for works in conditions.values():  # retry each condition alone to find out which ones fail
                yield from _run_group(replace(group, works=works), range_seconds, progress)
    yield group.flush()


def _run_batches(group: _Group, range_seconds: float, progress: Callable[[int], None]) -> Iterator[list[Outcome]]:
    """Run the batches of a group while a thread perturbs the next ones."""
    range_start = time.monotonic()
    works, xp = group.by_condition(), group.resources.xp
    buffers = Buffers(xp, group.resources.arrays)
    # Perturbing runs in a thread beside the inference threads. Limit BLAS to one thread, or small matrix products on a
    # CPU would take cores away from the sessions.
    with blas_threads(xp, 1), prefetch(lambda buffer: _perturbed(group, buffer), buffers) as batches:
        for first, condition, pixels, images in batches:
            # Yield between conditions as well, because one batch with many models and conditions can take a quarter of
            # an hour.
            if time.monotonic() - range_start > range_seconds:
                yield group.flush()
                range_start = time.monotonic()
            for work in works[condition]:
                if not work.error:
                    progress(_infer(group, work, first, pixels, images))
            buffers.give(images)


def _perturbed(group: _Group, buffer: Buffer) -> Iterator[tuple[int, Condition, Array, Array]]:
    """Yield every batch under every condition that is still needed, together with its clean images.

    The last batch is padded by repeating the last image.
    """
    xp, batch, count = group.resources.xp, group.resources.batch, group.resources.image_set.info.count
    for first in range(min(work.first for work in group.works), group.last, batch):
        conditions = group.lacking(first)
        if not conditions:
            continue
        index = np.minimum(np.arange(first, first + batch), count - 1)
        keys = xp.asarray(group.resources.image_set.keys[index])
        images_of_batch = Batch(group.resources.take(index), keys, index, group.works[0].cell.seed)
        for condition, images in group.perturb(xp, images_of_batch, conditions, buffer):
            yield first, condition, images_of_batch.pixels, images


def _infer(group: _Group, work: CellProgress, first: int, pixels: Array, images: Array) -> int:
    """Run one model on one batch and store the predictions that the cell still needs. Return their number."""
    resources = group.resources
    begin = max(work.first + work.pending - first, 0)  # number of rows of this batch that the cell already has
    end = min(resources.batch, group.last - first)
    if begin >= end:
        return 0
    rows = slice(first + begin, first + end)
    labels = None if resources.labels is None else resources.labels[rows]
    session, condition = resources.sessions[work.cell.variant], work.cell.condition
    start = point(resources.xp)
    try:
        if condition.facts.attack:
            logits = cast(Attacker, session).attacked(condition, pixels[begin:end], labels, images[begin:end])
        else:
            logits = session.infer(images, slice(begin, end))[begin:end]
    except DeviceError:
        raise
    except BandlensError as error:
        work.error = str(error)
        return 0
    # The session overwrites its logits with the next batch, so they are reduced now, in the stream that all models
    # share. The small result columns stay on the GPU until the next flush.
    scores = resources.decision.scores(logits)
    if resources.several is not None:
        labels = best_class(resources.xp, scores, resources.several[rows])
    predicted, rank, confidence, probability = reduce_logits(resources.xp, scores, labels)
    real_rank = None if resources.accepted is None else best_rank(resources.xp, scores, resources.accepted[rows])
    columns = (resources.decision.classes(predicted), rank, confidence, real_rank, probability)
    work.batches.append(CellBatch(columns, start, point(resources.xp), work.pending + end - begin))
    return end - begin
