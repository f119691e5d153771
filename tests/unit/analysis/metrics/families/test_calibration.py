"""Calibration errors are those of another library, and hold for simulated networks."""

from __future__ import annotations

import numpy as np
import pytest

from bandlens.analysis.metrics.families.calibration import BINS, calibration_gaps


def outcomes(count: int, excess: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidences of a network that is right with this probability, less `excess`."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.3, 0.95, count)
    return confidence, rng.random(count) < confidence - excess


@pytest.mark.parametrize(("count", "excess"), [(1, 0.0), (40, 0.2), (3000, -0.04), (3000, 0.0), (3000, 0.25)])
def test_the_error_is_that_of_torchmetrics(count: int, excess: float) -> None:
    import torch
    from torchmetrics.functional.classification import binary_calibration_error  # imports transformers: 3 s

    confidence, correct = outcomes(count, excess, count)
    expected = binary_calibration_error(torch.tensor(confidence), torch.tensor(correct), n_bins=BINS, norm="l1")
    assert calibration_gaps(confidence, correct)[0].mean() == pytest.approx(float(expected), abs=1e-6)


def test_edges_belong_to_the_bin_below_and_certainty_to_the_last() -> None:
    """One image at 1/15 is right, one just above is wrong: bins have 14/15 and 1/15; together 12/15 would cancel."""
    confidence, correct = np.array([1 / 15, 1 / 15 + 1e-9, 1.0]), np.array([True, False, True])
    assert calibration_gaps(confidence, correct)[0] == pytest.approx([14 / 15, 1 / 15, 0], abs=1e-8)


def test_what_chance_gives_is_what_a_calibrated_network_has() -> None:
    samples = [calibration_gaps(*outcomes(500, 0, seed)) for seed in range(400)]
    assert np.mean([gaps.mean() for gaps, _ in samples]) == pytest.approx(samples[0][1], rel=0.05)
