"""The run: each batch is perturbed once for all checkpoints, and every cell's predictions come back in parts.

For each group of conditions, for each batch, for each condition: perturb, run every session, reduce. Perturbing the
next condition overlaps with running this one. Where the condition is an attack, what is made ahead is its start, and
the session does the rest. About once a minute the parts of the images since the last time are yielded together, so that
whoever stores them can commit them as one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, cast

import numpy as np

from ..errors import BandlensError, DeviceError, UsageError
from ..probes.arrays import Array
from ..probes.family import Batch, Buffer, Perturb
from ..probes.grid import Grid
from ..probes.images.image_set import ImageSet
from ..protocol import CLASSES
from ..records import Cell, Condition, ImageSetInfo, Model, Variant
from .backends.base import Attacker, Session
from .cell_progress import RANGE_SECONDS, CellProgress, Outcome, Progress
from .decision import ALL, Decision, reduce_logits
from .device.pixels import Take, pixels_of
from .device.streams import device_errors, finish, new_stream, point, until_done
from .prefetch import COUNT, Buffers, prefetch


def run(
    cells: Sequence[tuple[Cell, int]],
    image_set: ImageSet,
    grid: Grid,
    sessions: Mapping[Variant, Session],
    xp: ModuleType = np,
    range_seconds: float = RANGE_SECONDS,
    progress: Progress = lambda _: None,
    last: int | None = None,
    place: Place | None = None,
) -> Iterator[list[Outcome]]:
    """Run cells of one image set and yield, range by range, the outcomes that belong into one transaction.

    Args:
        cells: each with the number of its images that are done: it goes on from there.
        image_set: what the cells are about.
        grid: the families that perturb for the cells' conditions.
        sessions: all with the same batch; those of attacked cells are Attackers.
        xp: the array module whose batches the sessions take; NumPy for attacks, wherever they compute.
        range_seconds: how much work may be lost: parts are yielded after about this time.
        progress: called with the number of predictions made since the last call.
        last: the image that ends the run, itself left out; all by default.
        place: where earlier runs of the same images and sessions happened, so that what lies there is used again.

    A cell whose logits are not finite, or whose probe raises, comes back as Failed, and the others go on. A device that
    is lost, or out of memory, ends the run with DeviceError: what was yielded before is whole. Labels must be classes
    of every model: see `check_labels`. Without labels an attack leads away from the network's own prediction.
    """
    last = image_set.info.count if last is None else last
    works = [CellProgress(cell, done) for cell, done in cells if done < last]
    if not works:
        return
    if any(work.cell.condition.facts.attack for work in works):
        check_attackable(image_set.info)
    batch = next(iter(sessions.values())).info.batch
    with device_errors(xp, image_set.info.size, batch), new_stream(xp), until_done(xp):
        place = place or make_place(xp, image_set, sessions)
        for perturb, conditions in grid.groups(list(dict.fromkeys(work.cell.condition for work in works))):
            chosen = set(conditions)
            members = [work for work in works if work.cell.condition in chosen]
            for seed in dict.fromkeys(work.cell.seed for work in members):
                group = _Group(perturb, seed, [work for work in members if work.cell.seed == seed], place, last)
                yield from _run_group(group, range_seconds, progress)


def check_labels(image_set: ImageSet, models: Iterable[Model]) -> None:
    """UsageError when an image's label is a class that a model does not have."""
    if image_set.info.decision_space != ALL:
        for model in models:
            if model.classes != CLASSES:
                raise UsageError(
                    f"image set {image_set.info.name} is decided between classes of ImageNet, and {model.name} has "
                    f"{model.classes} classes, not {CLASSES}; leave one of them out"
                )
        return
    if image_set.labels is None or not len(image_set.labels):
        return
    worst = int(np.argmax(image_set.labels))
    for model in models:
        if image_set.labels[worst] >= model.classes:
            raise UsageError(
                f"image set {image_set.info.name}: {image_set.paths[worst]} is labelled {image_set.labels[worst]}, but "
                f"{model.name} has {model.classes} classes; pack the images with labels of that model"
            )


def check_attackable(images: ImageSetInfo) -> None:
    """UsageError for images whose decision is not the argmax over all classes: an attack has no loss for another."""
    if images.decision_space != ALL:
        raise UsageError(
            f"image set {images.name} decides among {images.decision_space}, and attacks need a decision among all "
            "classes; leave it out of studies with attacks"
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run happens."""

    xp: ModuleType
    image_set: ImageSet
    sessions: Mapping[Variant, Session]
    batch: int
    take: Take
    decision: Decision
    labels: Array | None
    """(n,) places of the labels among the scores, where the logits are."""
    arrays: list[Array]
    """The buffers. A CUDA graph belongs to the address of its input, so they stay the same to the end of the run."""
    ahead: AbstractContextManager[Any]
    """The stream that perturbs."""


def make_place(xp: ModuleType, image_set: ImageSet, sessions: Mapping[Variant, Session]) -> Place:
    """Where runs of these images happen. Sessions of the same batch may join `sessions` later."""
    batch = next(iter(sessions.values())).info.batch
    decision = Decision(xp, image_set.info.decision_space)
    labels = decision.places(image_set.labels)
    finish(xp)  # a later run is in another stream than this one
    return Place(
        xp=xp,
        image_set=image_set,
        sessions=sessions,
        batch=batch,
        take=pixels_of(xp, image_set, batch),
        decision=decision,
        labels=labels,
        arrays=[xp.empty((batch, *image_set.shape[1:]), dtype=xp.float32) for _ in range(COUNT)],
        ahead=new_stream(xp),
    )


@dataclass(frozen=True, slots=True)
class _Group:
    """Cells whose conditions are perturbed together."""

    perturb: Perturb
    seed: int
    works: list[CellProgress]
    place: Place
    last: int
    """The image that ends the run."""

    @property
    def conditions(self) -> list[Condition]:
        return list(dict.fromkeys(work.cell.condition for work in self.works))

    def wanted(self, first: int) -> list[Condition]:
        """The conditions under which some cell still needs the batch that begins at `first`."""
        needing = (work for work in self.works if not work.error and work.first < first + self.place.batch)
        return list(dict.fromkeys(work.cell.condition for work in needing))

    def by_condition(self) -> list[_Group]:
        return [
            replace(self, works=[work for work in self.works if work.cell.condition == condition])
            for condition in self.conditions
        ]

    def flush(self) -> list[Outcome]:
        return [outcome for work in self.works for outcome in work.flush(self.place.xp)]


def _run_group(group: _Group, range_seconds: float, progress: Progress) -> Iterator[list[Outcome]]:
    try:
        yield from _run_batches(group, range_seconds, progress)
    except DeviceError:
        raise
    except BandlensError as error:  # of the probe
        alone = group.by_condition()
        if len(alone) == 1:
            for work in group.works:
                work.error = work.error or str(error)
        else:
            yield group.flush()
            for one in alone:  # to find out which of them fail
                yield from _run_group(one, range_seconds, progress)
    yield group.flush()


def _run_batches(group: _Group, range_seconds: float, progress: Progress) -> Iterator[list[Outcome]]:
    started = time.monotonic()
    works: dict[Condition, list[CellProgress]] = {}
    for work in group.works:
        works.setdefault(work.cell.condition, []).append(work)
    buffers = Buffers(group.place.xp, group.place.arrays, group.place.ahead)
    with _one_thread(group.place.xp), prefetch(lambda take: _perturbed(group, take), buffers) as batches:
        for first, condition, pixels, images in batches:
            # Between conditions too: one batch of many models under many conditions can take a quarter of an hour.
            if time.monotonic() - started > range_seconds:
                yield group.flush()
                started = time.monotonic()
            for work in works[condition]:
                if not work.error:
                    progress(_infer(group, work, first, pixels, images))
            buffers.give(images)


def _one_thread(xp: ModuleType) -> AbstractContextManager[Any]:
    """Perturbing has one thread, and on a CPU its products of small matrices must not take those of the sessions."""
    if xp is not np:
        return nullcontext()
    from threadpoolctl import threadpool_limits  # here, since a GPU does without it

    limits: AbstractContextManager[Any] = threadpool_limits(1, "blas")
    return limits


def _perturbed(group: _Group, buffer: Buffer) -> Iterator[tuple[int, Condition, Array, Array]]:
    """Every batch, as it is and under every condition; the last one is padded with its last image."""
    xp, batch, count = group.place.xp, group.place.batch, group.place.image_set.info.count
    for first in range(min(work.first for work in group.works), group.last, batch):
        conditions = group.wanted(first)
        if not conditions:
            continue
        index = np.minimum(np.arange(first, first + batch), count - 1)
        keys = xp.asarray(group.place.image_set.keys[index])
        images_of_batch = Batch(group.place.take(index), keys, index, group.seed)
        for condition, images in group.perturb(xp, images_of_batch, conditions, buffer):
            yield first, condition, images_of_batch.pixels, images


def _infer(group: _Group, work: CellProgress, first: int, pixels: Array, images: Array) -> int:
    """Run one cell's model on one batch and keep the rows that the cell still needs; gives their number."""
    begin = max(work.first + work.pending - first, 0)
    place = group.place
    end = min(place.batch, group.last - first)
    if begin >= end:
        return 0
    wanted = None if place.labels is None else place.labels[first + begin : first + end]
    session, condition = place.sessions[work.cell.variant], work.cell.condition
    started = point(place.xp)
    try:
        if condition.facts.attack:
            logits = cast(Attacker, session).attacked(condition, pixels[begin:end], wanted, images[begin:end])
        else:
            logits = session.infer(images)[begin:end]
    except DeviceError:
        raise
    except BandlensError as error:
        work.error = str(error)
        return 0
    found, rank, confidence = reduce_logits(place.xp, place.decision.scores(logits), wanted)
    work.columns.append((place.decision.classes(found), rank, confidence))
    work.times.append((started, point(place.xp)))
    work.pending += end - begin
    return end - begin
