"""Spectral biases follow their definition, the published figures, and bootstraps written out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from made_up_outcomes import CLEAN, images_of, outcomes_of, right_outcomes
from made_up_results import condition
from numpy.typing import ArrayLike, NDArray

from bandlens.analysis.measures.base import Estimate, State
from bandlens.analysis.measures.outcomes import Outcomes
from bandlens.analysis.measures.registry import lacking
from bandlens.analysis.measures.spectral_bias import (
    MEASURES,
    spectral_differences,
    spectral_estimates,
    spectral_intervals,
)
from bandlens.core.protocol import BIAS_CUTOFFS
from bandlens.core.records import Condition

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
    for hits in (nothing_right, {setting: answer for setting, answer in answers.items() if setting != CLEAN}):
        answered = estimates(hits)
        assert {estimate.state for estimate in answered.values()} == {State.UNDETERMINED}
        assert all(np.isnan(estimate.value) for estimate in answered.values())
        note = answered["high_frequency_bias"].note or ""
        assert note.startswith("highpass cutoff 0.1 has no ratio to clean accuracy, 0.2 has no ratio")
        assert note in (answered["spectral_bias"].note or "")


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
    correct = outcomes(np.random.default_rng(0), 120, RATIOS)
    clusters = np.arange(120) // 3
    intervals = spectral_intervals(correct, clusters, resamples=2000)
    rng, values = np.random.default_rng(9), []
    for _ in range(2000):
        draw = np.concatenate([np.flatnonzero(clusters == c) for c in rng.integers(0, 40, 40)])
        ratios = correct[1:, draw].sum(axis=1) / correct[0, draw].sum()
        low, high = ratios[:5].mean(), ratios[5:].mean()
        values.append((low, high, high / (low + high)))
    ends = np.quantile(values, [0.025, 0.975], axis=0)
    for position, name in enumerate(("low_frequency_bias", "high_frequency_bias", "spectral_bias")):
        width = ends[1, position] - ends[0, position]
        assert intervals[name] == pytest.approx(ends[:, position], abs=0.1 * width)


def test_a_bias_of_few_independent_images_has_no_interval_and_says_so() -> None:
    estimate = spectral_estimates(right_outcomes(curve(high={}), np.arange(COUNT) // 20))["low_frequency_bias"]
    assert (estimate.value, np.isnan(estimate.low), estimate.state) == (pytest.approx(0.6), True, State.NO_INTERVAL)
    assert estimate.note == "10 independent images are too few for an interval"


def test_what_is_never_right_under_a_filter_has_an_interval_of_a_width() -> None:
    """Resamples of nothing are nothing, and would give 0 to 0."""
    correct = outcomes(np.random.default_rng(0), 300, (0.5,) * 5 + (0,) * 5)
    intervals = spectral_intervals(correct, np.arange(300))
    assert intervals["high_frequency_bias"] == pytest.approx((0, (3.84 / 303.84) / correct[0].mean()), rel=0.05)
    assert intervals["spectral_bias"][0] == 0 < intervals["spectral_bias"][1] < 0.03
    zeros = spectral_intervals(np.concatenate([correct[:1], np.zeros((10, 300), bool)]), np.arange(300))
    assert zeros["low_frequency_bias"] == zeros["high_frequency_bias"] == intervals["high_frequency_bias"]
    assert "spectral_bias" not in zeros, "it has no value"
    assert spectral_intervals(np.zeros((11, 300), bool), np.arange(300)) == {}


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
    assert high.note == "accuracy under each highpass of the bias is not told from that of a blind guess, 0.143"
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
    settings = [CLEAN, *(condition(probe, cutoff=c) for probe in ("lowpass", "highpass") for c in BIAS_CUTOFFS)]
    a, b = (right_outcomes(dict(zip(settings, run, strict=True)), classes=7) for run in runs)
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


SETTINGS = [condition(probe, cutoff=c) for probe in ("lowpass", "highpass") for c in BIAS_CUTOFFS]


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
        f"agreement under each highpass of the bias is not told from that of unrelated answers, {share:.3g}"
    )
    assert (kept_high.value, kept_high.state) == (pytest.approx(0, abs=1e-9), State.AT_CHANCE)
    low = corrected["corrected_low_frequency_bias"]
    assert low.state == State.OK
    assert 0.2 < low.low < low.value < low.high < 0.8
    doubtful = published["low_frequency_bias"]
    assert (doubtful.value, doubtful.state) == (pytest.approx((clean == filtered[:5]).mean()), State.DOUBTFUL)
    assert doubtful.note == (
        f"unrelated answers agree on 1 of {1 / outcomes.floor:.3g} images; corrected_low_frequency_bias is without it"
    )


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
