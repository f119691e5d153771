from dataclasses import replace

import numpy as np
import psignifit
import pytest
from made_up_outcomes import CLEAN, images_of, outcomes_of, right_outcomes
from made_up_results import condition
from scipy.optimize import minimize
from scipy.stats import binom, norm

from bandlens.analysis.metrics.base import Estimate
from bandlens.analysis.metrics.families.critical_band import FULL_WIDTH
from bandlens.analysis.metrics.families.likelihood import (
    LEVELS,
    SCATTER,
    accuracy_at,
    channel_bounds,
    fit_channels,
    fit_thresholds,
    noise_of,
    threshold_bounds,
)
from bandlens.analysis.metrics.families.psychometric import (
    GREY,
    PUBLISHED,
    channel_gap,
    estimate_band,
    paired_band_intervals,
    psychometric_differences,
    psychometric_estimates,
)

NUMBERS = ("bandwidth", "center_frequency", "peak_noise_sensitivity")


def bell(amplitude: float, mu: float, sigma: float) -> np.ndarray:
    return amplitude * np.exp(-((np.arange(7) - mu) ** 2) / (2 * sigma**2))


def probabilities(sensitivity: np.ndarray, slope: float = 2.0, top: float = 0.75, floor: float = 0.0) -> np.ndarray:
    return np.concatenate([[top], *(accuracy_at(LEVELS, s, slope, top, floor) for s in sensitivity)])


def observe(rng: np.random.Generator, p: np.ndarray, clusters: int, size: int = 1) -> np.ndarray:
    """Outcomes (29, clusters * size): each condition by itself, all images of a cluster alike."""
    return np.repeat(rng.random((29, clusters)) < p[:, None], size, axis=1)


def numbers(band: dict[str, Estimate]) -> list[Estimate]:
    return [band[name] for name in NUMBERS]


def thresholds(band: dict[str, Estimate]) -> list[Estimate]:
    return [estimate for name, estimate in band.items() if name.startswith("threshold_")]


def fit_one(hits: np.ndarray, images: int, top: float, floor: float = 0.0) -> tuple[float, float]:
    sensitivity, slope = fit_thresholds(
        np.asarray(hits, dtype=float)[:, None], np.array([float(images)]), np.array([top]), floor
    )
    return float(sensitivity[0]), float(slope[0])


@pytest.mark.parametrize(("sensitivity", "slope", "top"), [(0.7, 1.2, 0.9), (2.2, 4.0, 0.95)])
def test_thresholds_are_those_of_psignifit(sensitivity: float, slope: float, top: float) -> None:
    images = 2000
    p = accuracy_at(LEVELS, sensitivity, slope, top, 0.0)
    hits = np.random.default_rng(1).binomial(images, p)
    # Its curves rise, so the axis is turned round: octaves below the strongest noise.
    data = np.stack([-LEVELS, hits, np.full(4, images)], axis=1)
    fixed = {"lambda": 1 - top, "gamma": 0.0, "eta": 0.0}
    reference = psignifit.psignifit(
        data, sigmoid="logistic", experiment_type="yes/no", fixed_parameters=fixed, stimulus_range=(0, 3)
    ).parameter_estimate
    ours, our_slope = fit_one(hits, images, top)
    # Its priors weigh a little; a width of 90 % is 2 ln 19 / slope.
    assert ours == pytest.approx(reference["threshold"], abs=5e-3)
    assert our_slope == pytest.approx(2 * np.log(19) / reference["width"], rel=1e-2)


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_thresholds_are_of_maximum_likelihood(floor: float) -> None:
    rng = np.random.default_rng(2)
    for _ in range(8):
        sensitivity, slope, top = rng.uniform(0, 3), rng.uniform(0.6, 5), rng.uniform(0.4, 1)
        images = int(rng.integers(50, 500))
        hits = rng.binomial(images, accuracy_at(LEVELS, sensitivity, slope, top, floor))

        def loss(theta: np.ndarray, hits: np.ndarray = hits, images: int = images, top: float = top) -> float:
            return -binom.logpmf(hits, images, accuracy_at(LEVELS, theta[0], 2.0 ** theta[1], top, floor)).sum()

        bounds = list(zip(*threshold_bounds(LEVELS), strict=True))
        ours, our_slope = fit_one(hits, images, top, floor)
        optimum = minimize(loss, [sensitivity, np.log2(slope)], bounds=bounds, method="L-BFGS-B")
        assert loss(np.array([ours, np.log2(our_slope)])) <= optimum.fun + 1e-6


def test_the_threshold_is_where_accuracy_is_halved_whatever_the_floor() -> None:
    assert accuracy_at(-1.3, 1.3, 2.0, 0.8, 0.0) == pytest.approx(0.4)
    assert accuracy_at(-1.3, 1.3, 2.0, 0.8, 0.1) == pytest.approx(0.4)
    assert accuracy_at(9.0, 1.3, 2.0, 0.8, 0.1) == pytest.approx(0.1, abs=1e-6)
    assert accuracy_at(-19.0, 1.3, 2.0, 0.8, 0.1) == pytest.approx(0.8, abs=1e-6)


def test_channels_are_of_maximum_likelihood_with_censored_sensitivities() -> None:
    rng = np.random.default_rng(3)
    parameters = np.stack([rng.uniform(1, 4.5, 12), rng.uniform(2, 5, 12), rng.uniform(0.8, 2.5, 12)])
    sensitivity = np.stack([bell(*theta) for theta in parameters.T], axis=1) + rng.normal(0, 0.1, (7, 12))
    ours = fit_channels(sensitivity, noise_of(PUBLISHED))

    def loss(theta: np.ndarray, values: np.ndarray) -> float:
        model = bell(*theta)
        inside = norm.logpdf(values, model, SCATTER) - norm.logpdf(0, 0, SCATTER)
        above, below = norm.logsf(3, model, SCATTER), norm.logcdf(0, model, SCATTER)
        return -np.where(values > 3, above, np.where(values < 0, below, inside)).sum()

    bounds = list(zip(*channel_bounds(noise_of(PUBLISHED)), strict=True))
    for i in range(12):
        optimum = minimize(loss, parameters[:, i], args=(sensitivity[:, i],), bounds=bounds, method="L-BFGS-B")
        assert loss(ours[:, i], sensitivity[:, i]) <= optimum.fun + 1e-4


GRIDS = {
    "published": PUBLISHED[1:],
    "others at each frequency": [
        *((sd, f) for f in range(0, 7, 2) for sd in (0.01, 0.03, 0.09)),
        *((sd, f) for f in range(1, 7, 2) for sd in (0.2, 0.05)),
    ],
    "one level at some": [*((sd, f) for f in range(1, 6) for sd in (0.02, 0.05, 0.16)), (0.08, 0), (0.08, 6)],
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_known_parameters_are_recovered_from_any_grid(grid: list[tuple[float, int]]) -> None:
    rng, sensitivity = np.random.default_rng(4), bell(2.6, 4.2, 1.5)
    p = [accuracy_at(np.log2(sd / 0.16), sensitivity[f], 2.0, 0.75, 0.0) for sd, f in grid]
    correct = rng.random((1 + len(grid), 20_000)) < np.array([0.75, *p])[:, None]
    band = estimate_band(correct, settings=[GREY, *grid], resamples=100)
    levels = {f: [sd for sd, frequency in grid if frequency == f] for _, f in grid}
    octaves = sorted(f for f, sds in levels.items() if len(sds) > 1)
    assert [*band] == [*NUMBERS, *(f"threshold_{f}" for f in octaves)]
    for octave, threshold in zip(octaves, thresholds(band), strict=True):
        weakest, strongest = min(levels[octave]), max(levels[octave])
        truth = 0.16 * 2 ** -sensitivity[octave]
        assert threshold.value == pytest.approx(min(max(truth, weakest), strongest), rel=0.05)
        censored = {True: "censored_below" if truth < weakest else "censored_above", False: "ok"}
        assert threshold.state == censored[not weakest <= truth <= strongest]
    # At 20,000 images, thresholds scatter by 0.02 octaves.
    assert band["bandwidth"].value == pytest.approx(FULL_WIDTH * 1.5, rel=0.06)
    assert band["center_frequency"].value == pytest.approx(1.75 * 2**4.2, rel=0.06)
    assert band["peak_noise_sensitivity"].value == pytest.approx(2**-1.4, rel=0.06)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (PUBLISHED, None),
        (PUBLISHED[1:], "has no images without noise (noise_sd 0), which thresholds are relative to"),
        ([*PUBLISHED, PUBLISHED[3]], "has conditions more than once, so that nothing says which of them count"),
        (PUBLISHED[:9], "has 2 levels of noise or more at 2 frequencies, and a channel takes 3"),
    ],
)
def test_what_a_channel_lacks_is_named(settings: list[tuple[float | None, float | None]], why: str | None) -> None:
    assert channel_gap(settings) == why


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng, sensitivity = np.random.default_rng(6), bell(2.2, 3.5, 1.5)
    truth = [*(0.16 * 2**-sensitivity), FULL_WIDTH * 1.5, 1.75 * 2**3.5, 2**-1.8]
    p, ids = probabilities(sensitivity), np.repeat(np.arange(200), 4)
    hits = []
    for i in range(25):
        band = estimate_band(observe(rng, p, 200, size=4), ids, resamples=100, seed=i)
        estimates = [*thresholds(band), *numbers(band)]
        hits.append([e.low <= t <= e.high for e, t in zip(estimates, truth, strict=True)])
    assert 0.87 <= np.mean(hits) <= 0.99
    assert (np.mean(hits, axis=0) >= 0.76).all()


@pytest.mark.parametrize(
    ("hits", "floor", "state", "note"),
    [
        (19, 0.0, "undetermined", "19 of 500 images are right without noise: too few to see a threshold"),
        (0, 0.0, "undetermined", "0 of 500 images are right without noise: too few to see a threshold"),
        (100, 0.1, "at_chance", "0.2 without noise is no more than twice what answers at random reach, 0.1"),
    ],
)
def test_no_thresholds_where_little_is_right_without_noise(hits: int, floor: float, state: str, note: str) -> None:
    band = estimate_band(np.tile(np.arange(500) < hits, (29, 1)), floor=floor)
    for estimate in (*numbers(band), band["threshold_0"]):
        row = estimate.row("")
        assert [row[name] for name in ("value", "low", "high", "state", "note")] == [None, None, None, state, note]
    assert estimate_band(np.tile(np.arange(500) < 100, (29, 1)), floor=0.099)["bandwidth"].state != "at_chance"


@pytest.mark.parametrize(("share", "state"), [(0.9, "at_chance"), (0.5, "ok")])
def test_the_floor_of_agreement_is_the_guessing_rate(share: float, state: str) -> None:
    """Nine in ten answers of one class agree on .82 by themselves; noise takes what the images had a part in."""
    rng = np.random.default_rng(0)
    clean = np.where(np.arange(400) < 400 * share, 0, rng.integers(1, 10, 400))
    noisy = {
        condition("critical_band", noise_sd=sd, frequency=2): np.where(
            rng.random(400) < kept, clean, rng.permutation(clean)
        )
        for sd, kept in ((0.02, 0.9), (0.16, 0.0))
    }
    images = replace(images_of(400), labelled=False)
    estimate = psychometric_estimates(outcomes_of({CLEAN: clean, **noisy}, images))["psychometric_threshold_2"]
    assert estimate.state == state


@pytest.mark.parametrize(("noisy", "side"), [(True, "above"), (False, "below")])
def test_thresholds_outside_the_tested_noise_are_flagged(noisy: bool, side: str) -> None:
    correct = np.full((29, 100), noisy)
    correct[0] = True
    band = estimate_band(correct, resamples=100)
    for threshold in thresholds(band):
        assert threshold.state == f"censored_{side}"
        assert threshold.note == f"the threshold lies {side} the tested noise"
        assert threshold.value == (0.16 if noisy else 0.02)
    assert np.isnan(band["bandwidth"].value)
    assert band["bandwidth"].state == "undetermined"
    assert band["bandwidth"].note == "0 of 7 thresholds lie within the tested noise; three numbers need three"


@pytest.mark.parametrize(("width", "state"), [(0.9, "doubtful"), (1.2, "ok")])
def test_a_channel_narrower_than_an_octave_is_doubtful(width: float, state: str) -> None:
    """Noise is an octave wide, and an octave apart: what is between two bands is not seen."""
    p = probabilities(bell(2.6, 3.1, width / FULL_WIDTH))
    band = estimate_band(observe(np.random.default_rng(12), p, 20_000), resamples=100)
    assert band["bandwidth"].value == pytest.approx(width, rel=0.05)
    assert {estimate.state for estimate in numbers(band)} == {state}
    assert ("narrower than an octave" in (band["bandwidth"].note or "")) == (state == "doubtful")


def test_paired_intervals_are_those_of_the_same_images() -> None:
    """Two observers that agree on most images differ by less than two who saw other images would."""
    rng, p = np.random.default_rng(13), probabilities(bell(2.2, 3.5, 1.5))
    a = observe(rng, p, 300)
    b = np.where(rng.random(a.shape) < 0.05, observe(rng, p, 300), a)
    intervals, band_a, band_b = paired_band_intervals(a, b), estimate_band(a), estimate_band(b)
    for name in NUMBERS:
        low, high = intervals[name]
        difference = band_b[name].value - band_a[name].value
        widths = [band[name].high - band[name].low for band in (band_a, band_b)]
        assert low < difference < high
        assert high - low < 0.6 * np.hypot(*widths)
    assert paired_band_intervals(b, a)["bandwidth"] == pytest.approx([-end for end in intervals["bandwidth"][::-1]])
    assert paired_band_intervals(a, a) == {}, "no image differs"
    assert paired_band_intervals(a, observe(rng, p, 300), floors=(0.0, 0.4)) == {}, "one is at chance"


def test_differences_of_two_runs_are_those_of_their_images_in_any_order_of_conditions() -> None:
    rng, p = np.random.default_rng(13), probabilities(bell(2.2, 3.5, 1.5))
    a, b = observe(rng, p, 300), observe(rng, p, 300)
    grey = condition("critical_band", noise_sd=0.0)
    settings = [grey, *(condition("critical_band", noise_sd=sd, frequency=f) for sd, f in PUBLISHED[1:])]
    runs = [
        right_outcomes({CLEAN: hits[0]} | {settings[k]: hits[k] for k in reversed(range(len(settings)))})
        for hits in (a, b)
    ]
    expected = paired_band_intervals(a, b, floors=(0.001, 0.001))["bandwidth"]
    assert psychometric_differences(*runs)["psychometric_bandwidth"] == pytest.approx(expected)


def test_equal_thresholds_have_no_channel_width() -> None:
    correct = observe(np.random.default_rng(10), probabilities(np.full(7, 1.5)), 5000)
    band = estimate_band(correct, resamples=200)
    assert np.isnan(band["bandwidth"].value)
    assert "width is at the bound" in (band["bandwidth"].note or "")
    assert band["threshold_3"].note is None


def test_a_curve_that_falls_within_one_step_has_no_interval() -> None:
    correct = np.ones((29, 500), dtype=bool)
    correct[1:].reshape(7, 4, 500)[:, 2:] = False
    threshold = estimate_band(correct, resamples=100)["threshold_0"]
    assert 0.04 < threshold.value < 0.08
    assert threshold.state == "no_interval"
    assert threshold.note == "the slope is at the bound of its fit"
    assert np.isnan([threshold.low, threshold.high]).all()
