"""Logits to predicted class, rank of the label and confidence, against plain Python."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bandlens.engine.decision import reduce_logits
from bandlens.probes.arrays import to_numpy

# Few different values, so that ties are the rule.
LOGITS = st.integers(1, 6).flatmap(
    lambda classes: st.lists(
        st.lists(st.sampled_from([-2.0, 0.0, 0.5, 3.0, 80.0]), min_size=classes, max_size=classes),
        min_size=1,
        max_size=5,
    )
)


def plain(row: list[float], label: int) -> tuple[int, int, float]:
    """The definition, in words of Python."""
    ranking = sorted(range(len(row)), key=lambda k: (-row[k], k))
    shares = [math.exp(value - max(row)) for value in row]
    return ranking[0], ranking.index(label), shares[ranking[0]] / sum(shares)


@given(LOGITS, st.data())
def test_equals_the_definition_ties_included(rows: list[list[float]], data: st.DataObject) -> None:
    labels = [data.draw(st.integers(0, len(row) - 1)) for row in rows]
    predicted, rank, confidence = reduce_logits(np, np.array(rows, np.float32), np.array(labels, np.int32))
    wanted = [plain(row, label) for row, label in zip(rows, labels, strict=True)]
    assert predicted.tolist() == [p for p, _, _ in wanted]
    assert rank.tolist() == [r for _, r, _ in wanted]
    np.testing.assert_allclose(confidence, [c for _, _, c in wanted], rtol=1e-6)


def test_types_are_the_database_s(xp: ModuleType) -> None:
    logits = xp.asarray([[0.0, 1.0]], dtype=xp.float32)
    columns = [to_numpy(column) for column in reduce_logits(xp, logits, xp.asarray([0]))]
    assert [column.dtype for column in columns] == [np.uint16, np.uint16, np.float32]


def test_without_labels_there_is_no_rank() -> None:
    predicted, rank, _ = reduce_logits(np, np.array([[0, 2, 1]], np.float32), None)
    assert (predicted.tolist(), rank) == ([1], None)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_row_that_is_not_finite_has_no_confidence_and_spares_the_others(value: float, column: int) -> None:
    logits = np.tile(np.array([[1, 3, 2]], np.float32), (3, 1))
    logits[1, column] = value
    _, _, confidence = reduce_logits(np, logits, np.zeros(3, np.int32))
    assert np.isnan(confidence).tolist() == [False, True, False]


def test_every_row_is_reduced_by_itself() -> None:
    logits: NDArray[np.float32] = np.random.default_rng(0).normal(size=(7, 1000)).astype(np.float32)
    labels = np.arange(7) * 100
    together = reduce_logits(np, logits, labels)
    for k in range(7):
        alone = reduce_logits(np, logits[k : k + 1], labels[k : k + 1])
        for all_rows, one in zip(together, alone, strict=True):
            assert all_rows[k] == one[0]
