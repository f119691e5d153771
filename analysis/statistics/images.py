"""Resampling of images: what another draw of photographs would have given.

An image keeps its outcome under every condition, and the images of a cluster go together (Field & Welsh 2007).
Intervals are percentiles over 1,000 resamples, drawn from a seed.
"""

from __future__ import annotations

import numpy as np

from .arrays import LEVEL, Floats, Index, Mask

FEWEST_CLUSTERS = 20
"""Below it, percentiles over resampled clusters are too narrow to be believed."""
_DRAWS_AT_ONCE = 1 << 20


def count_right(correct: Mask, ids: Index, resamples: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Right answers (conditions, 1 + resamples) and images (1 + resamples,): the data first, then C clusters anew.

    `correct` is (conditions, n); `ids` is (n,), cluster indices from 0 to C - 1.
    """
    held = int(ids.max()) + 1
    table = np.stack([np.bincount(ids, weights=row, minlength=held) for row in correct] + [np.bincount(ids)], axis=1)
    totals = [table.sum(axis=0)[None]]
    step = max(1, _DRAWS_AT_ONCE // held)
    for first in range(0, resamples, step):
        size = min(step, resamples - first)
        drawn = rng.integers(held, size=(size, held)) + np.arange(size)[:, None] * held
        times = np.bincount(drawn.ravel(), minlength=size * held).reshape(size, held)
        totals.append(times.astype(np.float64) @ table)
    counts = np.concatenate(totals).T
    return counts[:-1], counts[-1]


def interval(values: Floats) -> tuple[float, float]:
    """The central 95 % of resampled values."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
