"""The run: each batch is perturbed once for all checkpoints, and every cell's predictions come back in parts.

For each group of conditions, for each batch, for each condition: perturb, run every session, reduce. Perturbing the
next condition overlaps with running this one. Where the condition is an attack, what is made ahead is its start, and
the session does the rest. About once a minute the parts of the images since the last time are yielded together, so that
the database can commit them as one.
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
"""Seconds without a prediction after which a GPU counts as hung: more than any batch takes, with a user's probe."""
HUNG = "the GPU has not ended any work for {seconds:.0f} s; " + COMMITTED + ", once `nvidia-smi` shows it well"


def run(
    cells: Sequence[tuple[Cell, int]],
    grid: Grid,
    resources: RunResources,
    range_seconds: float = inf,
    progress: Callable[[int], None] = lambda _: None,
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
    process, since no thread comes back from its driver. Labels must be classes of every model, and what attacks decide
    be one of all classes: whoever resolves a study sees to both. Without labels an attack leads away from the network's
    own prediction.

    Between two parts the caller's code runs in the stream of the run; on NumPy the BLAS of the whole process may have
    one thread then. Close the generator in the thread that began it, since a thread's current stream is its own.
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
        watchdog.sign()
        progress(count)

    yield from watchdog.watch(_run_groups(groups, range_seconds, signed_progress))


def runs_on_gpu(cell: Cell) -> bool:
    """Whether the cell's model runs on a GPU."""
    return ENGINES[cell.variant.engine].arrays == "cupy"


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
    several: Array | None
    """(n, k) classes, as `best_class` takes them, the best of which stands for the label where images have several."""
    accepted: Array | None
    """(n, k) classes that ReaL accepts, as `best_rank` takes them."""
    arrays: list[Array]
    """The buffers. A CUDA graph belongs to the address of its input, so they stay the same to the end of the run."""
    works: list[CellProgress] = field(default_factory=list)
    """The cells of the present run."""


def make_resources(xp: ModuleType, image_set: ImageSet, sessions: Mapping[Variant, Session]) -> RunResources:
    """Make what runs of these images need. Sessions of the same batch may join `sessions` later."""
    batch = next(iter(sessions.values())).info.batch
    with device_errors(xp, image_set.info.size, batch):
        # CuPy gives a block of memory that is freed to the next work of the stream in which it was allocated. So what
        # a stream writes is allocated there, and no run that is interrupted has to wait for its end.
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
"""The columns of `Predictions`, in their order."""


class CellBatch(NamedTuple):
    """The columns of a batch of a cell."""

    columns: Columns
    start: Point
    end: Point
    """The points at which the model began and ended the batch."""
    pending: int
    """The number of the cell's images that are not yet yielded, up to this batch."""


@dataclass(slots=True)
class CellProgress:
    """A cell under way, and the batches that are not yet yielded; a batch joins these in one step of Python's."""

    cell: Cell
    first: int
    """The first image that is not yet yielded."""
    batches: list[CellBatch] = field(default_factory=list)
    error: str | None = None
    has_ended: bool = False

    @property
    def pending(self) -> int:
        return self.batches[-1].pending if self.batches else 0


def flush(xp: ModuleType, works: Sequence[CellProgress]) -> list[Outcome]:
    """The parts of cells of one image set since the last time, or their failures, where there is one to yield.

    The columns of all of them are joined first, so that an array of each column comes from a GPU, and not of each cell.
    Another thread may call this while the run is interrupted, so each cell is looked at once.
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
                # The copies to the host above have waited for the stream, so the device has passed all of these points.
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
    """Cells of one seed whose conditions are perturbed together."""

    perturb: Perturb
    works: list[CellProgress]
    resources: RunResources
    last: int
    """The image that ends the run."""

    def lacking(self, first: int) -> list[Condition]:
        """The conditions under which some cell still needs the batch that begins at `first`."""
        needing = (work for work in self.works if not work.error and work.first < first + self.resources.batch)
        return list(dict.fromkeys(work.cell.condition for work in needing))

    def by_condition(self) -> dict[Condition, list[CellProgress]]:
        works: dict[Condition, list[CellProgress]] = {}
        for work in self.works:
            works.setdefault(work.cell.condition, []).append(work)
        return works

    def flush(self) -> list[Outcome]:
        return flush(self.resources.xp, self.works)


def _run_groups(
    groups: Sequence[_Group], range_seconds: float, progress: Callable[[int], None]
) -> Generator[list[Outcome]]:
    resources = groups[0].resources
    with device_errors(resources.xp, resources.image_set.info.size, resources.batch), network_stream(resources.xp):
        for group in groups:
            yield from _run_group(group, range_seconds, progress)


def _run_group(group: _Group, range_seconds: float, progress: Callable[[int], None]) -> Iterator[list[Outcome]]:
    try:
        yield from _run_batches(group, range_seconds, progress)
    except DeviceError:
        raise
    except BandlensError as error:  # the probe raised it
        conditions = group.by_condition()
        if len(conditions) == 1:
            show_stack(error)
            for work in group.works:
                work.error = work.error or str(error)
        else:
            yield group.flush()
            for works in conditions.values():  # each condition alone shows which of them fail
                yield from _run_group(replace(group, works=works), range_seconds, progress)
    yield group.flush()


def _run_batches(group: _Group, range_seconds: float, progress: Callable[[int], None]) -> Iterator[list[Outcome]]:
    range_start = time.monotonic()
    works, xp = group.by_condition(), group.resources.xp
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
        images_of_batch = Batch(group.resources.take(index), keys, index, group.works[0].cell.seed)
        for condition, images in group.perturb(xp, images_of_batch, conditions, buffer):
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
    scores = resources.decision.scores(logits)
    if resources.several is not None:
        labels = best_class(resources.xp, scores, resources.several[rows])
    predicted, rank, confidence, probability = reduce_logits(resources.xp, scores, labels)
    real_rank = None if resources.accepted is None else best_rank(resources.xp, scores, resources.accepted[rows])
    columns = (resources.decision.classes(predicted), rank, confidence, real_rank, probability)
    work.batches.append(CellBatch(columns, start, point(resources.xp), work.pending + end - begin))
    return end - begin
