"""A cell under way: the predictions of its model since the last part, and how they become the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from ..probes.arrays import Array, to_numpy
from ..records import Cell, Failed, Finished, Predictions
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

    def flush(self, xp: ModuleType) -> list[Outcome]:
        """The part since the last time, or the failure, where there is one to yield."""
        if self.ended or not (self.pending or self.error):
            return []
        if self.error is None:
            predictions = joined(xp, self.columns)
            bad = np.flatnonzero(np.isnan(predictions.confidence))
            if not len(bad):
                # The copies to the host above have waited for the stream, so the device has passed all of these points.
                seconds = sum(seconds_between(xp, start, end) for start, end in self.times)
                part = Finished(self.cell, self.first, predictions, seconds)
                self.first, self.columns, self.times, self.pending = self.first + self.pending, [], [], 0
                return [part]
            self.error = f"logits are not finite at image {self.first + bad[0]}; check the weights and the precision"
        self.ended = True
        return [Failed(self.cell, self.error)]


def joined(xp: ModuleType, pieces: Iterable[Columns]) -> Predictions:
    """The columns of several pieces, one after the other, in host memory."""
    columns: list[Any] = [
        None if column[0] is None else to_numpy(xp.concatenate(column)) for column in zip(*pieces, strict=True)
    ]
    return Predictions(*columns)
