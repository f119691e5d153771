"""Generate random numbers as a pure function of (seed, image, draw).

The noise of an image does not depend on its batch, on the order of images, on the image set or on the process.

The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). It maps a
counter of four 32-bit words and a key of two words to four random words. The key is the seed. The counter is (block,
upper half of the image key, lower half of the image key XOR draw, stream), where the image key consists of the first 64
bits of the digest of the image's pixels. For one draw, different image keys therefore give different counters, and for
one image, different draws do. Two pairs of image and draw coincide with a probability of 2^-64. The two images then
share one noise field, which is harmless.

The Box-Muller transform turns the four words of a block into four normally distributed numbers.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from .arrays import Array, chunks, launch

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
"""Multipliers of Philox4x32."""
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
"""Increments of the key in each round."""
ROUNDS = 10
"""Number of rounds."""
WORD = 0xFFFFFFFF
"""Largest 32-bit word."""

FOURIER, UNIFORM, PHASES, PATCHES, CHANNELS, POWER_LAW, UNPAIRED_PHASES = range(2, 16, 2)
"""Draw of each family other than `critical_band`, so that the families use independent random numbers.

`critical_band` uses draw 0, and odd numbers for conditions with independent noise.
"""


def philox4x32(
    xp: ModuleType, counter: tuple[Array, Array, Array, Array], seed: int
) -> tuple[Array, Array, Array, Array]:
    """Return the four uint32 output arrays of Philox4x32-10.

    Args:
        xp: Array module.
        counter: Four uint32 arrays, which are broadcast against each other.
        seed: 64-bit key.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = seed & WORD, seed >> 32 & WORD
    m0, m1 = (xp.uint64(m) for m in MULTIPLIERS)
    for _ in range(ROUNDS):
        p0 = xp.multiply(c0, m0, dtype=xp.uint64)
        p1 = xp.multiply(c2, m1, dtype=xp.uint64)
        c0, c1, c2, c3 = (
            _high(xp, p1) ^ c1 ^ xp.uint32(k0),
            p1.astype(xp.uint32),
            _high(xp, p0) ^ c3 ^ xp.uint32(k1),
            p0.astype(xp.uint32),
        )
        k0, k1 = k0 + KEY_STEPS[0] & WORD, k1 + KEY_STEPS[1] & WORD
    return c0, c1, c2, c3


def _high(xp: ModuleType, product: Array) -> Array:
    """Return the upper 32 bits of uint64 numbers."""
    return (product >> xp.uint64(32)).astype(xp.uint32)


def counter(xp: ModuleType, block: Array, keys: Array, draw: int, stream: int) -> tuple[Array, Array, Array, Array]:
    """Return the counters of uint32 blocks and uint64 image keys, which are broadcast against each other."""
    return block, _high(xp, keys), keys.astype(xp.uint32) ^ xp.uint32(draw), xp.uint32(stream)


def random_words(xp: ModuleType, seed: int, keys: Array, draw: int, count: int, stream: int = 0) -> Array:
    """Return uniformly distributed uint32 words, (n, count), for n images with the given uint64 keys.

    With blocks = ceil(count / 4), the four words of block b are at the positions b, b + blocks, b + 2 blocks and b + 3
    blocks.
    """
    if xp is np:
        return words_in_arrays(xp, seed, keys, draw, count, stream)
    blocks = -(-count // 4)
    words = xp.empty((len(keys), 4 * blocks), dtype=xp.uint32)
    launch("random_words", (blocks, len(keys)), words, keys, seed, draw, stream, blocks)
    return words[:, :count]


def words_in_arrays(xp: ModuleType, seed: int, keys: Array, draw: int, count: int, stream: int) -> Array:
    """Compute `random_words` with array operations."""
    blocks = -(-count // 4)
    block = xp.arange(blocks, dtype=xp.uint32)[None, :]
    words = xp.empty((len(keys), 4, blocks), dtype=xp.uint32)
    for part in chunks(xp, len(keys)):
        for place, block_words in enumerate(philox4x32(xp, counter(xp, block, keys[part, None], draw, stream), seed)):
            words[part, place] = block_words
    return words.reshape(len(keys), -1)[:, :count]


def uniform(xp: ModuleType, words: Array) -> Array:
    """Convert uint32 words to uniform float32 numbers in (-1, 1).

    All results are odd multiples of 2^-24, which are exact.
    """
    odd = 2 * (words >> xp.uint32(8)).astype(xp.int32) + 1
    return (odd - 2**24).astype(xp.float32) * xp.float32(2**-24)


def polar(xp: ModuleType, words: Array, turns: Array) -> tuple[Array, Array]:
    """Convert pairs of uint32 words to two independent standard normal numbers (Box-Muller), in float32.

    Magnitudes are at most 6.7.
    """
    uniform = (words.astype(xp.float32) + xp.float32(0.5)) * xp.float32(2**-32)
    radius = xp.sqrt(xp.float32(-2) * xp.log(uniform))
    angle = turns.astype(xp.float32) * xp.float32(2 * np.pi * 2**-32)
    return radius * xp.cos(angle), radius * xp.sin(angle)


def unit_normal_fields(xp: ModuleType, seed: int, keys: Array, draw: int, size: int) -> Array:
    """Return fields of standard normal noise, (n, size, size) float32, for n images with the given uint64 keys.

    `size` must be even. With blocks = size^2 / 4, the four numbers of block b are the pixels b, b + blocks, b + 2
    blocks and b + 3 blocks in row-major order.
    """
    if xp is np:
        return fields_in_arrays(xp, seed, keys, draw, size)
    blocks = size * size // 4
    fields = xp.empty((len(keys), size, size), dtype=xp.float32)
    launch("unit_normal_fields", (blocks, len(keys)), fields, keys, seed, draw, blocks)
    return fields


def fields_in_arrays(xp: ModuleType, seed: int, keys: Array, draw: int, size: int) -> Array:
    """Compute `unit_normal_fields` with array operations."""
    blocks = size * size // 4
    block = xp.arange(blocks, dtype=xp.uint32)[None, :]
    w0, w1, w2, w3 = philox4x32(xp, counter(xp, block, keys[:, None], draw, 0), seed)
    field = xp.empty((len(keys), 4, blocks), dtype=xp.float32)
    field[:, 0], field[:, 1] = polar(xp, w0, w1)
    field[:, 2], field[:, 3] = polar(xp, w2, w3)
    return field.reshape(-1, size, size)


def unit_normals_at(xp: ModuleType, seed: int, keys: Array, draw: int, pixels: Array, attempt: int) -> Array:
    """Return standard normal numbers, (k,) float32, for k pairs of an image key and a pixel index.

    Every `attempt` >= 1 gives new numbers. They are independent of the fields, which use attempt 0.
    """
    w0, w1, _, _ = philox4x32(xp, counter(xp, pixels.astype(xp.uint32), keys, draw, attempt), seed)
    return polar(xp, w0, w1)[0]
