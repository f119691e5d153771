"""Normal noise as a pure function of (seed, image, draw): it does not matter in which batch, order, set or process.

The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a counter of
four 32-bit words is scrambled under a key of two. Philox's key is the seed. An image has a key of its own, 64 bits of
its pixels' digest, and the counter is (block, upper half of the image's key, draw XOR lower half, stream): for one draw
different image keys have different counters, and for one image different draws. Two pairs of image and draw meet with
a probability of 2^-64, and then two images share a noise field, which harms neither of them.
Box and Muller's transform makes four normals of a block's four words.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from .arrays import Array, chunks, launch

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORD = 0xFFFFFFFF

FOURIER, UNIFORM, PHASES, PATCHES, CHANNELS, POWER_LAW, UNPAIRED_PHASES = range(2, 16, 2)
"""Draws of the families beside critical_band, so that what one of them draws is independent of the others' draws. The
critical band has 0, and odd numbers for conditions that draw by themselves."""


def philox4x32(
    xp: ModuleType, counter: tuple[Array, Array, Array, Array], seed: int
) -> tuple[Array, Array, Array, Array]:
    """Four uint32 arrays for a counter of four uint32 arrays (broadcast against each other) and a 64-bit seed."""
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
    return (product >> xp.uint64(32)).astype(xp.uint32)


def counter(xp: ModuleType, block: Array, keys: Array, draw: int, stream: int) -> tuple[Array, Array, Array, Array]:
    """The counter of blocks (uint32) of images (uint64 keys), broadcast against each other."""
    return block, _high(xp, keys), keys.astype(xp.uint32) ^ xp.uint32(draw), xp.uint32(stream)


def random_words(xp: ModuleType, seed: int, keys: Array, draw: int, count: int, stream: int = 0) -> Array:
    """(n, count) uint32, uniform, for n images by their uint64 keys.

    The four words of block b are the values b, b + blocks, b + 2 blocks and b + 3 blocks; blocks = ceil(count / 4).
    """
    if xp is np:
        return words_in_arrays(xp, seed, keys, draw, count, stream)
    blocks = -(-count // 4)
    words = xp.empty((len(keys), 4 * blocks), dtype=xp.uint32)
    launch("random_words", (blocks, len(keys)), words, keys, seed, draw, stream, blocks)
    return words[:, :count]


def words_in_arrays(xp: ModuleType, seed: int, keys: Array, draw: int, count: int, stream: int) -> Array:
    """`random_words` in array code."""
    blocks = -(-count // 4)
    block = xp.arange(blocks, dtype=xp.uint32)[None, :]
    words = xp.empty((len(keys), 4, blocks), dtype=xp.uint32)
    for part in chunks(xp, len(keys)):
        for place, block_words in enumerate(philox4x32(xp, counter(xp, block, keys[part, None], draw, stream), seed)):
            words[part, place] = block_words
    return words.reshape(len(keys), -1)[:, :count]


def uniform(xp: ModuleType, words: Array) -> Array:
    """float32 in (-1, 1) of uint32 words: odd multiples of 2^-24, every one of them exact."""
    odd = 2 * (words >> xp.uint32(8)).astype(xp.int32) + 1
    return (odd - 2**24).astype(xp.float32) * xp.float32(2**-24)


def polar(xp: ModuleType, words: Array, turns: Array) -> tuple[Array, Array]:
    """Two independent unit normals from two uint32 words, in float32; magnitudes reach 6.7."""
    uniform = (words.astype(xp.float32) + xp.float32(0.5)) * xp.float32(2**-32)
    radius = xp.sqrt(xp.float32(-2) * xp.log(uniform))
    angle = turns.astype(xp.float32) * xp.float32(2 * np.pi * 2**-32)
    return radius * xp.cos(angle), radius * xp.sin(angle)


def unit_normal_fields(xp: ModuleType, seed: int, keys: Array, draw: int, size: int) -> Array:
    """(n, size, size) float32 of N(0, 1) for n images by their uint64 keys; `size` must be even.

    The four normals of block b are the pixels b, b + blocks, b + 2 blocks and b + 3 blocks in row-major order.
    """
    if xp is np:
        return fields_in_arrays(xp, seed, keys, draw, size)
    blocks = size * size // 4
    fields = xp.empty((len(keys), size, size), dtype=xp.float32)
    launch("unit_normal_fields", (blocks, len(keys)), fields, keys, seed, draw, blocks)
    return fields


def fields_in_arrays(xp: ModuleType, seed: int, keys: Array, draw: int, size: int) -> Array:
    """`unit_normal_fields` in array code."""
    blocks = size * size // 4
    block = xp.arange(blocks, dtype=xp.uint32)[None, :]
    w0, w1, w2, w3 = philox4x32(xp, counter(xp, block, keys[:, None], draw, 0), seed)
    field = xp.empty((len(keys), 4, blocks), dtype=xp.float32)
    field[:, 0], field[:, 1] = polar(xp, w0, w1)
    field[:, 2], field[:, 3] = polar(xp, w2, w3)
    return field.reshape(-1, size, size)


def unit_normals_at(xp: ModuleType, seed: int, keys: Array, draw: int, pixels: Array, attempt: int) -> Array:
    """(k,) float32 of N(0, 1) for k pairs of an image's key and a pixel.

    They are fresh for every attempt >= 1, and independent of the fields.
    """
    w0, w1, _, _ = philox4x32(xp, counter(xp, pixels.astype(xp.uint32), keys, draw, attempt), seed)
    return polar(xp, w0, w1)[0]
