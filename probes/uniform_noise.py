"""Uniform noise on grey images at a contrast of 30 %.

    y = clip(0.35 + 0.3 g + width u, 0, 1),  u uniform in (-1, 1) for each pixel

g is the grey image of probes/grey.py. One u an image serves all widths.
Source: Geirhos et al. 2018 ("Generalisation in humans and deep neural networks").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType

from ..core.records import Condition
from .arrays import Array, chunks
from .family import Batch, Buffer, Family, Parameter, number_in
from .grey import at_contrast, grey
from .noise import UNIFORM, uniform_fields

CONTRAST = 0.3


def perturb(
    xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer
) -> Iterator[tuple[Condition, Array]]:
    count, size = len(batch.pixels), batch.pixels.shape[-1]
    image = at_contrast(xp, grey(xp, batch.pixels), CONTRAST)
    noise = uniform_fields(xp, batch.seed, batch.keys, UNIFORM, size)
    for condition in conditions:
        out, width = buffer(), xp.float32(condition["width"])
        for part in chunks(xp, count):
            out[part] = xp.clip(image[part] + width * noise[part], 0, 1)[:, None]
        yield condition, out


UNIFORM_NOISE = Family(
    "uniform_noise",
    "grey at contrast 0.3 plus noise that is uniform in [-width, width]",
    1,
    (Parameter("width", number_in(0, 1), (0.0, 0.03, 0.05, 0.1, 0.2, 0.35, 0.6, 0.9)),),
    perturb,
    random=True,
)
