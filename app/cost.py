"""What a study costs wherever it runs: operations, disk, and the least time on a card that everybody knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import ExportError
from ..export.models import verify_model
from ..export.operations import count_operations
from ..probes.grid import ATTACKS
from ..records import Cell, Model
from .study import Work

H100_FLOPS = 989e12
"""Dense FP16 tensor operations a second of an H100 SXM (NVIDIA's data sheet). Nothing runs at the peak."""
PREDICTION_BYTES = 7.5
"""Of the database for each prediction (docs/performance.md)."""
BACKWARD = 2
"""A gradient for the images costs two forward passes beside the one that it belongs to."""


@dataclass(frozen=True, slots=True)
class Cost:
    operations: float | None
    """Floating-point operations; None where a network's are not known."""
    database_bytes: float
    """By which the database will grow."""
    image_bytes: int
    """Of the image sets' pixels."""

    @property
    def h100_seconds(self) -> float | None:
        """At the card's peak: a lower bound, and no measurement."""
        return None if self.operations is None else self.operations / H100_FLOPS


def cost_of(work: Work, left: Mapping[str, int], cells: Sequence[Cell]) -> Cost:
    """The cost of `left[key]` images of each of these cells."""
    passes: dict[Model, int] = {}
    for cell in cells:
        steps = cell.condition.number("steps") if cell.condition.family in ATTACKS else 0
        passes[cell.model] = passes.get(cell.model, 0) + left[cell.key] * (1 + (1 + BACKWARD) * int(steps or 0))
    return Cost(
        operations=_operations(passes),
        database_bytes=PREDICTION_BYTES * sum(left.values()),
        image_bytes=sum(images.nbytes for images in work.image_sets),
    )


def _operations(passes: Mapping[Model, int]) -> float | None:
    """Of so many forward passes of each model; models of one architecture are counted once."""
    known: dict[tuple[str, int, int], float] = {}
    total = 0.0
    try:
        for model, count in passes.items():
            kind = (model.architecture, model.image_size, model.classes)
            if kind not in known:
                known[kind] = count_operations(verify_model(model))
            total += count * known[kind]
    except ExportError:
        return None
    return total
