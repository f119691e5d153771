"""The counter-based generator: known answers, moments, and independence of where and when."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from bandlens.probes.arrays import to_numpy
from bandlens.probes.noise import (
    WORD,
    counter,
    philox4x32,
    polar,
    random_words,
    uniform,
    unit_normal_fields,
    unit_normals_at,
)

# From Random123's file of known answers (kat_vectors, philox4x32 with 10 rounds): counter, key, output.
ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "output"), ANSWERS)
def test_known_answers(xp: ModuleType, counter: str, key: str, output: str) -> None:
    low, high = words(key)
    c0, c1, c2, c3 = (xp.asarray([word], dtype=xp.uint32) for word in words(counter))
    output_words = philox4x32(xp, (c0, c1, c2, c3), low | high << 32)
    assert [int(to_numpy(word)[0]) for word in output_words] == words(output)


def test_fields_are_standard_normal(xp: ModuleType) -> None:
    field = to_numpy(unit_normal_fields(xp, 7, xp.arange(20, dtype=xp.uint64), 0, 224)).astype(np.float64)
    assert field.shape == (20, 224, 224)
    count = field.size
    assert abs(field.mean()) < 4 / np.sqrt(count)
    assert abs(field.var() - 1) < 4 * np.sqrt(2 / count)
    assert stats.kstest(field[0].ravel(), "norm").pvalue > 1e-3
    assert np.isfinite(field).all()


def test_pixels_images_draws_and_seeds_are_uncorrelated() -> None:
    sources = [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 2, 1), (1, 1 << 32, 0), (1, 1, 1 << 31), (1 << 40, 0, 0)]
    fields = [unit_normal_fields(np, seed, np.array([key], np.uint64), draw, 64).ravel() for seed, key, draw in sources]
    correlation = np.corrcoef(fields) - np.eye(len(fields))
    assert abs(correlation).max() < 5 / np.sqrt(64 * 64)
    shifted = [np.corrcoef(fields[0], np.roll(fields[0], k))[0, 1] for k in (1, 64, 1024, 2048, 3072)]
    assert np.abs(shifted).max() < 5 / np.sqrt(64 * 64)


@pytest.mark.parametrize("count", [4, 7])
def test_words_are_the_blocks_one_after_another(xp: ModuleType, count: int) -> None:
    keys, blocks = np.array([5, 2**64 - 1], np.uint64), -(-count // 4)
    all_words = to_numpy(random_words(xp, 9, xp.asarray(keys), 6, count, 2))
    block_words = philox4x32(np, counter(np, np.arange(blocks, dtype=np.uint32)[None], keys[:, None], 6, 2), 9)
    np.testing.assert_array_equal(all_words, np.concatenate(block_words, axis=1)[:, :count])


def test_uniform_numbers_are_odd_multiples_of_2_to_the_minus_24() -> None:
    words = np.array([0, 255, 256, 2**31 - 1, 2**31, WORD], np.uint32)
    numbers = uniform(np, words)
    assert numbers.dtype == np.float32
    np.testing.assert_array_equal(numbers * 2.0**24, [1 - 2**24, 1 - 2**24, 3 - 2**24, -1, 1, 2**24 - 1])


def test_normals_of_the_smallest_and_the_largest_word_are_numbers(xp: ModuleType) -> None:
    words = xp.asarray([0, 2**32 - 1], dtype=xp.uint32)
    assert max(np.abs(to_numpy(normals)).max() for normals in polar(xp, words, words)) < 6.8


def test_redrawn_normals_are_fresh_each_attempt(xp: ModuleType) -> None:
    keys, pixels = xp.zeros(5000, dtype=xp.uint64), xp.arange(5000)
    first, second = (to_numpy(unit_normals_at(xp, 3, keys, 0, pixels, attempt)) for attempt in (1, 2))
    field = to_numpy(unit_normal_fields(xp, 3, keys[:1], 0, 224)).ravel()[:5000]
    assert abs(np.corrcoef([first, second, field]) - np.eye(3)).max() < 5 / np.sqrt(5000)
    assert stats.kstest(first, "norm").pvalue > 1e-3
