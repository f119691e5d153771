"""What a study costs wherever it runs: operations, disk, and the least time on a card that everybody knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..engine.units import passes as passes_of
from ..errors import ExportError
from ..export.models import verify_model
from ..export.operations import count_operations
from ..probes.grid import ATTACKS
from ..records import Cell, Model
from .study import Work

H100_FP16, H100_FP32 = 989e12, 67e12
"""Dense FP16 tensor operations a second of an H100 SXM, and FP32 ones without tensor cores (NVIDIA's data sheet).
Nothing runs at a peak."""
PREDICTION_BYTES = 7.5
"""Of the database for each prediction (docs/performance.md)."""


@dataclass(frozen=True, slots=True)
class Cost:
    operations: float | None
    """Floating-point operations of the predictions; None where a network's are not known."""
    attack_operations: float | None
    """Of attacks, which are in FP32: a gradient needs it."""
    database_bytes: float
    """By which the database will grow."""
    image_bytes: int
    """Of the image sets' pixels."""

    @property
    def h100_seconds(self) -> float | None:
        """At the card's peaks: a lower bound, and no measurement."""
        if self.operations is None or self.attack_operations is None:
            return None
        return self.operations / H100_FP16 + self.attack_operations / H100_FP32


def cost_of(work: Work, left: Mapping[str, int], cells: Sequence[Cell]) -> Cost:
    """The cost of `left[key]` images of each of these cells."""
    passes, attacks = Counter[Model](), Counter[Model]()
    for cell in cells:
        if cell.condition.family in ATTACKS:
            attacks[cell.model] += left[cell.key] * passes_of(cell)
        else:
            passes[cell.model] += left[cell.key]
    return Cost(
        operations=_operations(passes),
        attack_operations=_operations(attacks),
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
