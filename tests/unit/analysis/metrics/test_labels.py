"""Accuracy label by label against torchmetrics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_outcomes import CLEAN, images_of, outcomes_of
from made_up_results import condition

from bandlens.analysis.metrics.compute import subject_rows
from bandlens.analysis.metrics.predictions import Outcomes
from bandlens.analysis.metrics.slices import MEASURES, label_differences, label_estimates

COUNT, LABELS = 60, 4
NAMES = {1: "cat", 2: "dog", 4: "elk", 3: "cat + dog"}
RNG = np.random.default_rng(0)
TRUTH, ANSWERS, BLURRED = RNG.integers(0, 2**LABELS, (3, COUNT))
BLUR = condition("blur", sigma=2.0)


def outcomes(multilabel: bool = True) -> Outcomes:
    images = replace(images_of(COUNT), label=TRUTH)
    base = outcomes_of({CLEAN: ANSWERS, BLUR: BLURRED}, images, NAMES, classes=2**LABELS)
    return replace(base, available=replace(base.available, multilabel=multilabel))


def bits(numbers: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(numbers[:, None] >> np.arange(LABELS) & 1)


def test_they_are_the_accuracies_and_the_hamming_distance_of_torchmetrics() -> None:
    from torchmetrics.functional.classification import (  # imports transformers: 3 s
        multilabel_accuracy,
        multilabel_exact_match,
        multilabel_hamming_distance,
    )

    rows = {(row["probe"], row["metric"]): row for row in subject_rows(outcomes()).to_dicts()}
    for probe, answers in (("clean", ANSWERS), ("blur", BLURRED)):
        expected = multilabel_accuracy(bits(answers), bits(TRUTH), LABELS, average="none").tolist()
        for name, accuracy in zip(("cat", "dog", "elk", "3"), expected, strict=True):
            assert rows[probe, f"label_accuracy_{name}"]["value"] == pytest.approx(accuracy)
        distance = float(multilabel_hamming_distance(bits(answers), bits(TRUTH), LABELS))
        assert rows[probe, "label_accuracy"]["value"] == pytest.approx(1 - distance)
        exact = float(multilabel_exact_match(bits(answers), bits(TRUTH), LABELS))
        assert rows[probe, "accuracy"]["value"] == pytest.approx(exact)
    row = rows["blur", "label_accuracy_cat"]
    clean = rows["clean", "label_accuracy_cat"]
    assert row["difference"] == pytest.approx(row["value"] - clean["value"])
    assert row["difference_low"] < row["difference"] < row["difference_high"]


def test_the_difference_of_two_runs_is_that_of_a_condition_from_clean() -> None:
    clean, blurred = outcomes().cells.values()
    estimates = label_estimates(blurred)
    intervals = label_differences(clean, blurred)
    assert intervals.keys() == estimates.keys()
    for name, estimate in estimates.items():
        assert estimate.difference is not None
        assert intervals[name] == pytest.approx(estimate.difference[1:])


def test_images_of_one_label_have_none() -> None:
    assert not subject_rows(outcomes(False))["metric"].str.contains("label_accuracy").any()
    assert MEASURES[-1].applies(outcomes().available)
