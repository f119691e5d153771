"""Linear heads against their definitions: NumPy's solver, and the gradient that torch computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from bandlens.export.heads.linear import (
    FOLDS,
    METHODS,
    STRENGTHS,
    fit_head,
    fit_logistic,
    fit_ridge,
    make_folds,
    strength_in_words,
)

Examples = tuple[NDArray[np.float64], NDArray[np.int32]]


@pytest.fixture(scope="module")
def examples() -> Examples:
    """Features of 240 images of four classes: neither centred nor of one scale, and one does not vary."""
    rng = np.random.default_rng(0)
    labels = (np.arange(240) % 4).astype(np.int32)
    features = rng.normal(size=(240, 20)) + 0.8 * rng.normal(size=(4, 20))[labels]
    features = features * rng.uniform(0.1, 30, 20) + rng.normal(scale=50, size=20)
    features[:, 3] = 5.1
    return features, labels


@pytest.mark.parametrize("count", [240, 15])
def test_ridge_is_the_solution_of_numpy(examples: Examples, count: int) -> None:
    features, labels = examples[0][:count], examples[1][:count]
    targets = np.eye(4)[labels]
    varying = np.delete(np.arange(20), 3)
    z = (features - features.mean(0))[:, varying] / features.std(0)[varying]
    for strength, head in zip(STRENGTHS, fit_ridge(features, targets, STRENGTHS), strict=True):
        penalty = np.sqrt(strength * count) * np.eye(len(varying))
        stacked = np.vstack([targets - targets.mean(0), np.zeros((len(varying), 4))])
        weight = np.linalg.lstsq(np.vstack([z, penalty]), stacked, rcond=None)[0]
        np.testing.assert_allclose(head.logits(features), z @ weight + targets.mean(0), atol=1e-6)
        assert not head.weight[:, 3].any()


def test_the_gradient_of_a_logistic_head_is_zero(examples: Examples) -> None:
    features, labels = examples
    scale = np.where(features.std(0) > 1e-9, features.std(0), 1.0)
    z = torch.from_numpy((features - features.mean(0)) / scale)
    strengths = [1.0, 0.01]
    for strength, head in zip(strengths, fit_logistic(features, np.eye(4)[labels], strengths), strict=True):
        weight = torch.tensor(head.weight * scale, requires_grad=True)
        bias = torch.tensor(head.bias + head.weight @ features.mean(0), requires_grad=True)
        entropy = functional.cross_entropy(z @ weight.T + bias, torch.from_numpy(labels).long())
        (entropy + strength * weight.square().sum() / 2).backward()
        for parameter in (weight, bias):
            assert parameter.grad is not None
            assert parameter.grad.abs().max() < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_a_head_of_shuffled_labels_is_at_chance_and_one_of_true_labels_is_not(examples: Examples, method: str) -> None:
    features, labels = examples
    clusters = np.arange(len(labels), dtype=np.int32)
    shuffled = np.random.default_rng(1).permutation(labels)
    three_errors = 3 * np.sqrt(0.25 * 0.75 / len(labels))
    assert abs(fit_head(features, shuffled, clusters, method, 0).accuracy - 0.25) < three_errors
    fitted = fit_head(features, labels, clusters, method, 0)
    assert fitted.accuracy > 0.25 + 2 * three_errors
    assert (fitted.head.logits(features).argmax(1) == labels).mean() >= fitted.accuracy


def test_images_of_one_cluster_are_never_held_out_apart(examples: Examples) -> None:
    """A photograph in eight crops tells nothing of other photographs, and only whole clusters show that."""
    labels = np.repeat(np.random.default_rng(2).integers(0, 2, 40), 8).astype(np.int32)
    clusters = np.repeat(np.arange(40), 8).astype(np.int32)
    features = np.repeat(np.random.default_rng(3).normal(size=(40, 60)), 8, axis=0)
    apart = np.arange(320, dtype=np.int32)
    assert fit_head(features, labels, apart, "ridge", 0).accuracy == 1
    assert fit_head(features, labels, clusters, "ridge", 0).accuracy < 0.75
    folds = make_folds(labels, clusters, 0)
    assert all(len(set(folds[clusters == cluster].tolist())) == 1 for cluster in range(40))


def test_folds_are_of_all_classes_and_of_their_seed(examples: Examples) -> None:
    labels = examples[1]
    clusters = np.arange(len(labels), dtype=np.int32)
    folds = make_folds(labels, clusters, 7)
    counts = np.array([[((folds == fold) & (labels == label)).sum() for label in range(4)] for fold in range(FOLDS)])
    assert counts.min() == counts.max() == 240 / 4 / FOLDS
    assert np.array_equal(folds, make_folds(labels, clusters, 7))
    assert not np.array_equal(folds, make_folds(labels, clusters, 8))


def test_the_factor_of_ridge_makes_confidence_fit_accuracy(examples: Examples) -> None:
    features, labels = examples
    fitted = fit_head(features, labels, np.arange(240, dtype=np.int32), "ridge", 0)
    logits = torch.from_numpy(fitted.head.logits(features))
    confidence = float(logits.softmax(1).max(1).values.mean())
    assert abs(confidence - float((logits.argmax(1).numpy() == labels).mean())) < 0.1
    (ridge_head,) = fit_ridge(features, np.eye(4)[labels], [fitted.strength])
    assert np.array_equal(ridge_head.logits(features).argmax(1), logits.argmax(1).numpy())


def test_a_strength_at_the_end_of_the_grid_is_said_to_be_there() -> None:
    """Labels that features say nothing about take all the strength there is; those that they decide take little."""
    features, labels = np.random.default_rng(0).normal(size=(60, 30)), np.arange(60, dtype=np.int32) % 2
    clusters = np.arange(60, dtype=np.int32)
    strengths = [fit_head(x, labels, clusters, "ridge", 0).strength for x in (features, np.eye(2)[labels])]
    assert [strength_in_words(strength) for strength in (*strengths, 1.0)] == [
        "1000, the largest that is tried", "0.0001, the smallest that is tried", "1",
    ]  # fmt: skip
