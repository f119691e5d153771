"""The critical band from single images: continuous thresholds, and a channel through them.

The threshold of octave index f is the noise_sd at which accuracy falls to half of that without noise, from a logistic
in log noise strength fitted to the single outcomes by maximum likelihood:

    P(right | noise_sd) = c + (a - c) / (1 + exp(slope (x + S_f) - logit q)),   x = log2(noise_sd / 0.16)
    a = accuracy at noise_sd 0, c = `floor`, q = (a/2 - c) / (a - c);   threshold_f = 0.16 * 2^-S_f

S_f and the slope (log-odds per octave, 1/4 to 32) are fitted; a and c, the accuracy of a blind guess, and without
labels the floor of the clean answers (`statistics.floor`), are not. Outside the tested noise a threshold is
`censored_above` or `censored_below`, and its value that end of the range (0.02 .. 0.16 as published). The S_f follow
the same bell as the published integers (which are S_f rounded up):

    S_f ~ A exp(-(f - mu)^2 / (2 sigma^2)),  bandwidth = 2 sqrt(ln 4) sigma octaves,
    center_frequency = 1.75 * 2^mu size / 224 cycles per image,
    peak_noise_sensitivity = 2^(A - 4) = 0.01 / threshold at the peak; above 0.5 it is extrapolated

The channel is fitted by the likelihood

    S_f in [0, 3]:  -(S_f - m_f)^2 / (2 s^2)     S_f > 3:  log Phi((m_f - 3) / s)     S_f < 0:  log Phi((0 - m_f) / s)

with m_f the bell, s = 0.05 octaves, and bounds 0.01 <= A <= 6, -3 <= mu <= 9, 1/4 <= sigma <= 7. Intervals are
percentiles over resamples (`statistics.resampling`), each with the whole estimate anew.

    null, with its interval   no more than twice the guessing rate is right without noise (`at_chance`), fewer than 20
                              images are, fewer than three thresholds lie within the tested noise, or the fit ends at a
                              bound
    no interval               fewer than 20 independent images, or the slope of a threshold is at a bound
    doubtful                  one end of the interval is a bound, a threshold's interval spans the tested noise, or the
                              channel is narrower than an octave

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
"""Octaves with a threshold that the three numbers take at least."""
FEWEST_RIGHT = 20
"""Right answers without noise, below which no threshold is looked for."""
FEWEST_APART = 10
"""Clusters with different answers that the interval of a difference takes at least."""
PARTS = ("width", "centre", "height")
"""The parts of the bell that the numbers of CHANNEL describe."""
NUMBERS = {number: f"psychometric_{number}" for number in CHANNEL}
"""Number -> the measure."""
THRESHOLDS: Mapping[str, int] = {f"psychometric_threshold_{octave}": octave for octave in FREQUENCIES}
"""Measure -> the octave whose threshold it is."""


def threshold_gaps(settings: Iterable[Setting]) -> dict[int | None, str]:
    """Octave -> why it has no threshold; None -> why no octave has."""
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
    """Why the three numbers cannot be had of the conditions; None where the answers decide."""
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
    """The numbers of CHANNEL and `threshold_0` … of one checkpoint on one image set.

    A threshold lies within the tested noise: an end of 0.02 reads "0.02 or less", one of 0.16 "0.16 or more".

    Args:
        correct: (conditions, n) bool, the same n images in every row.
        clusters: (n,) ids of images that are not independent, such as crops of one photograph; left out, each image
            stands for itself.
        settings: noise_sd and frequency of each row; row 0 is noise_sd 0. As published there are 29: then frequency by
            frequency from 0, within each noise_sd 0.02, 0.04, 0.08, 0.16. A frequency with a single level gets no
            threshold.
        floor: accuracy of a blind guess between the classes that are decided between.
        size: pixels a side of the images.
        seed: of the resamples.
    """
    ids, noise = _cluster_ids(correct, clusters), noise_of(settings)
    hit_counts, images = count_right(correct, ids, resamples, seed)
    if too_little := _too_little(hit_counts, images, floor):
        return dict.fromkeys((*CHANNEL, *(f"threshold_{f}" for f in noise.frequencies)), too_little)
    # A resample that happens to fall to chance has no threshold; the others speak for it.
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
    """Name of a row -> 95 % interval (low, high) of its value in B less that in A, over the same images in both.

    a and b are as for `estimate_band`, of the same settings, with their floors. The ends are percentiles of the
    differences in resamples that draw the same clusters for both. A number that has no interval in one of them is left
    out; the answer is empty where the answers to fewer than 10 clusters differ, of which resamples say too little.
    """
    ids, noise = _cluster_ids(a, clusters), noise_of(settings)
    if len(np.unique(ids[(a != b).any(axis=0)])) < FEWEST_APART:
        return {}
    hit_counts, images = count_right(np.concatenate([a, b]), ids, resamples, seed)
    runs = list(zip((hit_counts[: len(a)], hit_counts[len(a) :]), floors, strict=True))
    if any(_too_little(run_counts, images, floor) for run_counts, floor in runs):
        return {}
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
    """(n,) numbers of clusters from 0."""
    return np.unique(np.arange(correct.shape[1]) if clusters is None else clusters, return_inverse=True)[1]


def _too_little(hit_counts: Floats, images: Floats, floor: float) -> Estimate | None:
    """The state of all numbers where too little is right without noise; `hit_counts` is (conditions, 1 + resamples)."""
    if why := at_chance(hit_counts[0, 0] / images[0], floor):
        return nothing(State.AT_CHANCE, why)
    if hit_counts[0, 0] < FEWEST_RIGHT:
        return _nothing(
            f"{hit_counts[0, 0]:.0f} of {images[0]:.0f} images are right without noise: too few to see a threshold"
        )
    return None


def _usable(hit_counts: Floats, images: Floats, floor: float) -> Mask:
    """Which resamples have a threshold."""
    return np.asarray((hit_counts[0] > 0) & (hit_counts[0] / images > 2 * floor))


def _why_too_few(ids: NDArray[np.intp]) -> str | None:
    independent = int(ids.max()) + 1
    return too_few_images(independent) if independent < FEWEST_CLUSTERS else None


def _fit(hit_counts: Floats, images: Floats, floor: float, noise: Noise) -> _Fits:
    """Thresholds and channels of right answers (conditions, R) among images (R,)."""
    present = noise.present[:, :, None]
    levels, trials = (np.where(present, counts, 0.0) for counts in (hit_counts[noise.rows], images))
    # They are fitted frequency by frequency.
    flat, repeat = (len(levels), -1), len(noise.frequencies)
    reference, x = np.tile(hit_counts[0] / images, repeat), np.repeat(noise.x, len(images), axis=1)
    sensitivity, slope = fit_thresholds(levels.reshape(flat), trials.reshape(flat), reference, floor, x)
    sensitivity = sensitivity.reshape(repeat, -1)
    return _Fits(noise, sensitivity, slope.reshape(repeat, -1), fit_channels(sensitivity, noise))


@dataclass(frozen=True, slots=True)
class _Fits:
    """The fit of the data first, then those of the resamples."""

    noise: Noise
    sensitivity: Floats
    """(frequencies, 1 + resamples)."""
    slope: Floats
    """(frequencies, 1 + resamples)."""
    channel: Floats
    """(3, 1 + resamples): A, mu, sigma."""

    def numbers(self, size: int) -> dict[str, Floats]:
        """Name of a row -> its values."""
        sensitivity = np.clip(self.sensitivity, self.noise.low[:, None], self.noise.high[:, None])
        thresholds = zip(self.noise.frequencies, NOISE_SDS[-1] * np.exp2(-sensitivity), strict=True)
        numbers = dict(zip(CHANNEL, channel_numbers(self.channel, size), strict=True))
        return numbers | {f"threshold_{f}": sds for f, sds in thresholds}

    def estimates(self, size: int, too_few: str | None) -> dict[str, Estimate]:
        """Name of a row -> its estimate; without an interval where there are too few independent images, and why."""
        noise = self.noise
        columns = (noise.frequencies, noise.low, noise.high, self.sensitivity, self.slope[:, 0])
        return _channel(self, size, too_few) | {
            f"threshold_{f}": _threshold(float(low), float(high), sensitivity, float(slope), too_few)
            for f, low, high, sensitivity, slope in zip(*columns, strict=True)
        }


def _threshold(low: float, high: float, sensitivity: Floats, slope: float, too_few: str | None) -> Estimate:
    """The threshold from the sensitivities of the data (first) and of the resamples, within those that were tested."""
    value = float(sensitivity[0])
    ends = np.clip([value, *interval(sensitivity[1:])], low, high)
    sd, weakest, strongest = (float(NOISE_SDS[-1] * 2.0 ** -ends[i]) for i in (0, 2, 1))
    # An infinitely steep curve leaves the threshold anywhere between two levels; its resamples all sit in one place.
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
    """The estimates of the numbers of CHANNEL."""
    (low, high), sensitivity = channel_range(fits.noise), fits.sensitivity[:, :1]
    inside_count = int(((sensitivity >= low) & (sensitivity <= high)).sum())
    if inside_count < FEWEST_FREQUENCIES:
        note = f"{inside_count} of {len(sensitivity)} thresholds lie within the tested noise; three numbers need three"
        return dict.fromkeys(CHANNEL, _nothing(note))
    bounds = np.stack(channel_bounds(fits.noise), axis=1)
    for part, fit, ends in zip(reversed(PARTS), fits.channel, bounds, strict=True):
        if _at_bound(fit[0], ends):
            return dict.fromkeys(CHANNEL, _nothing(f"the channel's {part} is at the bound of its fit"))
    # The bounds of the fit go the way of its optima, to be compared with them.
    numbers, narrow = channel_numbers(np.hstack([fits.channel, bounds]), size), None
    if numbers[0][0] < fits.noise.apart:
        octaves = "an octave" if fits.noise.apart == 1 else f"{fits.noise.apart} octaves"
        narrow = f"the channel is narrower than {octaves}, by which the tested bands are apart"
    return {
        name: _judge(part, values, too_few, narrow) for name, part, values in zip(CHANNEL, PARTS, numbers, strict=True)
    }


def _judge(part: str, numbers: Floats, too_few: str | None, doubt: str | None) -> Estimate:
    """The estimate from a number of the data (first), of the resamples, and at the two bounds of the fit (last)."""
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


# The measures


def psychometric_estimates(outcomes: Outcomes) -> dict[str, Estimate]:
    """The channel's numbers and the thresholds that the conditions of band noise determine."""
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
    """Paired intervals of what has an interval in both runs, where both have the same conditions of band noise."""
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
