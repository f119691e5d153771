"""Negative log-likelihood and margin against scikit-learn, scipy and their definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_up_outcomes import CLEAN, images_of, outcomes_of
from made_up_results import cell, condition, image_set, part, store_study
from numpy.typing import NDArray
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import log_loss

from bandlens.analysis.database.store import Store
from bandlens.analysis.metrics.compute import compute_measures
from bandlens.analysis.metrics.families.label_probability import probability_differences, probability_estimates
from bandlens.analysis.metrics.predictions import CellOutcomes
from bandlens.engine.decision import reduce_logits

LABELS = np.arange(200) % 10


def decided_cell(logits: NDArray[np.float32], clusters: NDArray[np.int64] | None = None) -> CellOutcomes:
    """The decisions that logits (200, 10) are reduced to, without clean images."""
    predicted, rank, confidence, probability = reduce_logits(np, logits, LABELS)
    images = replace(images_of(200, clusters), label=LABELS)
    [outcome] = outcomes_of({condition("lowpass"): predicted}, images).cells.values()
    decisions = replace(
        outcome.decisions,
        predicted=predicted,
        rank=rank,
        stored_confidence=confidence,
        label_probability=probability,
    )
    return replace(outcome, decisions=decisions)


def logits_of(seed: int) -> NDArray[np.float32]:
    return (2 * np.random.default_rng(seed).standard_normal((200, 10))).astype(np.float32)


def test_the_likelihood_is_that_of_scikit_learn_with_the_interval_of_scipy() -> None:
    logits = logits_of(0)
    estimates = probability_estimates(decided_cell(logits))
    probabilities = softmax(logits.astype(np.float64), axis=1)
    likelihood = estimates["negative_log_likelihood"]
    assert likelihood.value == pytest.approx(log_loss(LABELS, probabilities), rel=1e-6)
    losses = -np.log(probabilities[np.arange(200), LABELS])
    assert (likelihood.low, likelihood.high) == pytest.approx(
        stats.ttest_1samp(losses, 0).confidence_interval(), abs=0.01
    )
    margins = probabilities[np.arange(200), LABELS] - probabilities.max(axis=1)
    assert estimates["label_margin"].value == pytest.approx(margins.mean(), abs=1e-6)
    assert estimates["label_margin"].low < margins.mean() < estimates["label_margin"].high <= 0


def test_differences_are_paired() -> None:
    logits = logits_of(1)
    harder = logits + logits_of(2) / 10
    losses, harder_losses = (
        -np.log(softmax(values.astype(np.float64), axis=1)[np.arange(200), LABELS]) for values in (logits, harder)
    )
    cell_a, cell_b = decided_cell(logits), decided_cell(harder)
    ends = probability_differences(cell_a, cell_b)["negative_log_likelihood"]
    assert ends == pytest.approx(stats.ttest_rel(harder_losses, losses).confidence_interval(), abs=0.005)
    cell_b = replace(cell_b, clean=cell_a.decisions)
    difference = probability_estimates(cell_b)["negative_log_likelihood"].difference
    assert difference == pytest.approx(((harder_losses - losses).mean(), *ends), abs=1e-6)


def test_images_of_a_cluster_count_as_one() -> None:
    logits = np.tile(logits_of(3)[:50], (4, 1))
    alone = probability_estimates(decided_cell(logits))
    clustered = probability_estimates(decided_cell(logits, np.arange(200) % 50))
    for name, estimate in clustered.items():
        assert estimate.value == alone[name].value
        assert estimate.high - estimate.low > 1.7 * (alone[name].high - alone[name].low)


def test_a_probability_of_0_costs_what_the_least_one_that_is_stored_costs() -> None:
    logits = np.zeros((200, 10), np.float32)
    logits[:, 0] = 1000
    estimates = probability_estimates(decided_cell(logits))
    assert estimates["negative_log_likelihood"].value == pytest.approx(0.9 * 149 * np.log(2))
    assert estimates["label_margin"].value == pytest.approx(-0.9)
    assert estimates["label_margin"].low >= -1


def test_what_has_no_probability_of_labels_has_no_numbers(store: Store) -> None:
    images, blurred = image_set(3, labels=[0, 1, 2]), condition("lowpass", cutoff=0.1)
    parts = [
        part(cell(images), [0, 1, 1], [0, 0, 1], confidence=0.8, label_probability=[0.8, 0.8, 0.1]),
        part(cell(images, blurred), [0, 1, 1], [0, 0, 1], confidence=0.8),
    ]
    for number, outcome in enumerate(parts):
        store_study(store, f"s{number}", images, [outcome])
    compute_measures(store, "*")
    rows = store.frame(
        "SELECT probe, metric, value FROM condition_metric "
        "WHERE metric IN ('negative_log_likelihood', 'label_margin') ORDER BY metric"
    ).rows()
    assert rows == [
        ("clean", "label_margin", pytest.approx(-0.7 / 3)),
        ("clean", "negative_log_likelihood", pytest.approx(-np.log([0.8, 0.8, 0.1]).mean())),
    ]


def test_the_label_of_conflicting_cues_is_the_first(store: Store) -> None:
    """As for accuracy: the probability is stored beside the rank of the same class."""
    images = images_of(4, cues=([0, 1, 2, 3], [1, 2, 3, 0]))
    outcomes = outcomes_of({CLEAN: [0, 1, 3, 0]}, images)
    [outcome] = outcomes.cells.values()
    decisions = replace(outcome.decisions, label_probability=np.full(4, 0.25, np.float32))
    estimates = probability_estimates(replace(outcome, decisions=decisions, clean=None))
    assert estimates["negative_log_likelihood"].n == 4
    assert estimates["negative_log_likelihood"].value == pytest.approx(np.log(4))
