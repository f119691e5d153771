"""Patches shuffled: an image is cut into grid x grid squares, which change their places. Texture stays, shape goes.

Which patch goes where is drawn for each image and grid: each order of the patches is as likely as any other.
Source: Burgert et al. 2025 ("ImageNet-trained CNNs are not biased towards texture").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType

from ..core.errors import ProbeError
from ..core.records import Condition
from .arrays import Array, chunks
from .clean import unit_range
from .family import Batch, Buffer, Family, Parameter, integer_in
from .noise import PATCHES, random_words


def orders(xp: ModuleType, seed: int, keys: Array, grid: int) -> Array:
    """(n, grid * grid) int64: for each place, row by row, the place that its patch comes from, for n images by key."""
    # Now and then two words are equal: what a sort that is not stable makes of them hangs on the processor.
    return xp.argsort(random_words(xp, seed, keys, PATCHES ^ grid << 8, grid * grid), axis=1, kind="stable")


def rearranged(xp: ModuleType, pixels: Array, order: Array) -> Array:
    """(n, 3, size, size) images whose patches lie where the orders say; `size` is a multiple of the grid's side."""
    count, channels, size, _ = pixels.shape
    grid = round(order.shape[1] ** 0.5)
    cut = pixels.reshape(count, channels, grid, size // grid, grid, size // grid).transpose(0, 2, 4, 1, 3, 5)
    patches = cut.reshape(count, grid * grid, channels, size // grid, size // grid)
    moved = patches[xp.arange(count)[:, None], order].reshape(cut.shape)
    return moved.transpose(0, 3, 1, 4, 2, 5).reshape(pixels.shape)


def perturb(
    xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer
) -> Iterator[tuple[Condition, Array]]:
    for condition in conditions:
        order = orders(xp, batch.seed, batch.keys, int(condition["grid"]))
        out = buffer()
        for part in chunks(xp, len(order)):
            target = out[part]
            unit_range(xp, rearranged(xp, batch.pixels[part], order[part]), target)
        yield condition, out


def check_size(condition: Condition, size: int) -> None:
    grid = int(condition["grid"])
    if size % grid:
        fitting = [n for n in range(2, 33) if size % n == 0]
        raise ProbeError(
            f"{condition}: {size} pixels are not {grid} patches of equal size; take a grid of "
            f"{', '.join(map(str, fitting)) or 1}"
        )


PATCH_SHUFFLE = Family(
    "patch_shuffle",
    "grid x grid patches in another order",
    2,
    (Parameter("grid", integer_in(1, 256), (2, 4, 8, 16)),),
    perturb,
    random=True,
    check_size=check_size,
)
