"""Decision spaces: what the scores of 1000 classes become."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.special import softmax

from bandlens.engine.decision import Decision, reduce_logits
from bandlens.probes.arrays import to_numpy
from bandlens.probes.images.decision_spaces import decision_space


def logits_of(seed: int, rows: int = 20, spread: float = 3) -> np.ndarray:
    return (spread * np.random.default_rng(seed).standard_normal((rows, 1000))).astype(np.float32)


def decide(xp: ModuleType, space: str, logits: np.ndarray, labels: np.ndarray | None = None) -> tuple[Any, ...]:
    decision = Decision(xp, space)
    scores = decision.scores(xp.asarray(logits))
    places, rank, confidence = reduce_logits(xp, scores, decision.places(labels))
    return to_numpy(decision.classes(places)), None if rank is None else to_numpy(rank), to_numpy(confidence)


@given(seed=st.integers(0, 2**32), spread=st.sampled_from([0.1, 3.0, 30.0, 300.0]))
@example(seed=12506, spread=300.0)
def test_sixteen_classes_by_the_mean_probability_of_their_members(xp: ModuleType, seed: int, spread: float) -> None:
    logits, labels = logits_of(seed, spread=spread), np.arange(20, dtype=np.int32) % 16
    members = [list(indices) for indices in decision_space("sixteen").members]
    # Relative to the largest of them: beside a logit of another class all of their probabilities can underflow.
    exact = logits.astype(np.float64) - logits[:, np.concatenate(members)].max(axis=1, keepdims=True)
    means = np.stack([np.exp(exact[:, indices]).mean(axis=1) for indices in members], axis=1)
    predicted, rank, confidence = decide(xp, "sixteen", logits, labels)
    np.testing.assert_array_equal(predicted, means.argmax(axis=1))
    wanted = (means > means[np.arange(20), labels][:, None]).sum(axis=1)
    possible = means[np.arange(20), labels] > 1e-290
    assert (rank != wanted)[possible].sum() <= 1, "but for means that are equal to float32"
    np.testing.assert_allclose(confidence, means.max(axis=1) / means.sum(axis=1), rtol=1e-4)


@pytest.mark.parametrize("space", ["imagenet-a", "imagenet-r"])
def test_two_hundred_classes_by_their_own_logits(xp: ModuleType, space: str) -> None:
    logits, ids = logits_of(1), np.array(decision_space(space).ids)
    labels = ids[:: len(ids) // 20][:20].astype(np.int32)
    predicted, rank, confidence = decide(xp, space, logits, labels)
    chosen = logits[:, ids]
    np.testing.assert_array_equal(predicted, ids[chosen.argmax(axis=1)])
    own = logits[np.arange(20), labels][:, None]
    np.testing.assert_array_equal(rank, (chosen > own).sum(axis=1))
    np.testing.assert_allclose(confidence, softmax(chosen, axis=1).max(axis=1), rtol=1e-5)


def test_all_classes_are_the_models_own(xp: ModuleType) -> None:
    logits = logits_of(2)[:, :12]
    predicted, _, _ = decide(xp, "all", logits)
    np.testing.assert_array_equal(predicted, logits.argmax(axis=1))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_stay_recognizable(xp: ModuleType, value: float) -> None:
    logits = logits_of(3)
    logits[4, 404] = value  # airplane
    with np.errstate(invalid="ignore"):
        for space in ("sixteen", "imagenet-r"):
            logits[4, decision_space(space).members[0][0]] = value
            assert np.flatnonzero(np.isnan(decide(xp, space, logits)[2])).tolist() == [4]
