"""Resampling of images: what another draw of photographs would have given.

Images of a cluster go together, with their outcomes under every condition (Field & Welsh 2007). Intervals are
percentiles over 1,000 seeded resamples.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .arrays import LEVEL, Floats, Index, Mask

FEWEST_CLUSTERS = 20
"""Below it, percentiles over resampled clusters are too narrow to be believed."""
_DRAWS_AT_ONCE = 1 << 20


def count_right(correct: Mask, ids: Index, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """Right answers (conditions, 1 + resamples) and images (1 + resamples,): the data first, then C clusters anew.

    `correct` is (conditions, n); `ids` is (n,), cluster indices from 0 to C - 1. The draws are a function of `seed`.
    """
    cluster_count = int(ids.max()) + 1
    table = np.stack([np.bincount(ids, weights=row, minlength=cluster_count) for row in correct] + [np.bincount(ids)])
    # Float32 holds counts up to 2^24 as they are, and multiplies twice as fast.
    table = table.astype(np.float32 if len(ids) < 1 << 24 else np.float64)
    draws = _kept_draws if draws_are_kept(cluster_count, resamples) else _draws
    resampled = [table @ times.T for times in draws(cluster_count, resamples, seed)]
    counts = np.concatenate([table.sum(axis=1, keepdims=True), *resampled], axis=1).astype(np.float64)
    return counts[:-1], counts[-1]


def draws_are_kept(cluster_count: int, resamples: int) -> bool:
    """Whether draws of so many clusters are kept, since every model of a study asks for the same."""
    return resamples * cluster_count <= _DRAWS_AT_ONCE


def _draws(cluster_count: int, resamples: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """(…, C): how often each cluster is drawn, for some resamples at a time."""
    rng = np.random.default_rng(seed)
    step = max(1, _DRAWS_AT_ONCE // cluster_count)
    for first in range(0, resamples, step):
        size = min(step, resamples - first)
        indices = rng.integers(cluster_count, size=(size, cluster_count)) + np.arange(size)[:, None] * cluster_count
        times = np.bincount(indices.ravel(), minlength=size * cluster_count).reshape(size, cluster_count)
        yield times.astype(np.float32)


@lru_cache(maxsize=2)
def _kept_draws(cluster_count: int, resamples: int, seed: int) -> tuple[NDArray[np.float32], ...]:
    return tuple(_draws(cluster_count, resamples, seed))


def interval(values: Floats) -> tuple[float, float]:
    """The central 95 % interval of resampled values."""
    low, high = intervals(values)
    return float(low), float(high)


def intervals(values: Floats) -> tuple[Floats, Floats]:
    """The central 95 % of resampled values (…, resamples): low and high ends, (…)."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=-1)
    return low, high
