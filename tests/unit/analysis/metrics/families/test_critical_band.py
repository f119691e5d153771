import numpy as np
import pytest

from bandlens.analysis.metrics.base import State
from bandlens.analysis.metrics.families.critical_band import (
    fit_band,
    integer_thresholds,
    normalized_thresholds,
    people_estimates,
)
from bandlens.analysis.metrics.registry import MEASURES


def accuracies(thresholds: str, top: float = 80.0) -> np.ndarray:
    """Percentages that give these thresholds: `top` down to the threshold's noise, nothing beyond."""
    return np.array([[top if int(t) <= 4 - i else 0.0 for t in thresholds] for i in range(5)])


def test_the_threshold_is_the_number_of_steps_down_from_the_strongest_noise() -> None:
    assert integer_thresholds(accuracies("0123443")) == (0, 1, 2, 3, 4, 4, 3)


def test_exactly_half_does_not_pass_and_never_passing_is_four() -> None:
    assert integer_thresholds(np.full((5, 7), 50.0)) == (4,) * 7
    assert integer_thresholds(np.full((5, 7), 50.001)) == (0,) * 7
    only_without_noise = np.zeros((5, 7))
    only_without_noise[0] = 99
    assert integer_thresholds(only_without_noise) == (4,) * 7


def test_the_strongest_noise_that_passes_counts_though_a_weaker_one_fails() -> None:
    dip = accuracies("0000000")
    dip[2] = 0
    assert integer_thresholds(dip) == (0,) * 7


def test_normalized_thresholds_are_relative_to_no_noise() -> None:
    low = accuracies("0123443", top=40.0)
    assert integer_thresholds(low) == (4,) * 7
    assert normalized_thresholds(low) == (0, 1, 2, 3, 4, 4, 3)


def test_a_fit_that_does_not_end_is_degenerate_and_gives_no_number() -> None:
    band = fit_band([0, 0, 0, 0, 0, 0, 4])
    assert {estimate.note for estimate in band.values()} == {"no Gaussian fits the thresholds"}
    assert np.isnan([estimate.value for estimate in band.values()]).all()


@pytest.mark.parametrize(
    ("thresholds", "state", "note"),
    [
        ([4] * 7, "degenerate", "all thresholds are equal; the peak is at its bound"),
        ([0] * 7, "degenerate", "all thresholds are equal"),
        ([1, 0, 1, 0, 0, 0, 0], "degenerate", "the centre lies outside the tested bands"),
        ([4, 3, 4, 4, 4, 4, 3], "degenerate", "the Gaussian is wider than the tested range"),
        ([1, 2, 2, 2, 3, 3, 3], "doubtful", "one of its flanks lies outside the tested bands"),
        ([1, 2, 3, 4, 4, 4, 3], "doubtful", "the peak is at its bound"),
        ([0, 1, 2, 3, 2, 1, 0], "ok", None),
    ],
)
def test_what_lies_outside_the_tested_bands_is_flagged(thresholds: list[int], state: str, note: str | None) -> None:
    band = fit_band(thresholds)["bandwidth"]
    assert band.state == state
    assert (band.note is None) if note is None else (note in (band.note or ""))


def test_the_channel_of_people_is_the_published_one_and_stands_by_measures_of_models() -> None:
    """One octave wide; the mean of the observers' own centres is published as 39.13 +- 2.98 cycles per image."""
    estimates = people_estimates()
    assert estimates["critical_bandwidth_raw"].value == pytest.approx(1, abs=1e-3)
    assert estimates["critical_center_frequency_raw"].value == pytest.approx(39.13, abs=2.98)
    assert {estimate.state for name, estimate in estimates.items() if "threshold" not in name} == {State.DOUBTFUL}
    assert [estimates[f"critical_threshold_{f}_raw"].value for f in range(7)] == [0, 0, 0, 0, 2, 2, 0]
    assert {name for name in MEASURES if MEASURES[name].people} == estimates.keys()
