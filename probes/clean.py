"""The unperturbed images, uint8 [0, 255] as float32 [0, 1]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType

from ..core.records import Condition
from .arrays import Array
from .family import Batch, Buffer, Family


def unit_range(xp: ModuleType, pixels: Array, out: Array) -> Array:
    """uint8 [0, 255] to float32 [0, 1] by division, as torchvision's ToTensor does, into `out`."""
    return xp.divide(pixels, xp.float32(255), out=out)


def perturb(
    xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer
) -> Iterator[tuple[Condition, Array]]:
    for condition in conditions:
        yield condition, unit_range(xp, batch.pixels, buffer())


CLEAN = Family("clean", "the images as they are", 1, (), perturb)
