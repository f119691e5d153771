"""Decisions: logits to predicted class, rank of the label and confidence, in every decision space."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fuzzing import fuzz
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.special import softmax

from bandlens.engine.decision import Decision, best_rank, reduce_logits
from bandlens.probes.arrays import to_numpy
from bandlens.probes.images.decision_spaces import decision_space
from bandlens.probes.images.image_set import Scheme


def logits_of(seed: int, rows: int = 20, spread: float = 3) -> np.ndarray:
    return (spread * np.random.default_rng(seed).standard_normal((rows, 1000))).astype(np.float32)


def decide(xp: ModuleType, space: str, logits: np.ndarray, labels: np.ndarray | None = None) -> tuple[Any, ...]:
    decision = Decision(xp, space)
    scores = decision.scores(xp.asarray(logits))
    score_indices, *columns = reduce_logits(xp, scores, decision.score_indices(labels))
    return to_numpy(decision.classes(score_indices)), *(
        None if column is None else to_numpy(column) for column in columns
    )


@fuzz(20)
@given(seed=st.integers(0, 2**32), spread=st.sampled_from([0.1, 3.0, 30.0, 300.0]))
@example(seed=12506, spread=300.0)
def test_sixteen_classes_by_the_mean_probability_of_their_members(xp: ModuleType, seed: int, spread: float) -> None:
    logits, labels = logits_of(seed, spread=spread), np.arange(20, dtype=np.int32) % 16
    members = [list(indices) for indices in decision_space("sixteen").members]
    # Logits are relative to the largest of them: beside one of another class all of their probabilities can underflow.
    exact = logits.astype(np.float64) - logits[:, np.concatenate(members)].max(axis=1, keepdims=True)
    means = np.stack([np.exp(exact[:, indices]).mean(axis=1) for indices in members], axis=1)
    predicted, rank, confidence, probability = decide(xp, "sixteen", logits, labels)
    np.testing.assert_array_equal(predicted, means.argmax(axis=1))
    expected = (means > means[np.arange(20), labels][:, None]).sum(axis=1)
    possible = means[np.arange(20), labels] > 1e-290
    assert (rank != expected)[possible].sum() <= 1, "but for means that are equal to float32"
    np.testing.assert_allclose(confidence, means.max(axis=1) / means.sum(axis=1), rtol=1e-4)
    expected_probability = means[np.arange(20), labels] / means.sum(axis=1)
    np.testing.assert_allclose(probability, expected_probability, rtol=1e-3, atol=1e-30)


@pytest.mark.parametrize("space", ["imagenet-a", "imagenet-r"])
def test_two_hundred_classes_by_their_own_logits(xp: ModuleType, space: str) -> None:
    logits, ids = logits_of(1), np.array(decision_space(space).ids)
    labels = ids[:: len(ids) // 20][:20].astype(np.int32)
    predicted, rank, confidence, probability = decide(xp, space, logits, labels)
    scores = logits[:, ids]
    np.testing.assert_array_equal(predicted, ids[scores.argmax(axis=1)])
    label_logits = logits[np.arange(20), labels][:, None]
    np.testing.assert_array_equal(rank, (scores > label_logits).sum(axis=1))
    np.testing.assert_allclose(confidence, softmax(scores, axis=1).max(axis=1), rtol=1e-5)
    label_columns = np.searchsorted(ids, labels)
    np.testing.assert_allclose(probability, softmax(scores, axis=1)[np.arange(20), label_columns], rtol=1e-5)


@fuzz(30)
@given(seed=st.integers(0, 2**32), levels=st.integers(1, 30))
def test_the_best_of_several_right_classes_is_the_one_that_comes_first(xp: ModuleType, seed: int, levels: int) -> None:
    """Scores of few levels are equal for many classes."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (6, 20)).astype(np.float32)
    lists = [sorted(rng.choice(20, size, replace=False).tolist()) for size in (1, 2, 3, 5, 20, 0)]
    index, classes = np.array([(k, c) for k, numbers in enumerate(lists) for c in reversed(numbers)], np.int32).T
    rank = best_rank(xp, xp.asarray(scores), xp.asarray(Scheme(index, classes).padded(6)))
    order = np.argsort(-scores, axis=1, kind="stable").tolist()
    expected = [min((row.index(c) for c in labels), default=65535) for row, labels in zip(order, lists, strict=True)]
    assert to_numpy(rank).dtype == np.uint16
    assert to_numpy(rank).tolist() == expected


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_stay_recognizable(xp: ModuleType, value: float) -> None:
    logits = logits_of(3)
    logits[4, 404] = value  # airplane
    with np.errstate(invalid="ignore"):
        for space in ("sixteen", "imagenet-r"):
            logits[4, decision_space(space).members[0][0]] = value
            assert np.flatnonzero(np.isnan(decide(xp, space, logits)[2])).tolist() == [4]


# There are few different values, so that ties are the rule.
LOGITS = st.integers(1, 6).flatmap(
    lambda classes: st.lists(
        st.lists(st.sampled_from([-2.0, 0.0, 0.5, 3.0, 80.0]), min_size=classes, max_size=classes),
        min_size=1,
        max_size=5,
    )
)


def reduce_row(row: list[float], label: int) -> tuple[int, int, float, float]:
    """The definition, in words of Python."""
    ranking = sorted(range(len(row)), key=lambda k: (-row[k], k))
    shares = [math.exp(value - max(row)) for value in row]
    return ranking[0], ranking.index(label), shares[ranking[0]] / sum(shares), shares[label] / sum(shares)


@fuzz(40)
@given(LOGITS, st.data())
def test_equals_the_definition_ties_included(rows: list[list[float]], data: st.DataObject) -> None:
    labels = [data.draw(st.integers(0, len(row) - 1)) for row in rows]
    columns = reduce_logits(np, np.array(rows, np.float32), np.array(labels, np.int32))
    expected = zip(*(reduce_row(row, label) for row, label in zip(rows, labels, strict=True)), strict=True)
    for column, expected_column in zip(columns, expected, strict=True):
        np.testing.assert_allclose(column, expected_column, rtol=1e-6)


def test_types_are_the_database_s(xp: ModuleType) -> None:
    logits = xp.asarray([[0.0, 1.0]], dtype=xp.float32)
    columns = [to_numpy(column) for column in reduce_logits(xp, logits, xp.asarray([0]))]
    assert [column.dtype for column in columns] == [np.uint16, np.uint16, np.float32, np.float32]
    assert reduce_logits(xp, logits, None)[1::2] == (None, None), "without labels there is neither rank nor probability"


@pytest.mark.parametrize(("value", "column"), [(np.nan, 0), (np.inf, 1), (-np.inf, 2)])
def test_a_row_that_is_not_finite_has_no_confidence_and_spares_the_others(value: float, column: int) -> None:
    logits = np.tile(np.array([[1, 3, 2]], np.float32), (3, 1))
    logits[1, column] = value
    for column in reduce_logits(np, logits, np.zeros(3, np.int32))[2:]:
        assert np.isnan(column).tolist() == [False, True, False]
