"""Fourier basis noise: one wave of a fixed norm on every image.

    y = clip(x + r_c norm U, 0, 1)
    U(m, n) = sqrt(2) / size * cos(2 pi (row m + column n) / size + pi / 4),  whose sum of squares is 1

r_c is +1 or -1 for each channel of each image, the same for all waves. The phase pi/4 gives every wave the same norm,
the highest frequencies and the constant one included. U is a sum of two outer products, cos(a + b) = cos a cos b -
sin a sin b, so a wave costs an image no transform. (row, column) and (-row, -column) are one frequency and condition.

Source: Yin et al. 2019 ("A Fourier perspective on model robustness in computer vision"), whose map has the 63 x 63
lowest frequencies, 1,985 different ones, at a norm of 15.7 for 224 pixels: an RMS of 0.07 in each channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType

import numpy as np

from ..errors import ProbeError
from ..records import Condition
from .arrays import Array, chunks
from .clean import unit_range
from .family import Batch, Buffer, Family, Parameter, Value, integer_in, number_in
from .noise import FOURIER, random_words

MAP = tuple(range(-31, 32))
NORM = 15.7
HIGHEST = 10_000


def wave(xp: ModuleType, size: int, row: int, column: int) -> Array:
    """U, (size, size) float32 of L2 norm 1; row and column are in cycles per image."""
    turn = 2 * np.pi / size
    down = turn * (row * xp.arange(size) % size) + np.pi / 4
    across = turn * (column * xp.arange(size) % size)
    product = xp.cos(down)[:, None] * xp.cos(across) - xp.sin(down)[:, None] * xp.sin(across)
    return (product * (np.sqrt(2) / size)).astype(xp.float32)


def signs(xp: ModuleType, seed: int, keys: Array) -> Array:
    """(n, 3, 1, 1) float32 of +1 and -1 for n images by their keys."""
    words = random_words(xp, seed, keys, FOURIER, 3)[:, :, None, None]
    return (words >> xp.uint32(31)).astype(xp.float32) * 2 - 1


def perturb(
    xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer
) -> Iterator[tuple[Condition, Array]]:
    size = batch.pixels.shape[-1]
    images = unit_range(xp, batch.pixels, xp.empty(batch.pixels.shape, dtype=xp.float32))
    sign = signs(xp, batch.seed, batch.keys)
    for condition in conditions:
        row, column = int(condition["row"]), int(condition["column"])
        noise = wave(xp, size, row, column) * xp.float32(condition["norm"])
        out = buffer()
        for part in chunks(xp, len(images)):
            target = out[part]
            xp.multiply(noise, sign[part], out=target)
            xp.add(images[part], target, out=target)
            xp.clip(target, 0, 1, out=target)
        yield condition, out


def check_size(condition: Condition, size: int) -> None:
    highest = max(abs(int(condition[name])) for name in ("row", "column"))
    if highest > size // 2:
        raise ProbeError(f"{condition}: images of {size} pixels hold {size // 2} cycles at most, not {highest}")


def _canonical(setting: dict[str, Value]) -> dict[str, Value]:
    """A frequency and its opposite are one: the one whose row is positive, or whose column is where the row is 0."""
    if (setting["row"], setting["column"]) >= (0, 0):
        return setting
    return setting | {name: -int(setting[name]) for name in ("row", "column")}


FREQUENCY = integer_in(-HIGHEST, HIGHEST)
FOURIER_BASIS = Family(
    "fourier",
    "a wave of (row, column) cycles per image and of an L2 norm added to each channel",
    1,
    (
        Parameter("row", FREQUENCY, MAP),
        Parameter("column", FREQUENCY, MAP),
        Parameter("norm", number_in(0, 1000), (NORM,)),
    ),
    perturb,
    random=True,
    canonical=_canonical,
    check_size=check_size,
)
