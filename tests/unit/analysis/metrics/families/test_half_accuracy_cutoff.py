"""The cut that leaves half of the accuracy lies where the curve crosses half, and its interval holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_outcomes import CLEAN, images_of, outcomes_of, right_outcomes
from made_up_results import condition
from numpy.typing import NDArray

from bandlens.analysis.metrics.base import State
from bandlens.analysis.metrics.families.half_accuracy_cutoff import (
    MEASURES,
    cut_of,
    half_cut_differences,
    half_cut_estimates,
)
from bandlens.analysis.metrics.predictions import Outcomes
from bandlens.analysis.metrics.registry import lacking
from bandlens.core.records import Condition
from bandlens.probes.grid import make_grid
from bandlens.probes.spectral import radius

CUTOFFS = (0.1, 0.2, 0.3, 0.4, 0.5)
CUTS = {"lowpass": (11, 22, 33, 44, 56), "highpass": (100, 89, 78, 67, 56)}
"""Cycles per image of the cuts at 224 pixels a side."""
LOW, HIGH = "lowpass_half_cut", "highpass_half_cut"


def outcomes(probe: str, ratios: tuple[float, ...], classes: int = 1000, clean: float = 0.8, n: int = 1000) -> Outcomes:
    """A model that recognizes a share of n images, of which each filter leaves a part; it guesses the others evenly."""
    chance = 1 / classes
    shares = {CLEAN: clean} | {
        condition(probe, cutoff=cutoff): chance + ratio * (clean - chance)
        for cutoff, ratio in zip(CUTOFFS, ratios, strict=True)
    }
    rng = np.random.default_rng(0)
    hits = {setting: rng.permutation(n) < round(n * share) for setting, share in shares.items()}
    return right_outcomes(hits, classes=classes)


def estimate(name: str, outcomes: Outcomes) -> tuple[float, float, float, State, str | None]:
    answer = half_cut_estimates(name, outcomes)[name]
    return answer.value, answer.low, answer.high, answer.state, answer.note


@pytest.mark.parametrize("probe", ["lowpass", "highpass"])
def test_cuts_are_those_of_the_filters(probe: str) -> None:
    """At 240 pixels a high-pass at 0.9 cuts at 11 cycles and not at 12: in floating point, 1 - 0.9 is below 0.1."""
    for size in (64, 224, 240, 300):
        for setting in make_grid({probe: {"cutoff": [0.1, 0.29, 1 / 3, 0.5, 0.9, 0.99]}}, Path()).conditions:
            if setting.probe == probe:
                assert cut_of(probe, setting.number("cutoff") or 0, size) == radius(setting, size)


@pytest.mark.parametrize(("name", "probe", "classes"), [(LOW, "lowpass", 7), (HIGH, "highpass", 1000)])
def test_it_lies_between_the_cuts_that_leave_less_and_more_than_half(name: str, probe: str, classes: int) -> None:
    """Half lies midway between ratios of 0.3 and 0.7, in octaves."""
    value, low, high, state, note = estimate(name, outcomes(probe, (0.1, 0.2, 0.3, 0.7, 0.9), classes))
    assert value == pytest.approx(np.sqrt(np.prod(CUTS[probe][2:4])), rel=0.01)
    assert low < value < high
    assert (state, note) == (State.OK, None)


def test_a_curve_that_crosses_half_twice_has_the_cut_from_which_on_it_stays_above() -> None:
    value, *_ = estimate(LOW, outcomes("lowpass", (0.2, 0.6, 0.4, 0.6, 0.9)))
    assert value == pytest.approx(np.sqrt(33 * 44), rel=0.01)


@pytest.mark.parametrize(
    ("name", "probe", "ratio", "expected"),
    [
        (LOW, "lowpass", 0.9, (11, State.CENSORED_BELOW, "half or more is left even at 11 cycles per image")),
        (LOW, "lowpass", 0.1, (56, State.CENSORED_ABOVE, "less than half is left even at 56 cycles per image")),
        (HIGH, "highpass", 0.9, (100, State.CENSORED_ABOVE, "half or more is left even at 100 cycles per image")),
        (HIGH, "highpass", 0.1, (56, State.CENSORED_BELOW, "less than half is left even at 56 cycles per image")),
    ],
)
def test_a_cut_beyond_the_tested_ones_says_so(
    name: str, probe: str, ratio: float, expected: tuple[float, State, str]
) -> None:
    value, _, _, state, note = estimate(name, outcomes(probe, (ratio,) * 5))
    assert (pytest.approx(value), state, note) == expected


def test_a_highpass_that_removes_nothing_is_left_out() -> None:
    """At 64 pixels a side a cutoff of 0.99 removes frequencies below 0, and leaves what is right of clean images."""
    hits = {condition("highpass", cutoff=c): np.full(100, c > 0.9) for c in (0.5, 0.9, 0.99)}
    for state in (State.CENSORED_BELOW, State.MISSING):
        small = right_outcomes({CLEAN: np.ones(100, bool)} | hits)
        small = replace(small, subject=replace(small.subject, size=64))
        assert half_cut_estimates(HIGH, small)[HIGH].state == state
        hits.pop(condition("highpass", cutoff=0.5), None)
    assert not half_cut_differences(HIGH, small, small)


def test_blind_guesses_have_no_cut() -> None:
    value, _, _, state, note = estimate(LOW, outcomes("lowpass", (1.0,) * 5, classes=7, clean=1 / 7))
    assert (np.isnan(value), state) == (True, State.AT_CHANCE)
    assert note == "accuracy without perturbation is not told from that of a blind guess, 0.143"


def test_few_images_have_a_cut_without_an_interval() -> None:
    value, low, _, state, _ = estimate(LOW, outcomes("lowpass", (0.1, 0.2, 0.3, 0.7, 0.9), n=19))
    assert (np.isnan(value), np.isnan(low), state) == (False, True, State.NO_INTERVAL)


def recognize(rng: np.random.Generator, middle: float, n: int = 300) -> Mapping[Condition, NDArray[np.bool_]]:
    """Right answers of a model that needs frequencies up to `middle` cycles, give or take, to recognize an image."""
    clean = rng.random(n) < 0.8
    thresholds = middle * 2 ** rng.logistic(scale=0.3, size=n)
    filters = {condition("lowpass", cutoff=cutoff): cut for cutoff, cut in zip(CUTOFFS, CUTS["lowpass"], strict=True)}
    return {CLEAN: clean} | {setting: clean & (thresholds <= cut) for setting, cut in filters.items()}


def test_the_interval_holds_the_cut_of_the_curve_about_as_often_as_it_says() -> None:
    """The truth is where the straight line between two cuts of the true curve crosses half."""
    octaves, middle = np.log2(CUTS["lowpass"]), 30.0
    ratios = 1 / (1 + np.exp(-(octaves - np.log2(middle)) / 0.3))
    truth, coverage = 2 ** np.interp(0.5, ratios, octaves), 0
    for run in range(100):
        answer = half_cut_estimates(LOW, right_outcomes(recognize(np.random.default_rng(run), middle)))[LOW]
        coverage += answer.low <= truth <= answer.high
    assert 88 <= coverage <= 99


def test_a_difference_is_paired_over_the_images() -> None:
    """The same images, one network needing an octave more: the interval holds the difference and not 0."""
    a, b = (right_outcomes(recognize(np.random.default_rng(5), middle)) for middle in (20, 40))
    low, high = half_cut_differences(LOW, a, b)[LOW]
    values = [half_cut_estimates(LOW, outcomes)[LOW].value for outcomes in (a, b)]
    assert 0 < low < values[1] - values[0] < high


def test_a_difference_takes_the_chance_level_of_each_model() -> None:
    """Filters leave the same part of what two models recognize, of 2 and of 10 classes: their cuts do not differ."""
    a, b = (outcomes("lowpass", (0.1, 0.2, 0.3, 0.7, 0.9), classes) for classes in (2, 10))
    low, high = half_cut_differences(LOW, a, b)[LOW]
    assert low < 0 < high


def test_it_takes_two_cutoffs() -> None:
    outcomes = right_outcomes({CLEAN: np.ones(9, bool), condition("lowpass", cutoff=0.1): np.ones(9, bool)})
    assert lacking(MEASURES, outcomes.available) == {LOW: "lowpass has one cutoff, and a cut takes 2"}


def test_answers_that_are_all_of_the_most_frequent_class_leave_nothing() -> None:
    """Nine in ten images are of one class of two, which is said of all below 44 cycles: it is right 0.9 times."""
    place = np.arange(400)
    labels = (place < 40).astype(np.int64)
    clean = np.where(place % 50 == 0, 1 - labels, labels)
    filtered = {condition("lowpass", cutoff=cutoff): clean if cutoff > 0.35 else 0 * labels for cutoff in CUTOFFS}
    images = replace(images_of(400), label=labels)
    value, low, _, state, _ = estimate(LOW, outcomes_of({CLEAN: clean} | filtered, images, classes=2))
    assert state == State.OK
    assert 33 <= low <= value <= 44
