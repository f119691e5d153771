"""Critical band of a model from psychometric functions: continuous thresholds, and a channel fitted to them.

The threshold of octave index f is the noise_sd at which accuracy falls to half of the accuracy without noise. It is
estimated from the correctness of the predictions for single images by a maximum-likelihood fit of a logistic function
of log noise strength:

    P(correct | noise_sd) = c + (a - c) / (1 + exp(slope (x + S_f) - logit q)),   x = log2(noise_sd / 0.16)
    a = accuracy at noise_sd 0, c = `floor`, q = (a/2 - c) / (a - c);   threshold_f = 0.16 * 2^-S_f

0.16 is the strongest noise in the published design. q is the fraction of the height of the curve that lies below a/2,
so that accuracy is a/2 at the threshold, where x = -S_f.

The sensitivity S_f and the slope (log-odds per octave, between 1/4 and 32) are fitted. a and c are fixed. c is the
accuracy of random guessing or, without labels, the chance level of agreement (`statistics.chance_agreement`). If a
threshold lies outside the tested noise levels, its state is `censored_above` or `censored_below` and its value is that
end of the range, which is 0.02 to 0.16 in the published design.

The same Gaussian as in `critical_band` is fitted to the S_f. The published integer thresholds are S_f rounded up.

    S_f ~ A exp(-(f - mu)^2 / (2 sigma^2)),  bandwidth = 2 sqrt(ln 4) sigma octaves,
    center_frequency = 1.75 * 2^mu size / 224 cycles/image,
    peak_noise_sensitivity = 2^(A - 4) = 0.01 / threshold at the peak; above 0.5 it is extrapolated

The channel is fitted by maximizing the log-likelihood

    S_f in [0, 3]:  -(S_f - m_f)^2 / (2 s^2)     S_f > 3:  log Phi((m_f - 3) / s)     S_f < 0:  log Phi((0 - m_f) / s)

where Phi is the standard normal distribution function, m_f the Gaussian at f, and s = 0.05 octaves. The
bounds are 0.01 <= A <= 6, -3 <= mu <= 9 and 1/4 <= sigma <= 7 in the published design.

Confidence intervals are percentiles over resamples (`statistics.resampling`). Each resample repeats both fits.

Estimates are reported as follows:

    no value      accuracy without noise is at most twice the chance level (`at_chance`), fewer than 20 images are
                  classified correctly without noise, fewer than three thresholds lie within the tested noise, or the
                  fit of the channel ends at a bound
    no interval   there are fewer than 20 independent images, or the slope of a threshold is at a bound
    doubtful      one end of the interval is a bound of the fit, the interval of a threshold spans the tested noise, or
                  the channel is narrower than an octave

Sources: Wichmann & Hill 2001 (fit, bootstrap), Tobin 1958 (censored fit).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ....core.protocol import FREQUENCIES, NOISE_SDS, SIZE
from ...statistics import Floats, Mask
from ...statistics.resampling import FEWEST_CLUSTERS, RESAMPLES, count_right, interval
from ..base import Available, Display, Ends, Estimate, Measure, State, nothing, too_few_images, under, with_unit
from ..predictions import Outcomes, read_hits
from .critical_band import CHANNEL, PROBE, Setting, at_chance, band_cells, channel_numbers, settings_of
from .likelihood import (
    FEWEST_LEVELS,
    SLOPE_BOUNDS,
    Noise,
    channel_bounds,
    channel_range,
    fit_channels,
    fit_thresholds,
    levels_of,
    noise_of,
)

GREY: Setting = (0.0, None)
PUBLISHED: Sequence[Setting] = (GREY, *((sd, f) for f in FREQUENCIES for sd in NOISE_SDS[1:]))
FEWEST_FREQUENCIES = 3
"""Minimum number of octaves with a threshold for fitting a channel."""
FEWEST_RIGHT = 20
"""Minimum number of correct predictions without noise for fitting thresholds."""
FEWEST_APART = 10
"""Minimum number of clusters in which the predictions of two runs differ, for an interval of the difference."""
PARTS = ("width", "centre", "height")
"""Names of the properties of the Gaussian that the numbers of CHANNEL describe, for notes."""
NUMBERS = {number: f"psychometric_{number}" for number in CHANNEL}
"""Number -> metric."""
THRESHOLDS: Mapping[str, int] = {f"psychometric_threshold_{octave}": octave for octave in FREQUENCIES}
"""Metric -> octave whose threshold it is."""


def threshold_gaps(settings: Iterable[Setting]) -> dict[int | None, str]:
    """Return the octaves without a threshold, each with the reason. The key None means that no octave has one."""
    counts = Counter(settings)
    if GREY not in counts:
        return {None: "has no images without noise (noise_sd 0), which thresholds are relative to"}
    if any(count > 1 for count in counts.values()):
        return {None: "has conditions more than once, so that nothing says which of them count"}
    return {
        f: f"has one level of noise at frequency {f}, and a threshold takes {FEWEST_LEVELS}"
        for f, rows in levels_of(list(counts)).items()
        if len(rows) < FEWEST_LEVELS
    }


def channel_gap(settings: Sequence[Setting]) -> str | None:
    """Return why the conditions do not suffice to fit a channel, or None if they do."""
    gaps = threshold_gaps(settings)
    octaves = len(levels_of(settings)) - len(gaps)
    if None in gaps or octaves >= FEWEST_FREQUENCIES:
        return gaps.get(None)
    have = f"has {FEWEST_LEVELS} levels of noise or more at {octaves or 'no'} frequenc{'y' if octaves == 1 else 'ies'}"
    return f"{have}, and a channel takes {FEWEST_FREQUENCIES}"


def estimate_band(
    correct: NDArray[np.bool_],
    clusters: ArrayLike | None = None,
    *,
    settings: Sequence[Setting] = PUBLISHED,
    floor: float = 0.0,
    size: int = SIZE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Estimate the thresholds and the channel of one checkpoint on one image set.

    Args:
        correct: Whether each prediction is correct, (conditions, n) bool, with the same n images in every row.
        clusters: Cluster ids, (n,). Images of one cluster are not independent, for example crops of one photograph. By
            default, all images are independent.
        settings: noise_sd and octave index of each row. Row 0 has noise_sd 0. The default is the published design with
            29 rows: after row 0, the noise_sd 0.02, 0.04, 0.08 and 0.16 of each octave in turn, from octave 0. An
            octave with a single noise level has no threshold.
        floor: Chance level: the accuracy of random guessing in the decision space.
        size: Pixels a side of the images.
        resamples: Number of resamples for the confidence intervals.
        seed: Seed of the resamples.

    Returns:
        The estimates of the numbers of CHANNEL and of `threshold_0`, …, `threshold_6`. A threshold is clipped to the
        tested noise. For example, an end of 0.02 means "0.02 or less", and 0.16 means "0.16 or more".
    """
    ids, noise = _cluster_ids(correct, clusters), noise_of(settings)
    hit_counts, images = count_right(correct, ids, resamples, seed)
    if too_little := _too_little(hit_counts, images, floor):
        return dict.fromkeys((*CHANNEL, *(f"threshold_{f}" for f in noise.frequencies)), too_little)
    # A resample whose accuracy without noise falls to the chance level has no threshold. Intervals use the others.
    usable = _usable(hit_counts, images, floor)
    return _fit(hit_counts[:, usable], images[usable], floor, noise).estimates(size, _why_too_few(ids))


def paired_band_intervals(
    a: NDArray[np.bool_],
    b: NDArray[np.bool_],
    clusters: ArrayLike | None = None,
    *,
    settings: Sequence[Setting] = PUBLISHED,
    floors: tuple[float, float] = (0.0, 0.0),
    size: int = SIZE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Compute 95% confidence intervals of B - A over the same images in both runs.

    Resamples draw the same clusters for A and B. The ends of an interval are percentiles of the differences.

    Args:
        a: Whether each prediction of A is correct, (conditions, n), as for `estimate_band`.
        b: The same for B, with the same settings.
        clusters: Cluster ids, (n,).
        settings: noise_sd and octave index of each row.
        floors: Chance levels of A and B.
        size: Pixels a side of the images.
        resamples: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        Name as in `estimate_band` -> (low, high). Numbers without an interval in A or B are omitted. The dictionary is
        empty if A and B differ in fewer than 10 clusters, because resampling is then unreliable.
    """
    ids, noise = _cluster_ids(a, clusters), noise_of(settings)
    if len(np.unique(ids[(a != b).any(axis=0)])) < FEWEST_APART:
        return {}
    # Both runs are resampled in one call, so that every resample contains the same clusters in both.
    hit_counts, images = count_right(np.concatenate([a, b]), ids, resamples, seed)
    runs = list(zip((hit_counts[: len(a)], hit_counts[len(a) :]), floors, strict=True))
    if any(_too_little(run_counts, images, floor) for run_counts, floor in runs):
        return {}
    # Keep only resamples that can be fitted in both runs, so that the columns of both remain paired.
    usable = np.logical_and(*(_usable(run_counts, images, floor) for run_counts, floor in runs))
    numbers = []
    for run_counts, floor in runs:
        fits = _fit(run_counts[:, usable], images[usable], floor, noise)
        estimates = fits.estimates(size, _why_too_few(ids))
        bounded = {name for name, estimate in estimates.items() if not np.isnan(estimate.low)}
        numbers.append({name: values for name, values in fits.numbers(size).items() if name in bounded})
    numbers_a, numbers_b = numbers
    return {name: interval((numbers_b[name] - numbers_a[name])[1:]) for name in numbers_a if name in numbers_b}


def _cluster_ids(correct: Mask, clusters: ArrayLike | None) -> NDArray[np.intp]:
    """Return the clusters (n,), numbered from 0."""
    return np.unique(np.arange(correct.shape[1]) if clusters is None else clusters, return_inverse=True)[1]


def _too_little(hit_counts: Floats, images: Floats, floor: float) -> Estimate | None:
    """Return the estimate to report for all numbers if accuracy without noise is too low, otherwise None.

    Args:
        hit_counts: Numbers of correct predictions, (conditions, 1 + resamples). Column 0 is the data.
        images: Numbers of images, (1 + resamples,).
        floor: Chance level.
    """
    if why := at_chance(hit_counts[0, 0] / images[0], floor):
        return nothing(State.AT_CHANCE, why)
    if hit_counts[0, 0] < FEWEST_RIGHT:
        return _nothing(
            f"{hit_counts[0, 0]:.0f} of {images[0]:.0f} images are right without noise: too few to see a threshold"
        )
    return None


def _usable(hit_counts: Floats, images: Floats, floor: float) -> Mask:
    """Return which resamples are far enough above the chance level without noise to have a threshold."""
    return np.asarray((hit_counts[0] > 0) & (hit_counts[0] / images > 2 * floor))


def _why_too_few(ids: NDArray[np.intp]) -> str | None:
    independent = int(ids.max()) + 1
    return too_few_images(independent) if independent < FEWEST_CLUSTERS else None


def _fit(hit_counts: Floats, images: Floats, floor: float, noise: Noise) -> _Fits:
    """Fit thresholds and channels to numbers of correct predictions (conditions, R) among images (R,)."""
    # Entries that repeat a level to fill the array have no trials, so they do not affect the likelihood.
    present = noise.present[:, :, None]
    levels, trials = (np.where(present, counts, 0.0) for counts in (hit_counts[noise.rows], images))
    # All frequencies are fitted in one call, as separate columns.
    flat, repeat = (len(levels), -1), len(noise.frequencies)
    reference, x = np.tile(hit_counts[0] / images, repeat), np.repeat(noise.x, len(images), axis=1)
    sensitivity, slope = fit_thresholds(levels.reshape(flat), trials.reshape(flat), reference, floor, x)
    sensitivity = sensitivity.reshape(repeat, -1)
    return _Fits(noise, sensitivity, slope.reshape(repeat, -1), fit_channels(sensitivity, noise))


@dataclass(frozen=True, slots=True)
class _Fits:
    """Fits of thresholds and channels. Column 0 is the fit of the data, the others are those of the resamples."""

    noise: Noise
    sensitivity: Floats
    """Sensitivities S_f, (frequencies, 1 + resamples)."""
    slope: Floats
    """Slopes in log-odds per octave, (frequencies, 1 + resamples)."""
    channel: Floats
    """A, mu and sigma of the Gaussians, (3, 1 + resamples)."""

    def numbers(self, size: int) -> dict[str, Floats]:
        """Return the values (1 + resamples,) of each number by name."""
        sensitivity = np.clip(self.sensitivity, self.noise.low[:, None], self.noise.high[:, None])
        thresholds = zip(self.noise.frequencies, NOISE_SDS[-1] * np.exp2(-sensitivity), strict=True)
        numbers = dict(zip(CHANNEL, channel_numbers(self.channel, size), strict=True))
        return numbers | {f"threshold_{f}": sds for f, sds in thresholds}

    def estimates(self, size: int, too_few: str | None) -> dict[str, Estimate]:
        """Return the estimate of each number. `too_few` is the note if there are too few images for intervals."""
        noise = self.noise
        columns = (noise.frequencies, noise.low, noise.high, self.sensitivity, self.slope[:, 0])
        return _channel(self, size, too_few) | {
            f"threshold_{f}": _threshold(float(low), float(high), sensitivity, float(slope), too_few)
            for f, low, high, sensitivity, slope in zip(*columns, strict=True)
        }


def _threshold(low: float, high: float, sensitivity: Floats, slope: float, too_few: str | None) -> Estimate:
    """Estimate a threshold from sensitivities (1 + resamples,), the data first, and the tested range [low, high]."""
    value = float(sensitivity[0])
    ends = np.clip([value, *interval(sensitivity[1:])], low, high)
    sd, weakest, strongest = (float(NOISE_SDS[-1] * 2.0 ** -ends[i]) for i in (0, 2, 1))
    # If the curve is infinitely steep, any threshold between two noise levels fits equally well. All resamples then
    # give nearly the same threshold, and their interval would be too narrow.
    note = too_few or ("the slope is at the bound of its fit" if _at_bound(slope, SLOPE_BOUNDS) else None)
    state = State.NO_INTERVAL if note else State.OK
    if note:
        weakest, strongest = np.nan, np.nan
    if value > high:
        state, note = State.CENSORED_BELOW, "the threshold lies below the tested noise"
    elif value < low:
        state, note = State.CENSORED_ABOVE, "the threshold lies above the tested noise"
    elif not note and (ends[1], ends[2]) == (low, high):
        state, note = State.DOUBTFUL, "the interval spans the tested noise"
    return Estimate(sd, weakest, strongest, state, note)


def _channel(fits: _Fits, size: int, too_few: str | None) -> dict[str, Estimate]:
    """Estimate the numbers of CHANNEL."""
    (low, high), sensitivity = channel_range(fits.noise), fits.sensitivity[:, :1]
    inside_count = int(((sensitivity >= low) & (sensitivity <= high)).sum())
    if inside_count < FEWEST_FREQUENCIES:
        note = f"{inside_count} of {len(sensitivity)} thresholds lie within the tested noise; three numbers need three"
        return dict.fromkeys(CHANNEL, _nothing(note))
    bounds = np.stack(channel_bounds(fits.noise), axis=1)
    for part, fit, ends in zip(reversed(PARTS), fits.channel, bounds, strict=True):
        if _at_bound(fit[0], ends):
            return dict.fromkeys(CHANNEL, _nothing(f"the channel's {part} is at the bound of its fit"))
    # The bounds of the fit are transformed together with the estimates, so that the two can be compared.
    numbers, narrow = channel_numbers(np.hstack([fits.channel, bounds]), size), None
    if numbers[0][0] < fits.noise.apart:
        octaves = "an octave" if fits.noise.apart == 1 else f"{fits.noise.apart} octaves"
        narrow = f"the channel is narrower than {octaves}, by which the tested bands are apart"
    return {
        name: _judge(part, values, too_few, narrow) for name, part, values in zip(CHANNEL, PARTS, numbers, strict=True)
    }


def _judge(part: str, numbers: Floats, too_few: str | None, doubt: str | None) -> Estimate:
    """Estimate one number from its values: the data first, then the resamples, then the two bounds of the fit."""
    value, bounds = float(numbers[0]), numbers[-2:]
    low, high = interval(numbers[1:-2])
    low_open, high_open = _at_bound(low, bounds), _at_bound(high, bounds)
    if low_open and high_open:
        return _nothing(f"the interval of the channel's {part} spans all that its fit allows")
    if too_few:
        return Estimate(value, np.nan, np.nan, State.NO_INTERVAL, "; ".join(filter(None, (too_few, doubt))))
    bounded = f"the {'lower' if low_open else 'upper'} end of the interval is where the fit is bounded"
    doubts = [words for words in (doubt, bounded if low_open or high_open else None) if words]
    return Estimate(value, low, high, State.DOUBTFUL if doubts else State.OK, "; ".join(doubts) or None)


def _at_bound(x: float, bounds: Floats) -> bool:
    return bool(np.isclose(x, bounds, rtol=1e-5, atol=0).any())


def _nothing(note: str) -> Estimate:
    return nothing(State.UNDETERMINED, note)


# Metrics


def psychometric_estimates(outcomes: Outcomes) -> dict[str, Estimate]:
    """Compute the thresholds and the channel from the conditions with band noise."""
    cells = band_cells(outcomes)
    if (hits := read_hits(cells.values())) is None:
        return dict.fromkeys(NUMBERS.values(), nothing(State.MISSING, "no clean prediction to agree with"))
    estimates = estimate_band(
        hits,
        outcomes.images.clusters,
        settings=list(cells),
        floor=outcomes.floor,
        size=outcomes.subject.size,
    )
    return {f"psychometric_{name}": estimate for name, estimate in estimates.items()}


def psychometric_differences(a: Outcomes, b: Outcomes) -> dict[str, Ends]:
    """Compute the paired intervals of metrics that have one in both runs, if both have the same noise conditions."""
    cells_a, cells_b = band_cells(a), band_cells(b)
    hits_a, hits_b = read_hits(cells_a.values()), read_hits(cells_b.values())
    if list(cells_a) != list(cells_b) or hits_a is None or hits_b is None:
        return {}
    intervals = paired_band_intervals(
        hits_a,
        hits_b,
        a.images.clusters,
        settings=list(cells_a),
        floors=(a.floor, b.floor),
        size=a.subject.size,
    )
    return {f"psychometric_{name}": ends for name, ends in intervals.items()}


def _lacking_channel(available: Available) -> str | None:
    gap = channel_gap(settings_of(available))
    return gap and f"{PROBE} {gap}"


def _has_octave(octave: int, available: Available) -> bool:
    settings = settings_of(available)
    return None not in threshold_gaps(settings) and octave in levels_of(settings)


def _lacking_levels(octave: int, available: Available) -> str | None:
    gap = threshold_gaps(settings_of(available)).get(octave)
    return gap and f"{PROBE} {gap}"


_measure = partial(Measure, estimates=psychometric_estimates, differences=psychometric_differences)
MEASURES: Sequence[Measure[Outcomes]] = (
    *(
        _measure(
            NUMBERS[name],
            display=Display(
                f"psych. {number.title}",
                number.unit,
                group="psychometric channel",
                quantity=name,
                panel=with_unit(number.title, number.unit),
                estimator="psychometric",
            ),
            applies=under(PROBE),
            needs=_lacking_channel,
            is_bias=True,
        )
        for name, number in CHANNEL.items()
    ),
    *(
        _measure(
            name,
            display=Display(
                f"threshold of octave {octave}", "noise_sd", group="psychometric thresholds", estimator="psychometric"
            ),
            applies=partial(_has_octave, octave),
            needs=partial(_lacking_levels, octave),
        )
        for name, octave in THRESHOLDS.items()
    ),
)
