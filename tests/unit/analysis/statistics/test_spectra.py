"""Intervals of powers hold the truth; readouts are ridge regression, with planted and with shuffled labels."""

from __future__ import annotations

import numpy as np
import pytest

from bandlens.analysis.statistics.spectra import (
    exponent_weights,
    mean_power,
    read_labels,
    standardized_products,
    weighted,
)
from bandlens.export.heads.linear import make_folds


def test_a_power_law_without_noise_has_its_exponent() -> None:
    cycles = np.arange(1.0, 65)
    powers = np.array([[1.0], [3.0], [7.0]]) * cycles**-2.2
    value, half = weighted(mean_power(powers, np.arange(3)), exponent_weights(cycles))
    assert value == pytest.approx(2.2)
    assert half == pytest.approx(0, abs=1e-9)


def test_intervals_hold_the_true_power_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        powers = rng.lognormal(sigma=0.6, size=(60, 1))
        value, half = weighted(mean_power(powers, np.arange(60)), np.ones(1))
        hits += abs(value - 0.18) <= half  # the logarithm of the mean of a log-normal is sigma^2 / 2
    assert 0.92 <= hits / 400 <= 0.98


def test_a_readout_decides_as_ridge_regression_on_the_features_does() -> None:
    rng = np.random.default_rng(0)
    labels = np.sort(np.arange(90) % 6 // 2 * (np.arange(90) > 40))  # 0 twice as often as 1 and 2
    features = rng.standard_normal((90, 6))
    features[:, 0] += labels
    folds = make_folds(labels.astype(np.int32), np.arange(90, dtype=np.int32), 0)
    readouts = read_labels((features @ features.T)[None], labels, np.arange(90), folds)
    for fold in range(5):
        rest, test = folds != fold, folds == fold
        x, y = features[rest], np.eye(3)[labels[rest]]
        y = y / y.sum(axis=0)
        away = x - x.mean(axis=0)
        strength = np.square(away).sum() / len(x)
        weight = np.linalg.solve(away.T @ away + strength * np.eye(6), away.T @ (y - y.mean(axis=0)))
        outputs = (features[test] - x.mean(axis=0)) @ weight + y.mean(axis=0)
        assert (readouts.correct[0, test] == (outputs.argmax(axis=1) == labels[test])).all()


def test_information_is_found_where_it_was_planted_and_not_in_shuffled_labels() -> None:
    """Images of a cluster share their label and their features but for noise."""
    size, planted, shuffled = 2, 0, 0
    for draw in range(12):
        rng = np.random.default_rng(draw)
        clusters = np.arange(60).repeat(size)
        cluster_labels = np.arange(60) % 2
        features = rng.standard_normal((4, 60, 5)).repeat(size, axis=1) + rng.normal(0, 0.3, (4, 60 * size, 5))
        features[2, :, 0] += (2 * cluster_labels)[clusters]
        products = np.array([standardized_products(part) for part in features])
        for shuffle in (False, True):
            labels = (rng.permutation(cluster_labels) if shuffle else cluster_labels)[clusters]
            folds = make_folds(labels.astype(np.int32), clusters.astype(np.int32), 0)
            significant = read_labels(products, labels, clusters, folds).p <= 0.05
            if shuffle:
                shuffled += significant.any()
            else:
                planted += significant[2]
    assert planted >= 11
    assert shuffled <= 3


def test_labels_that_vary_within_clusters_are_permuted_within_them() -> None:
    """Clusters that differ in their features say nothing of labels that each cluster has equally often."""
    rng = np.random.default_rng(0)
    clusters = np.arange(30).repeat(2)
    labels = np.tile([0, 1], 30)
    features = rng.standard_normal((30, 4))[clusters] + 0.1 * rng.standard_normal((60, 4))
    features[:, 0] += 0.5 * labels
    folds = make_folds(labels.astype(np.int32), clusters.astype(np.int32), 0)
    readouts = read_labels(standardized_products(features)[None], labels, clusters, folds)
    assert readouts.chance[0] == pytest.approx(0.5, abs=0.05)
