"""The mean reciprocal rank is that of torchmetrics, and is missing where a rank cannot be told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_outcomes import CLEAN, images_of, outcomes_of

from bandlens.analysis.metrics.families.accuracy import RANK_MEASURES as MEASURES
from bandlens.analysis.metrics.predictions import CellOutcomes
from bandlens.core.records import UNKNOWN_RANK

COUNT, CLASSES = 50, 7


def cell(rank: np.ndarray | None) -> CellOutcomes:
    [clean] = outcomes_of({CLEAN: np.zeros(COUNT, int)}, images_of(COUNT)).cells.values()
    return replace(clean, decisions=replace(clean.decisions, rank=rank))


def test_it_is_the_mean_reciprocal_of_the_labels_place() -> None:
    from torchmetrics.functional.retrieval import retrieval_reciprocal_rank  # imports transformers: 3 s

    rng = np.random.default_rng(0)
    scores, label = rng.random((COUNT, CLASSES)), rng.integers(0, CLASSES, COUNT)
    rank = (scores > scores[np.arange(COUNT), label][:, None]).sum(axis=1).astype(np.uint16)
    values = MEASURES[0].values(cell(rank))
    targets = torch.from_numpy(np.eye(CLASSES, dtype=bool)[label])
    pairs = zip(torch.from_numpy(scores), targets, strict=True)
    expected = np.mean([float(retrieval_reciprocal_rank(image_scores, target)) for image_scores, target in pairs])
    assert values is not None
    assert values.values.mean() == pytest.approx(expected)


def test_of_several_right_classes_the_best_counts_and_images_without_any_do_not() -> None:
    ranks = np.arange(COUNT, dtype=np.uint16) % 3
    ranks[:10] = UNKNOWN_RANK
    decided = cell(np.full(COUNT, 6, np.uint16))
    values = MEASURES[1].values(replace(decided, decisions=replace(decided.decisions, best_rank=ranks)))
    assert values is not None
    share = values.share(np.arange(COUNT))
    assert share is not None
    assert (share.images, share.value) == (40, pytest.approx(np.mean(1 / (1 + np.arange(10, COUNT) % 3))))
    assert MEASURES[1].values(decided) is None


def test_without_ranks_there_is_none() -> None:
    ranks = np.zeros(COUNT, np.uint16)
    ranks[3] = UNKNOWN_RANK
    assert MEASURES[0].values(cell(ranks)) is None
    assert MEASURES[0].values(cell(None)) is None
