"""Grey images, as human observers saw them in the experiments of Geirhos et al. 2018: at less contrast, and with noise.

    g = 0.2125 R + 0.7154 G + 0.0721 B      (ITU-R BT.709, as scikit-image's rgb2gray has it)
    contrast:       (1 - c) / 2 + c g
    uniform_noise:  clip(0.35 + 0.3 g + width u, 0, 1),  u uniform in (-1, 1) for each pixel

One u an image serves all widths.
Source: Geirhos et al. 2018 ("Generalisation in humans and deep neural networks").
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from ..core.records import Condition
from .arrays import Array, chunks
from .family import Batch, Buffer, Family, Parameter, Perturbed, number_in
from .noise import UNIFORM, uniform_fields

LUMINANCE = (0.2125, 0.7154, 0.0721)
CONTRAST_UNDER_NOISE = 0.3


def grey(xp: ModuleType, pixels: Array) -> Array:
    """(n, size, size) float32 in [0, 1] of (n, 3, size, size) uint8 RGB."""
    luminance = xp.empty((len(pixels), *pixels.shape[2:]), dtype=xp.float32)
    red, green, blue = (xp.float32(weight / 255) for weight in LUMINANCE)
    for part in chunks(xp, len(pixels)):
        target = xp.multiply(pixels[part, 0], red, out=luminance[part])
        target += pixels[part, 1] * green
        target += pixels[part, 2] * blue
    return luminance


def at_contrast(xp: ModuleType, image: Array, contrast: float) -> Array:
    """Grey images around a mean of 1/2, with `contrast` in [0, 1] of what they had."""
    return image * xp.float32(contrast) + xp.float32((1 - contrast) / 2)


def perturb(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    image = grey(xp, batch.pixels)
    for condition in conditions:
        out = buffer()
        out[...] = xp.clip(at_contrast(xp, image, float(condition["contrast"])), 0, 1)[:, None]
        yield condition, out


def add_noise(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    image = at_contrast(xp, grey(xp, batch.pixels), CONTRAST_UNDER_NOISE)
    noise = uniform_fields(xp, batch.seed, batch.keys, UNIFORM, batch.pixels.shape[-1])
    for condition in conditions:
        out, width = buffer(), xp.float32(condition["width"])
        for part in chunks(xp, len(out)):
            out[part] = xp.clip(image[part] + width * noise[part], 0, 1)[:, None]
        yield condition, out


CONTRAST = Family(
    "contrast",
    "grey at a contrast in [0, 1], around 1/2",
    1,
    (Parameter("contrast", number_in(0, 1), (0.01, 0.03, 0.05, 0.1, 0.15, 0.3, 0.5, 1.0)),),
    perturb,
)
UNIFORM_NOISE = Family(
    "uniform_noise",
    "grey at contrast 0.3 plus noise that is uniform in [-width, width]",
    1,
    (Parameter("width", number_in(0, 1), (0.0, 0.03, 0.05, 0.1, 0.2, 0.35, 0.6, 0.9)),),
    add_noise,
    random=True,
)
