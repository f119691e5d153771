"""Colour suppressed: an image is blended with its grey version, or its channels change their places.

    grey_blend:       y = (1 - alpha) x + alpha (0.299 R + 0.587 G + 0.114 B)       (ITU-R BT.601)
    channel_shuffle:  y_c = x_p(c),  p one of the six orders of R, G and B, each as likely as any other

Source: Burgert et al. 2025 ("ImageNet-trained CNNs are not biased towards texture").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from types import ModuleType

from ..core.records import Condition
from .arrays import Array, chunks
from .clean import unit_range
from .family import Batch, Buffer, Family, Parameter, number_in
from .noise import CHANNELS, random_words

LUMA = (0.299, 0.587, 0.114)
ORDERS = tuple(permutations(range(3)))


def blend(
    xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer
) -> Iterator[tuple[Condition, Array]]:
    images = unit_range(xp, batch.pixels, xp.empty(batch.pixels.shape, dtype=xp.float32))
    red, green, blue = (images[:, channel] * xp.float32(weight) for channel, weight in enumerate(LUMA))
    grey = (red + green + blue)[:, None]
    for condition in conditions:
        out, alpha = buffer(), float(condition["alpha"])
        for part in chunks(xp, len(images)):
            target = out[part]
            xp.multiply(images[part], xp.float32(1 - alpha), out=target)
            target += xp.float32(alpha) * grey[part]
            xp.clip(target, 0, 1, out=target)
        yield condition, out


def orders(xp: ModuleType, seed: int, keys: Array) -> Array:
    """(n, 3) int64: for each channel the one that it comes from, for n images by their keys."""
    words = random_words(xp, seed, keys, CHANNELS, 1)[:, 0]
    return xp.asarray(ORDERS)[words.astype(xp.uint64) * xp.uint64(len(ORDERS)) >> xp.uint64(32)]


def shuffle(
    xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer
) -> Iterator[tuple[Condition, Array]]:
    order = orders(xp, batch.seed, batch.keys)
    moved = batch.pixels[xp.arange(len(order))[:, None], order]
    for condition in conditions:
        yield condition, unit_range(xp, moved, buffer())


GREY_BLEND = Family(
    "grey_blend",
    "the image blended with its grey version, which weighs alpha",
    1,
    (Parameter("alpha", number_in(0, 1), (0.2, 0.4, 0.6, 0.8, 1.0)),),
    blend,
)
CHANNEL_SHUFFLE = Family("channel_shuffle", "the three channels in another order", 1, (), shuffle, random=True)
