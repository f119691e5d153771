"""Spectral biases follow their definition, the published figures, and bootstraps written out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from made_up_outcomes import CLEAN, images_of, outcomes_of, right_outcomes
from made_up_results import condition
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t

from bandlens.analysis.metrics.base import Estimate, State
from bandlens.analysis.metrics.families.spectral_bias import (
    CORRECTED,
    MEASURES,
    spectral_differences,
    spectral_estimates,
)
from bandlens.analysis.metrics.predictions import Outcomes
from bandlens.analysis.metrics.registry import lacking
from bandlens.core.protocol import BIAS_CUTOFFS
from bandlens.core.records import Condition

SETTINGS = [condition(probe, cutoff=c) for probe in ("lowpass", "highpass") for c in BIAS_CUTOFFS]
COUNT = 200
CLEAN_COUNT = 160
LOW = {0.01: 0.02, 0.1: 0.2, 0.2: 0.4, 0.3: 0.6, 0.4: 0.8, 0.5: 1.0, 0.9: 1.1}
HIGH = {0.01: 0.9, 0.1: 0.05, 0.2: 0.1, 0.3: 0.15, 0.4: 0.2, 0.5: 0.25, 0.9: 0.5}


def curve(
    low: Mapping[float, float] = LOW, high: Mapping[float, float] = HIGH, clean: int = CLEAN_COUNT, count: int = COUNT
) -> dict[Condition, NDArray[np.bool_]]:
    """Right answers whose ratios to the clean ones are those of each cutoff."""
    ratios = {CLEAN: 1.0}
    for probe, by_cutoff in (("lowpass", low), ("highpass", high)):
        ratios |= {condition(probe, cutoff=cutoff): ratio for cutoff, ratio in by_cutoff.items()}
    return {setting: np.arange(count) < round(ratio * clean) for setting, ratio in ratios.items()}


OUTCOMES = right_outcomes(curve())


def estimates(hits: dict[Condition, NDArray[np.bool_]]) -> dict[str, Estimate]:
    return spectral_estimates(right_outcomes(hits))


def lacks(outcomes: Outcomes) -> dict[str, str | None]:
    return lacking(MEASURES, outcomes.available)


def test_means_over_the_five_cutoffs_and_their_share() -> None:
    values = {name: estimate.value for name, estimate in estimates(curve()).items()}
    assert values == pytest.approx(
        {"low_frequency_bias": 0.6, "high_frequency_bias": 0.15, "spectral_bias": 0.15 / 0.75}
    )


def test_cutoffs_that_went_through_single_precision_are_recognized() -> None:
    low = {float(np.float32(cutoff)): ratio for cutoff, ratio in LOW.items()}
    assert estimates(curve(low=low))["low_frequency_bias"].value == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("high", "lack"),
    [
        ({c: r for c, r in HIGH.items() if c not in (0.2, 0.4)}, "highpass lacks the cutoffs 0.2, 0.4"),
        ({}, "highpass lacks the cutoffs 0.1, 0.2, 0.3, 0.4, 0.5"),
        (HIGH | {0.10001: 0.05}, "highpass has the cutoff 0.1 more than once"),
    ],
)
def test_a_mean_over_fewer_cutoffs_is_refused_with_its_reason(high: dict[float, float], lack: str) -> None:
    outcomes = right_outcomes(curve(high=high))
    assert lacks(outcomes) == {
        "low_frequency_bias": None,
        "high_frequency_bias": lack,
        "spectral_bias": "it is made of high_frequency_bias",
    }
    assert spectral_estimates(outcomes) == {"low_frequency_bias": spectral_estimates(OUTCOMES)["low_frequency_bias"]}
    pairs = [(outcomes, right_outcomes(curve(clean=100, high=high))), (OUTCOMES, right_outcomes(curve(clean=100)))]
    partial_differences, full_differences = (spectral_differences(*pair) for pair in pairs)
    assert partial_differences == {"low_frequency_bias": full_differences["low_frequency_bias"]}


def test_without_a_right_clean_answer_there_is_no_ratio() -> None:
    answers = curve()
    nothing_right = curve(clean=0)
    without_clean = {setting: answer for setting, answer in answers.items() if setting != CLEAN}
    for hits, above_floor in product((nothing_right, without_clean), (False, True)):
        outcomes = right_outcomes(hits)
        answered = spectral_estimates(outcomes, above_floor)
        assert spectral_differences(outcomes, outcomes, above_floor) == {}
        assert {estimate.state for estimate in answered.values()} == {State.UNDETERMINED}
        assert all(np.isnan(estimate.value) for estimate in answered.values())
        note = answered[f"{CORRECTED * above_floor}high_frequency_bias"].note or ""
        assert note.startswith("highpass cutoff 0.1 has no ratio to clean accuracy, 0.2 has no ratio")
        assert note in (answered[f"{CORRECTED * above_floor}spectral_bias"].note or "")


def test_the_share_of_nothing_is_not_a_number() -> None:
    zeros = dict.fromkeys(BIAS_CUTOFFS, 0.0)
    answered = estimates(curve(low=zeros, high=zeros))
    assert answered["low_frequency_bias"].value == 0
    assert np.isnan(answered["spectral_bias"].value)
    assert answered["spectral_bias"].note == "nothing is recognized in either band"


def outcomes(rng: np.random.Generator, images: int, ratios: Sequence[float]) -> NDArray[np.bool_]:
    """(11, images): clean is right on 80 %, and of those each filter leaves its ratio."""
    clean = rng.random(images) < 0.8
    return np.array([clean, *(clean & (rng.random(images) < ratio) for ratio in ratios)])


RATIOS = (0.2, 0.4, 0.5, 0.6, 0.8, 0.1, 0.2, 0.2, 0.3, 0.2)


def test_intervals_equal_a_bootstrap_written_out() -> None:
    correct = np.repeat(outcomes(np.random.default_rng(0), 300, RATIOS), 3, axis=1)
    hits = dict(zip([CLEAN, *SETTINGS], correct, strict=True))
    answered = spectral_estimates(right_outcomes(hits, np.arange(900) // 3))
    times = np.random.default_rng(9).multinomial(300, np.full(300, 1 / 300), 2000)
    resampled = times @ correct.reshape(11, 300, 3).sum(axis=2).T
    low, high = np.reshape(resampled[:, 1:] / resampled[:, :1], (2000, 2, 5)).mean(axis=2).T
    ends = np.quantile([low, high, high / (low + high)], [0.025, 0.975], axis=1).T
    for name, (start, end) in zip(("low_frequency_bias", "high_frequency_bias", "spectral_bias"), ends, strict=True):
        assert (answered[name].low, answered[name].high) == pytest.approx((start, end), abs=0.1 * (end - start))


def test_a_bias_of_few_independent_images_has_no_interval_and_says_so() -> None:
    estimate = spectral_estimates(right_outcomes(curve(high={}), np.arange(COUNT) // 20))["low_frequency_bias"]
    assert (estimate.value, np.isnan(estimate.low), estimate.state) == (pytest.approx(0.6), True, State.NO_INTERVAL)
    assert estimate.note == "10 independent images are too few for an interval"


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_what_is_never_or_always_right_under_a_filter_has_an_interval_of_a_width(ratio: float) -> None:
    """Resamples of equal answers are equal, and would give 0 to 0 or 1 to 1."""
    low, high = (dict.fromkeys(BIAS_CUTOFFS, share) for share in (0.5, ratio))
    answered = estimates(curve(low, high))
    high_bias, share = answered["high_frequency_bias"], answered["spectral_bias"]
    # Two halves of an image that are not seen make up the variance, with 4 degrees of freedom.
    half = t.ppf(0.975, 4) / CLEAN_COUNT
    assert (high_bias.low, high_bias.high) == pytest.approx((max(0, ratio - half), ratio + half), rel=0.01)
    assert 0 <= share.low <= share.value < share.high <= share.low + 0.15


@pytest.mark.parametrize("ratio", [0.02, 0.5, 0.98])
def test_intervals_hold_where_clusters_of_two_sizes_are_answered_as_a_whole(ratio: float) -> None:
    rng, ids = np.random.default_rng(0), np.repeat(np.arange(30), np.where(np.arange(30) % 5, 1, 40))
    holds = 0
    for _ in range(100):
        clean, low, high = (rng.random(30)[ids] < share for share in (0.8, 0.5, ratio))
        hits = dict(zip([CLEAN, *SETTINGS], [clean, *[clean & low] * 5, *[clean & high] * 5], strict=True))
        bias = spectral_estimates(right_outcomes(hits, ids)).get("high_frequency_bias", Estimate())
        holds += bool(bias.low <= ratio <= bias.high)
    assert holds >= 93


# Few classes

CHANCE = 1 / 7
GUESSED = dict.fromkeys(BIAS_CUTOFFS, CHANCE)


def shares(low: Mapping[float, float], high: Mapping[float, float], clean: float) -> dict[Condition, NDArray[np.bool_]]:
    """Right answers of 350 images, as many as each accuracy says."""
    accuracies = {CLEAN: clean}
    for probe, by_cutoff in (("lowpass", low), ("highpass", high)):
        accuracies |= {condition(probe, cutoff=cutoff): accuracy for cutoff, accuracy in by_cutoff.items()}
    rng = np.random.default_rng(0)
    return {setting: rng.permutation(350) < round(350 * accuracy) for setting, accuracy in accuracies.items()}


def test_a_bias_of_blind_guesses_is_at_chance_and_0_where_it_is_corrected() -> None:
    outcomes = right_outcomes(shares(dict.fromkeys(BIAS_CUTOFFS, 0.6), GUESSED, 0.8), classes=7)
    published, corrected = (spectral_estimates(outcomes, above) for above in (False, True))
    high = published["high_frequency_bias"]
    assert (high.value, high.state) == (pytest.approx(CHANCE / 0.8), State.AT_CHANCE)
    assert (
        high.note
        == "accuracy as the mean over the highpass cutoffs of the bias is not told from that of a blind guess, 0.143"
    )
    assert corrected["corrected_high_frequency_bias"].value == pytest.approx(0, abs=1e-12)
    assert corrected["corrected_high_frequency_bias"].state == State.AT_CHANCE
    low = corrected["corrected_low_frequency_bias"]
    assert (low.value, low.state) == (pytest.approx((0.6 - CHANCE) / (0.8 - CHANCE)), State.OK)
    assert low.low < low.value < low.high
    assert published["low_frequency_bias"].state == State.DOUBTFUL
    assert published["low_frequency_bias"].note == (
        "a blind guess is right in 1 of 7 images; corrected_low_frequency_bias is without it"
    )


def test_one_filter_above_chance_determines_a_bias() -> None:
    outcomes = right_outcomes(shares(GUESSED, GUESSED | {0.5: 0.3}, 0.8), classes=7)
    states = {name: estimate.state for name, estimate in spectral_estimates(outcomes, above_floor=True).items()}
    assert states["corrected_high_frequency_bias"] == State.OK
    assert states["corrected_low_frequency_bias"] == State.AT_CHANCE


def test_of_a_thousand_classes_the_two_are_alike_within_two_thousandths() -> None:
    outcomes = right_outcomes(curve(), classes=1000)
    published, corrected = (spectral_estimates(outcomes, above) for above in (False, True))
    for name, estimate in published.items():
        assert estimate.state == State.OK
        assert corrected[f"corrected_{name}"].value == pytest.approx(estimate.value, abs=0.002)
    assert "corrected_spectral_bias" not in lacks(outcomes)
    assert "corrected_spectral_bias" in lacks(right_outcomes(curve(), classes=999))


def guesses(rng: np.random.Generator, images: int, ratios: Sequence[float], clean: float = 0.8) -> NDArray[np.bool_]:
    """(11, images): a model recognizes a share of images, of which a filter leaves a part, the rest is guessed."""
    recognized = rng.random(images) < clean
    recognition = np.array([recognized, *(recognized & (rng.random(images) < part) for part in ratios)])
    return np.asarray(recognition | (rng.random(recognition.shape) < CHANCE))


def test_corrected_differences_equal_a_bootstrap_written_out() -> None:
    rng = np.random.default_rng(3)
    runs = [guesses(rng, 200, (part,) * 5 + (0.3,) * 5) for part in (0.6, 0.4)]
    a, b = (right_outcomes(dict(zip([CLEAN, *SETTINGS], run, strict=True)), classes=7) for run in runs)
    low, high = spectral_differences(a, b, above_floor=True)["corrected_low_frequency_bias"]
    differences = []
    for _ in range(2000):
        draw = rng.integers(0, 200, 200)
        bias_a, bias_b = (
            ((run[1:6, draw].mean(axis=1) - CHANCE) / (run[0, draw].mean() - CHANCE)).mean() for run in runs
        )
        differences.append(bias_b - bias_a)
    ends = np.quantile(differences, [0.025, 0.975])
    assert (low, high) == pytest.approx(ends, abs=0.1 * (ends[1] - ends[0]))


# Without labels, and labels of which one is more frequent


def answered(
    clean: ArrayLike, filtered: NDArray[np.int64], labels: ArrayLike | None = None, clusters: ArrayLike | None = None
) -> Outcomes:
    """Outcomes of answers to clean images (n,), and under low-passes and high-passes (10, n)."""
    count = len(filtered[0])
    truth = images_of(count, clusters)
    truth = replace(truth, labelled=False) if labels is None else replace(truth, label=np.asarray(labels, np.int64))
    return outcomes_of({CLEAN: clean} | dict(zip(SETTINGS, filtered, strict=True)), truth, classes=10)


def half_kept(seed: int = 0, count: int = 25, share: float = 0.5) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Clean answers of few classes; low-passes keep a share of them, and under high-passes there is one class alone."""
    rng = np.random.default_rng(seed)
    clean = rng.choice(10, count, p=[0.32, 0.12, *[0.07] * 8])
    rest = rng.integers(0, 10, (5, count))
    low = np.where(rng.random(rest.shape) < share, clean, rest)
    return clean, np.concatenate([low, np.zeros((5, count), np.int64)])


def test_agreement_of_one_class_is_at_its_floor_and_what_is_kept_is_above_it() -> None:
    clean, filtered = half_kept()
    outcomes = answered(clean, filtered)
    published, corrected = (spectral_estimates(outcomes, above) for above in (False, True))
    share = (clean == 0).mean()
    high, kept_high = published["high_frequency_bias"], corrected["corrected_high_frequency_bias"]
    assert (high.value, high.state) == (pytest.approx(share), State.AT_CHANCE)
    assert high.note == (
        "agreement as the mean over the highpass cutoffs of the bias is not told from that of unrelated answers, "
        f"{share:.3g}"
    )
    assert (kept_high.value, kept_high.state) == (pytest.approx(0, abs=1e-9), State.AT_CHANCE)
    low = corrected["corrected_low_frequency_bias"]
    assert low.state == State.OK
    assert 0.2 < low.low < low.value < low.high < 0.8
    doubtful = published["low_frequency_bias"]
    assert (doubtful.value, doubtful.state) == (pytest.approx((clean == filtered[:5]).mean()), State.DOUBTFUL)
    words = f"unrelated answers agree on 1 of {1 / outcomes.floor:.2g} images; "
    assert doubtful.note == f"{words}corrected_low_frequency_bias is without it"


def test_a_model_that_says_one_class_of_everything_has_no_share_of_answers_that_it_keeps() -> None:
    zeros = np.zeros(25, np.int64)
    estimates = spectral_estimates(answered(zeros, np.zeros((10, 25), np.int64)), above_floor=True)
    assert {estimate.state for estimate in estimates.values()} == {State.AT_CHANCE}
    assert np.isnan([estimate.value for estimate in estimates.values()]).all()


def test_accuracy_of_always_the_most_frequent_label_is_at_its_floor() -> None:
    labels = np.where(np.arange(100) < 90, 0, np.arange(100) % 10)
    filtered = np.concatenate([np.tile(labels, (5, 1)), np.zeros((5, 100), np.int64)])
    outcomes = answered(labels, filtered, labels)
    states = {name: estimate.state for name, estimate in spectral_estimates(outcomes, above_floor=True).items()}
    assert states["corrected_high_frequency_bias"] == State.AT_CHANCE
    assert states["corrected_low_frequency_bias"] == State.OK
    constant = answered(np.zeros(100, np.int64), filtered, labels)
    assert constant.guessed == "accuracy without perturbation is not told from that of a blind guess, 0.91"
    misnumbered = answered(labels + 20, filtered, labels)
    assert misnumbered.guessed == "accuracy without perturbation is not told from that of a blind guess, 0.1"


def test_the_difference_of_what_two_models_keep_is_that_of_two_values_and_holds_the_truth() -> None:
    holds = 0
    for seed in range(100):
        a, b = (answered(*half_kept(seed, 100, share)) for share in (0.5, 0.3))
        low, high = spectral_differences(a, b, above_floor=True)["corrected_low_frequency_bias"]
        holds += low <= -0.2 <= high
    assert holds >= 93
    clusters = np.arange(100) // 20
    few = (answered(*half_kept(0, 100, share), clusters=clusters) for share in (0.5, 0.3))
    assert spectral_differences(*few, above_floor=True) == {}
