"""A cell under way: the predictions of its model since the last part, and how they become the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from ..core.records import Cell, Failed, Finished, Predictions
from ..probes.arrays import Array, to_numpy
from .device.streams import Point, seconds_between

RANGE_SECONDS = 60.0
"""Parts are yielded after about this time."""

Outcome = Finished | Failed
Progress = Callable[[int], None]
Columns = tuple[Array, Array | None, Array, Array | None]
"""The columns of `Predictions`, in their order."""


@dataclass(slots=True)
class CellProgress:
    """A cell under way, and the columns that are not yet yielded."""

    cell: Cell
    first: int
    """The first image that is not yet yielded."""
    columns: list[Columns] = field(default_factory=list)
    """The columns of each batch."""
    times: list[tuple[Point, Point]] = field(default_factory=list)
    """The points at which the model began and ended each batch."""
    pending: int = 0
    error: str | None = None
    ended: bool = False


def flush(xp: ModuleType, works: Sequence[CellProgress]) -> list[Outcome]:
    """The parts of cells of one image set since the last time, or their failures, where there is one to yield.

    The columns of all of them are joined first, so that an array of each column comes from a GPU, and not of each cell.
    """
    running = [work for work in works if work.pending and not (work.error or work.ended)]
    outcomes: list[Outcome] = []
    if running:
        predictions = joined(xp, (columns for work in running for columns in work.columns))
    row = 0
    for work in works:
        if work.ended or not (work.pending or work.error):
            continue
        if work.error is None:
            cell_predictions, row = predictions.select(slice(row, row + work.pending)), row + work.pending
            nan_rows = np.flatnonzero(np.isnan(cell_predictions.confidence))
            if not len(nan_rows):
                # The copies to the host above have waited for the stream, so the device has passed all of these points.
                seconds = sum(seconds_between(xp, start, end) for start, end in work.times)
                outcomes.append(Finished(work.cell, work.first, cell_predictions, seconds))
                work.first, work.columns, work.times, work.pending = work.first + work.pending, [], [], 0
                continue
            work.error = (
                f"logits are not finite at image {work.first + nan_rows[0]}; check the weights and the precision"
            )
        work.ended = True
        outcomes.append(Failed(work.cell, work.error))
    return outcomes


def joined(xp: ModuleType, pieces: Iterable[Columns]) -> Predictions:
    """The columns of several pieces, one after the other, in host memory."""
    columns: list[Any] = [
        None if column[0] is None else to_numpy(xp.concatenate(column)) for column in zip(*pieces, strict=True)
    ]
    return Predictions(*columns)
