"""Octave-band noise on low-contrast grey images.

    L = (19595 R + 38470 G + 7471 B + 32768) >> 16         Pillow's luma of the uint8 values
    x = 0.2 (L / 255 - mean(L / 255)) + 0.449
    n ~ N(0, noise_sd^2) for each pixel
    s = band(n) rms(level 0 of n) / rms(band(n))            an RMS of 0.94 noise_sd
    y = x + s, the same in all three channels

The band of `frequency` f (0 … 6), centred at 1.75 * 2^f * size / 224 cycles per image, is level 6 - f of the noise's
Laplacian pyramid, brought back to full size; the last level holds the mean. y below 0 becomes 0.1 and y above 1 becomes
0.9; where that would ask for an x outside of [0, 1], which happens where |s| > 0.9, the pixel's noise is drawn again
until x and it fit. noise_sd 0 is the grey image, one condition for all frequencies.

With D_l the matrix that blurs level l and keeps every second sample, and U_l the one that inserts zeros and blurs,
level l of noise n is P_l n P_l' - P_(l+1) n P_(l+1)' with P_l = U_0 … U_(l-1) D_(l-1) … D_0, and the last level is
P_6 n P_6' alone. The blur is pyrtools' binom5, sqrt(2) [1, 4, 6, 4, 1] / 16, with edges mirrored without repeating them
(reflect1). Bands are linear in the noise: one draw an image serves every band and every noise level, and each condition
keeps its distribution (draw = "shared"). draw = "independent" draws anew for each, as the published scripts do.

Source: Subramanian et al. 2023 ("Spatial-frequency channels, shape bias, and adversarial robustness"), on whose stimuli
Gavrikov and Keuper 2024 rest their critical-band metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import groupby
from types import ModuleType
from typing import NamedTuple

import numpy as np

from ..core.errors import ProbeError
from ..core.protocol import FREQUENCIES, LOWEST_FREQUENCY, NOISE_SDS, SIZE
from ..core.records import FREQUENCY_TITLES, Condition
from .arrays import Array, chunks, constants, launch
from .family import Axis, Batch, Buffer, Family, Parameter, Perturbed, Value, integer_in, number_in, one_of
from .noise import unit_normal_fields, unit_normals_at

LAST_LEVEL = len(FREQUENCIES) - 1
BLUR = np.array([1, 4, 6, 4, 1]) * np.sqrt(2) / 16

CONTRAST, MEAN = 0.2, 0.449
REDRAW_ABOVE = 0.9
"""Noise beyond this cannot be undone by shifting the pixel to 0.1 or 0.9, so it is drawn again."""
DARKEST = MEAN - CONTRAST
"""No pixel of a grey image is darker than this, nor brighter than the same distance below 1."""


@cache
def pyramid(size: int) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """(down, up) in float64: down[l] = D_l takes level l to l + 1, up[l] = U_0 … U_(l-1) takes level l to full size."""
    from scipy.ndimage import convolve1d

    down, up = [], [np.eye(size)]
    for _ in range(LAST_LEVEL):
        blur = convolve1d(np.eye(up[-1].shape[1]), BLUR, axis=0, mode="mirror")
        down.append(blur[::2])
        up.append(up[-1] @ blur[:, ::2])
    return tuple(down), tuple(up)


@cache
def _operators(xp: ModuleType, size: int) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    down, up = pyramid(size)
    return constants(xp, down), constants(xp, up)


def luma_in_arrays(xp: ModuleType, pixels: Array) -> Array:
    """(n, size, size) uint32 in [0, 255]."""
    red, green, blue = (pixels[:, channel].astype(xp.uint32) for channel in range(3))
    return (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16


def luma_in_kernel(xp: ModuleType, pixels: Array) -> Array:
    """`luma_in_arrays` on a GPU, as uint8."""
    luma = xp.empty((len(pixels), *pixels.shape[2:]), dtype=xp.uint8)
    area = pixels.shape[2] * pixels.shape[3]
    launch("luma", (area, len(pixels)), luma, pixels, area)
    return luma


def low_contrast_grey(xp: ModuleType, pixels: Array) -> Array:
    """(n, size, size) float32: PIL's luma of (n, 3, size, size) uint8 RGB, at contrast 0.2 around a mean of 0.449."""
    luma = luma_in_arrays(xp, pixels) if xp is np else luma_in_kernel(xp, pixels)
    # The sum of whole numbers is exact in any order, so the mean is the same wherever the image lies in a batch.
    mean = luma.sum(axis=(1, 2), keepdims=True, dtype=xp.int64) / (luma.shape[1] * luma.shape[2])
    scale = CONTRAST / 255
    return luma.astype(xp.float32) * xp.float32(scale) + (MEAN - scale * mean).astype(xp.float32)


def noise_bands(xp: ModuleType, noise: Array, frequencies: Sequence[int], out: Sequence[Array]) -> Sequence[Array]:
    """Fill `out`, an (n, size, size) array a frequency, with bands of (n, size, size) float32 noise.

    Each gets the RMS of level 0.
    """
    levels = [LAST_LEVEL - f for f in frequencies]
    down, up = _operators(xp, noise.shape[-1])
    full_size = [noise]  # level l, brought back to full size
    reduced_noise = noise
    for level in range(1, min(max(levels) + 1, LAST_LEVEL) + 1):
        reduced_noise = _from_both_sides(down[level - 1], reduced_noise)
        full_size.append(_from_both_sides(up[level], reduced_noise))
    reference = _rms(xp, noise - full_size[1]) if len(full_size) > 1 else None
    for band, level in zip(out, levels, strict=True):
        if level == LAST_LEVEL:
            band[...] = full_size[level]
        else:
            xp.subtract(full_size[level], full_size[level + 1], out=band)
        if level > 0:
            band *= reference / _rms(xp, band)
    return out


def _from_both_sides(matrix: Array, images: Array) -> Array:
    """Matrix x image x matrix' of each; the second product is one of two matrices, which a GPU starts at once."""
    product = matrix @ images
    return (product.reshape(-1, product.shape[-1]) @ matrix.T).reshape(*product.shape[:-1], -1)


def _rms(xp: ModuleType, images: Array) -> Array:
    """(n, 1, 1) root of the mean square of (n, size, size) images.

    A product of vectors is NumPy's fastest sum of squares; CuPy's norm reads the images once.
    """
    flat = images.reshape(len(images), 1, -1)
    squares = flat @ flat.transpose(0, 2, 1) if xp is np else xp.square(xp.linalg.norm(flat, axis=2, keepdims=True))
    return xp.sqrt(squares / xp.float32(flat.shape[-1]))


def bring_into_range(xp: ModuleType, mixed: Array, noise: Array) -> Array:
    """The published rule, in place: below 0 becomes 0.1 and above 1 becomes 0.9.

    The rule shifts the image's pixel to get there. Gives the mask of the pixels that no shift can save, since the
    shifted pixel itself would leave [0, 1] on the other side.
    """
    underflow, overflow = mixed < 0, mixed > 1
    xp.copyto(mixed, xp.float32(0.1), where=underflow)  # putmask takes four times as long
    xp.copyto(mixed, xp.float32(0.9), where=overflow)
    return (underflow & (noise < -REDRAW_ABOVE)) | (overflow & (noise > REDRAW_ABOVE))


class NoiseStream(NamedTuple):
    """The random numbers that the noise of a batch is drawn from."""

    seed: int
    keys: Array
    """(n,) uint64, the keys of the images."""
    draw: int


def redraw(xp: ModuleType, grey: Array, mixed: Array, where: Array, noise_sd: float, stream: NoiseStream) -> None:
    """Give the pixels `where` normal noise of their own, drawn until it fits: a truncated normal. In place."""
    image, row, column = xp.nonzero(where)
    attempt = 0
    while len(image):
        attempt += 1
        pixel = row * mixed.shape[-1] + column
        normals = unit_normals_at(xp, stream.seed, stream.keys[image], stream.draw, pixel, attempt)
        value = grey[image, row, column] + xp.float32(noise_sd) * normals
        mixed[image, row, column] = value
        is_outside = (value < 0) | (value > 1)
        image, row, column = image[is_outside], row[is_outside], column[is_outside]


def mix_in_arrays(
    xp: ModuleType, grey: Array, band: Array, noise_sd: float, peak: float, stream: NoiseStream, out: Array
) -> None:
    """Grey images plus noise_sd times a band, (n, size, size) each, brought into range, to three channels of `out`.

    `peak` is the band's largest magnitude: at a small noise_sd no pixel can leave the range, and none is looked at.
    """
    mixed = out[:, 0]
    noise = xp.multiply(band, xp.float32(noise_sd), out=out[:, 1])  # a place to work in
    xp.add(grey, noise, out=mixed)
    strongest = noise_sd * peak
    if strongest > DARKEST:
        unsaved = bring_into_range(xp, mixed, noise)
        if strongest > REDRAW_ABOVE:
            redraw(xp, grey, mixed, unsaved, noise_sd, stream)
    out[:, 1:] = mixed[:, None]


def mix_in_kernel(grey: Array, band: Array, noise_sd: float, stream: NoiseStream, out: Array) -> None:
    """`mix_in_arrays` on a GPU, in one pass that does not wait: a pixel that needs it is redrawn where it is."""
    count, size = len(grey), grey.shape[-1]
    seed, keys, draw = stream
    launch("mix_noise", (size * size, count), out, grey, band, noise_sd, keys, seed, draw, size * size)


def perturb(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yields the noiseless condition first, then the conditions of each draw together."""
    grey = xp.empty((len(batch.pixels), *batch.pixels.shape[2:]), dtype=xp.float32)
    for part in chunks(xp, len(grey)):
        grey[part] = low_contrast_grey(xp, batch.pixels[part])
    for draw, members in groupby(sorted(conditions, key=_draw), key=_draw):
        yield from _one_draw(xp, batch, grey, draw, list(members), buffer)


def _draw(condition: Condition) -> int:
    """Which draw of an image's noise a condition takes: -1 none, 0 the shared one, else one of its own."""
    if condition["noise_sd"] == 0:
        return -1
    return 0 if condition["draw"] == "shared" else int(condition.digest[:8], 16) | 1


def _one_draw(
    xp: ModuleType, batch: Batch, grey: Array, draw: int, conditions: list[Condition], buffer: Buffer
) -> Perturbed:
    count, size = len(grey), grey.shape[-1]
    frequencies = sorted({int(c["frequency"]) for c in conditions}) if draw >= 0 else []
    # An array a band: one for all of them is so large that it would be mapped, and its pages cleared, for every batch.
    bands = [xp.empty((count, size, size), dtype=xp.float32) for _ in frequencies]
    parts = list(chunks(xp, count))
    for part in parts if frequencies else ():
        noise = unit_normal_fields(xp, batch.seed, batch.keys[part], draw, size)
        noise_bands(xp, noise, frequencies, [band[part] for band in bands])
    peaks = [[float(abs(band[part]).max()) for part in parts] for band in bands] if xp is np else []
    for condition in conditions:
        out, sd = buffer(), float(condition["noise_sd"])
        if sd == 0:
            out[...] = grey[:, None]
        else:
            f = frequencies.index(int(condition["frequency"]))
            band = bands[f]
            if xp is np:
                for part, peak in zip(parts, peaks[f], strict=True):
                    stream = NoiseStream(batch.seed, batch.keys[part], draw)
                    mix_in_arrays(xp, grey[part], band[part], sd, peak, stream, out[part])
            else:
                mix_in_kernel(grey, band, sd, NoiseStream(batch.seed, batch.keys, draw), out)
        yield condition, out


def check_size(_: Condition, size: int) -> None:
    minimum = 2 ** (LAST_LEVEL + 1)
    if size < minimum or size % 2:
        raise ProbeError(
            f"critical_band needs an even number of pixels a side, at least {minimum}, not {size}; name other probes "
            "in the study's [probes], or take larger images"
        )


def _canonical(setting: dict[str, Value]) -> dict[str, Value]:
    """Without noise there is neither a band nor a draw, so sd 0 is one condition."""
    return {"noise_sd": 0.0} if setting["noise_sd"] == 0 else setting


CRITICAL_BAND = Family(
    "critical_band",
    "grey at contrast 0.2 plus noise of RMS 0.94 noise_sd around 2^frequency x size / 128 cycles per image",
    2,
    (
        Parameter("noise_sd", number_in(0, 1), NOISE_SDS),
        Parameter("frequency", integer_in(0, LAST_LEVEL), FREQUENCIES),
        Parameter("draw", one_of("shared", "independent"), ("shared",), is_hidden=True),
    ),
    perturb,
    axes=(Axis("frequency", FREQUENCY_TITLES["at"], lambda frequency: LOWEST_FREQUENCY * 2**frequency / SIZE),),
    random=True,
    canonical=_canonical,
    check_size=check_size,
    beside=("grey", {"noise_sd": 0.0}),
)
