"""Resamples of images are those of their definition, whether their draws are kept or not."""

from __future__ import annotations

import numpy as np
import pytest

from bandlens.analysis.statistics import images
from bandlens.analysis.statistics.images import count_right


@pytest.mark.parametrize("at_once", [1 << 20, 10_000], ids=["kept", "drawn by parts"])
def test_each_resample_counts_the_clusters_that_it_draws(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_DRAWS_AT_ONCE", at_once)
    ids = np.repeat(np.arange(60), [1, 2, 3] * 20)
    for seed in (0, 1, 0):
        correct = np.random.default_rng(seed + 5).random((3, len(ids))) < 0.6
        right, counts = count_right(correct, ids, 500, seed)
        drawn = np.random.default_rng(seed).integers(60, size=(500, 60))
        for resample, clusters in enumerate(drawn, start=1):
            members = np.concatenate([np.flatnonzero(ids == cluster) for cluster in clusters])
            assert counts[resample] == len(members)
            assert right[:, resample].tolist() == correct[:, members].sum(axis=1).tolist()
        assert right[:, 0].tolist() == correct.sum(axis=1).tolist()
