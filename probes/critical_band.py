"""Convert images to low-contrast grayscale and add noise that is one octave wide.

    L = (19595 R + 38470 G + 7471 B + 32768) >> 16         luma of the uint8 values, as computed by Pillow
    x = 0.2 (L / 255 - mean(L / 255)) + 0.449              grayscale image with contrast 0.2
    n ~ N(0, noise_sd^2) for each pixel                    white noise
    s = band(n) rms(level 0 of n) / rms(band(n))           band-pass noise, its RMS is 0.94 noise_sd
    y = x + s, the same in all three channels

The noise band with `frequency` f = 0 … 6 has its center at 1.75 * 2^f * size / 224 cycles/image. It is level 6 - f of
the Laplacian pyramid of the noise, upsampled to full size. The last level of the pyramid also contains the mean.

Pixels that leave [0, 1] are handled as in the published code: values below 0 are set to 0.1 and values above 1 to 0.9.
This corresponds to a change of the image pixel x. If the changed x would itself be outside of [0, 1], which happens
where |s| > 0.9, the noise of this pixel is drawn again until y is in [0, 1]. With noise_sd 0 the result is the
grayscale image, and all frequencies are one condition.

The pyramid is computed with matrices. Let D_l blur level l and keep every second sample, and let U_l insert zeros and
blur. Level l of the noise n is P_l n P_l' - P_(l+1) n P_(l+1)' with P_l = U_0 … U_(l-1) D_(l-1) … D_0, and the last
level is P_6 n P_6'. The blur filter is binom5 of pyrtools, sqrt(2) [1, 4, 6, 4, 1] / 16. Borders are mirrored without
repeating the edge pixel (reflect1 in pyrtools).

Bands are linear in the noise. With `draw = "shared"` (the default), one noise field per image is therefore used for all
bands and noise levels, which does not change the distribution of any single condition. With `draw = "independent"`,
each condition draws its own noise, as the published scripts do.

Source: Subramanian et al. 2023 ("Spatial-frequency channels, shape bias, and adversarial robustness"). The
critical-band metrics of Gavrikov and Keuper 2024 use these stimuli.
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
"""Index of the last (coarsest) level of the pyramid."""
BLUR = np.array([1, 4, 6, 4, 1]) * np.sqrt(2) / 16
"""Filter binom5 of pyrtools."""

CONTRAST, MEAN = 0.2, 0.449
"""Contrast and mean of the grayscale images, in units of the image range."""
REDRAW_ABOVE = 0.9
"""Magnitude of noise above which changing the image pixel (to obtain 0.1 or 0.9) would move it out of [0, 1]. Such
noise is drawn again."""
DARKEST = MEAN - CONTRAST
"""Lower bound of the pixels of a grayscale image. They are also at most 1 minus this value, so weaker noise cannot
leave [0, 1]."""


@cache
def pyramid(size: int) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Return the matrices (down, up) of the pyramid in float64.

    down[l] = D_l converts level l to level l + 1. up[l] = U_0 … U_(l-1) upsamples level l to full size.
    """
    from scipy.ndimage import convolve1d

    down, up = [], [np.eye(size)]
    for _ in range(LAST_LEVEL):
        blur = convolve1d(np.eye(up[-1].shape[1]), BLUR, axis=0, mode="mirror")
        down.append(blur[::2])
        up.append(up[-1] @ blur[:, ::2])
    return tuple(down), tuple(up)


@cache
def _operators(xp: ModuleType, size: int) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Return the matrices of `pyramid` as float32 arrays of the array module."""
    down, up = pyramid(size)
    return constants(xp, down), constants(xp, up)


def luma_in_arrays(xp: ModuleType, pixels: Array) -> Array:
    """Return the luma, (n, size, size) uint32 in [0, 255], of uint8 RGB images."""
    red, green, blue = (pixels[:, channel].astype(xp.uint32) for channel in range(3))
    return (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16


def luma_in_kernel(xp: ModuleType, pixels: Array) -> Array:
    """Compute the same as `luma_in_arrays` on a GPU. The result is uint8."""
    luma = xp.empty((len(pixels), *pixels.shape[2:]), dtype=xp.uint8)
    area = pixels.shape[2] * pixels.shape[3]
    launch("luma", (area, len(pixels)), luma, pixels, area)
    return luma


def low_contrast_grey(xp: ModuleType, pixels: Array) -> Array:
    """Convert (n, 3, size, size) uint8 RGB images to grayscale with contrast 0.2 and mean 0.449, (n, size, size)
    float32.
    """
    luma = luma_in_arrays(xp, pixels) if xp is np else luma_in_kernel(xp, pixels)
    # An integer sum is exact in any order, so the mean does not depend on the position of the image in its batch.
    mean = luma.sum(axis=(1, 2), keepdims=True, dtype=xp.int64) / (luma.shape[1] * luma.shape[2])
    scale = CONTRAST / 255
    return luma.astype(xp.float32) * xp.float32(scale) + (MEAN - scale * mean).astype(xp.float32)


def noise_bands(xp: ModuleType, noise: Array, frequencies: Sequence[int], out: Sequence[Array]) -> Sequence[Array]:
    """Compute octave bands of white noise, each scaled to the RMS of pyramid level 0.

    Args:
        xp: Array module.
        noise: (n, size, size) float32 white noise.
        frequencies: Indices of the bands, 0 (lowest) to 6.
        out: One (n, size, size) array per frequency, which is filled.

    Returns:
        `out`.
    """
    levels = [LAST_LEVEL - f for f in frequencies]
    down, up = _operators(xp, noise.shape[-1])
    full_size = [noise]  # Gaussian pyramid: level l, upsampled to full size
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
    """Return matrix @ image @ matrix.T for each image.

    The second product is written as one large matrix product, which a GPU executes as a single kernel.
    """
    product = matrix @ images
    return (product.reshape(-1, product.shape[-1]) @ matrix.T).reshape(*product.shape[:-1], -1)


def _rms(xp: ModuleType, images: Array) -> Array:
    """Return the root mean square of each of (n, size, size) images, (n, 1, 1).

    On NumPy a vector product is the fastest way to sum squares. On CuPy the norm needs only one pass over the images.
    """
    flat = images.reshape(len(images), 1, -1)
    squares = flat @ flat.transpose(0, 2, 1) if xp is np else xp.square(xp.linalg.norm(flat, axis=2, keepdims=True))
    return xp.sqrt(squares / xp.float32(flat.shape[-1]))


def bring_into_range(xp: ModuleType, mixed: Array, noise: Array) -> Array:
    """Set pixels below 0 to 0.1 and pixels above 1 to 0.9, in place, as in the published code.

    Returns:
        Mask of the pixels whose noise has to be drawn again, because the rule would require an image pixel outside of
        [0, 1].
    """
    underflow, overflow = mixed < 0, mixed > 1
    xp.copyto(mixed, xp.float32(0.1), where=underflow)  # four times faster than putmask
    xp.copyto(mixed, xp.float32(0.9), where=overflow)
    return (underflow & (noise < -REDRAW_ABOVE)) | (overflow & (noise > REDRAW_ABOVE))


class NoiseStream(NamedTuple):
    """Identify the random numbers of a batch's noise."""

    seed: int
    keys: Array
    """Keys of the images, (n,) uint64."""
    draw: int
    """Index of the noise field: 0 for the shared one, an odd number for a condition with independent noise."""


def redraw(xp: ModuleType, grey: Array, mixed: Array, where: Array, noise_sd: float, stream: NoiseStream) -> None:
    """Replace the noise of the pixels `where` by normal noise that is drawn until the pixel is in [0, 1], in place.

    The redrawn noise follows a truncated normal distribution and is independent of the other pixels.
    """
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
    """Add noise_sd times a noise band to grayscale images, correct pixels outside of [0, 1], and write three equal
    channels.

    Args:
        xp: Array module.
        grey: (n, size, size) grayscale images.
        band: (n, size, size) noise band for noise_sd 1.
        noise_sd: Standard deviation of the white noise.
        peak: Largest magnitude in `band`. If noise_sd is so small that no pixel can leave [0, 1], the correction is
            skipped.
        stream: Random numbers for pixels that are drawn again.
        out: (n, 3, size, size) array for the result.
    """
    mixed = out[:, 0]
    noise = xp.multiply(band, xp.float32(noise_sd), out=out[:, 1])  # temporarily uses the second channel
    xp.add(grey, noise, out=mixed)
    strongest = noise_sd * peak
    if strongest > DARKEST:
        unsaved = bring_into_range(xp, mixed, noise)
        if strongest > REDRAW_ABOVE:
            redraw(xp, grey, mixed, unsaved, noise_sd, stream)
    out[:, 1:] = mixed[:, None]


def mix_in_kernel(grey: Array, band: Array, noise_sd: float, stream: NoiseStream, out: Array) -> None:
    """Compute the same as `mix_in_arrays` on a GPU.

    The kernel draws again within its single pass, so the CPU does not have to wait for the GPU to find the affected
    pixels.
    """
    count, size = len(grey), grey.shape[-1]
    seed, keys, draw = stream
    launch("mix_noise", (size * size, count), out, grey, band, noise_sd, keys, seed, draw, size * size)


def perturb(xp: ModuleType, batch: Batch, conditions: Sequence[Condition], buffer: Buffer) -> Perturbed:
    """Yield the condition without noise first, then the other conditions grouped by noise field."""
    grey = xp.empty((len(batch.pixels), *batch.pixels.shape[2:]), dtype=xp.float32)
    for part in chunks(xp, len(grey)):
        grey[part] = low_contrast_grey(xp, batch.pixels[part])
    for draw, members in groupby(sorted(conditions, key=_draw), key=_draw):
        yield from _one_draw(xp, batch, grey, draw, list(members), buffer)


def _draw(condition: Condition) -> int:
    """Return the index of a condition's noise field: -1 for no noise, 0 for the shared field, otherwise its own odd
    number.
    """
    if condition["noise_sd"] == 0:
        return -1
    return 0 if condition["draw"] == "shared" else int(condition.digest[:8], 16) | 1


def _one_draw(
    xp: ModuleType, batch: Batch, grey: Array, draw: int, conditions: list[Condition], buffer: Buffer
) -> Perturbed:
    """Yield the conditions that use the same noise field."""
    count, size = len(grey), grey.shape[-1]
    frequencies = sorted({int(c["frequency"]) for c in conditions}) if draw >= 0 else []
    # Allocate one array per band. An array for all bands is so large that the allocator would map new memory for every
    # batch, and the operating system would clear its pages each time.
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
    """Raise ProbeError if the side length is odd or too small for the pyramid."""
    minimum = 2 ** (LAST_LEVEL + 1)
    if size < minimum or size % 2:
        raise ProbeError(
            f"critical_band needs an even number of pixels a side, at least {minimum}, not {size}; name other probes "
            "in the study's [probes], or take larger images"
        )


def _canonical(setting: dict[str, Value]) -> dict[str, Value]:
    """Drop the other parameters if noise_sd is 0, since they have no effect without noise."""
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
