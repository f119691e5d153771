"""The critical band from single images: continuous thresholds, and a channel through them.

The threshold of octave index f is the noise_sd at which accuracy falls to half of that without noise, from a logistic
in log noise strength fitted to the single outcomes by maximum likelihood:

    P(right | noise_sd) = c + (a - c) / (1 + exp(slope (x + S_f) - logit q)),   x = log2(noise_sd / 0.16)
    a = accuracy at noise_sd 0, c = `floor`, q = (a/2 - c) / (a - c);   threshold_f = 0.16 * 2^-S_f

S_f and the slope (log-odds per octave, 1/4 to 32) are fitted; a and c, 1 over the classes of the decision space, and 0
where agreement is measured, are not. Outside the tested noise a threshold is `censored_above` or `censored_below`, and
its value that end of the range (0.02 .. 0.16 as published). The S_f follow the same bell as the published integers
(which are S_f rounded up):

    S_f ~ A exp(-(f - mu)^2 / (2 sigma^2)),  bandwidth = 2 sqrt(ln 4) sigma octaves,
    center_frequency = 1.75 * 2^mu size / 224 cycles per image,
    peak_noise_sensitivity = 2^(A - 4) = 0.01 / threshold at the peak; above 0.5 it is extrapolated

The channel is fitted by the likelihood

    S_f in [0, 3]:  -(S_f - m_f)^2 / (2 s^2)     S_f > 3:  log Phi((m_f - 3) / s)     S_f < 0:  log Phi((0 - m_f) / s)

with m_f the bell, s = 0.05 octaves, and bounds 0.01 <= A <= 6, -3 <= mu <= 9, 1/4 <= sigma <= 7. Intervals are
percentiles over resamples (`statistics.images`), each with the whole estimate anew.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from ...core.errors import UsageError
from ...core.protocol import FREQUENCIES, NOISE_SDS, SIZE
from ..statistics.arrays import Floats, Mask
from ..statistics.images import FEWEST_CLUSTERS, count_right, interval
from ..statistics.shares import FEWEST_APART
from .base import Available, Display, Ends, Estimate, Measure, Options, Scope, State, nothing, too_few_images, with_unit
from .critical_band import (
    FULL_WIDTH,
    PROBE,
    TITLES,
    UNITS,
    Setting,
    at_chance,
    band_cells,
    center,
    gaussian,
    has_band,
    settings_of,
)
from .likelihood import best_start, maximize
from .outcomes import Outcomes

GREY: Setting = (0.0, None)
PUBLISHED: Sequence[Setting] = (GREY, *((sd, f) for f in FREQUENCIES for sd in NOISE_SDS[1:]))
FEWEST_LEVELS = 2
"""Levels of noise that a threshold takes at least."""
FEWEST_FREQUENCIES = 3
"""Octaves with a threshold that the three numbers take at least."""
FEWEST_RIGHT = 20
"""Right answers without noise, below which no threshold is looked for."""
CHANNEL = tuple(UNITS)
"""The numbers that describe a channel."""
NUMBERS = {number: f"psychometric_{number}" for number in CHANNEL}
"""Number -> the measure."""
THRESHOLDS: Mapping[str, int] = {f"psychometric_threshold_{octave}": octave for octave in FREQUENCIES}
"""Measure -> the octave whose threshold it is."""


@dataclass(frozen=True, slots=True)
class Noise:
    """The noise that thresholds are sought in."""

    frequencies: tuple[int, ...]
    """Octaves that have levels enough."""
    rows: NDArray[np.intp]
    """(levels, frequencies): the row of each condition's outcomes; octaves with fewer levels repeat their first."""
    x: Floats
    """(levels, frequencies): log2(noise_sd / 0.16), weakest first."""
    present: Mask
    """(levels, frequencies): False where a level is repeated."""

    @property
    def low(self) -> Floats:
        """(frequencies,) the least sensitivity that the tested noise can tell; a threshold beyond is censored."""
        return np.asarray(0.0 - self.x.max(axis=0))

    @property
    def high(self) -> Floats:
        """(frequencies,) the greatest one."""
        return np.asarray(0.0 - self.x.min(axis=0))

    @property
    def apart(self) -> int:
        """Octaves between neighbours: a narrower channel may lie and peak anywhere between two."""
        return int(np.diff(self.frequencies).max(initial=1))


def noise_of(settings: Sequence[Setting]) -> Noise:
    """The noise of conditions whose outcomes are rows, the first one without noise and the others in any order."""
    levels = _levels(settings)
    frequencies = tuple(f for f, rows in levels.items() if len(rows) >= FEWEST_LEVELS)
    most = max((len(levels[f]) for f in frequencies), default=0)
    rows = np.array([levels[f] + levels[f][:1] * (most - len(levels[f])) for f in frequencies], np.intp).T
    present = np.array([np.arange(most) < len(levels[f]) for f in frequencies], bool).T
    sds = np.array([sd or np.nan for sd, _ in settings])
    return Noise(frequencies, rows, np.log2(sds[rows] / NOISE_SDS[-1]), present)


def _levels(settings: Sequence[Setting]) -> dict[int, list[int]]:
    """Octave -> the rows of its levels, weakest first."""
    levels: dict[int, list[int]] = {}
    for row, (_, f) in sorted(enumerate(settings), key=lambda numbered: (numbered[1][1] or 0, numbered[1][0])):
        if f is not None:
            levels.setdefault(int(f), []).append(row)
    return levels


def threshold_gaps(settings: Iterable[Setting]) -> dict[int | None, str]:
    """Octave -> why it has no threshold; None -> why no octave has."""
    counts = Counter(settings)
    if GREY not in counts:
        return {None: "has no images without noise (noise_sd 0), which thresholds are relative to"}
    if any(count > 1 for count in counts.values()):
        return {None: "has conditions more than once, so that nothing says which of them count"}
    return {
        f: f"has one level of noise at frequency {f}, and a threshold takes {FEWEST_LEVELS}"
        for f, rows in _levels(list(counts)).items()
        if len(rows) < FEWEST_LEVELS
    }


def with_threshold(settings: Sequence[Setting]) -> list[int]:
    """The octaves that have a threshold, as far as the answers determine it."""
    gaps = threshold_gaps(settings)
    return [] if None in gaps else [f for f in _levels(settings) if f not in gaps]


def channel_gap(settings: Sequence[Setting]) -> str | None:
    """Why the three numbers cannot be had of the conditions; None where the answers decide."""
    gaps, octaves = threshold_gaps(settings), len(with_threshold(settings))
    if None in gaps or octaves >= FEWEST_FREQUENCIES:
        return gaps.get(None)
    have = f"has {FEWEST_LEVELS} levels of noise or more at {octaves or 'no'} frequenc{'y' if octaves == 1 else 'ies'}"
    return f"{have}, and a channel takes {FEWEST_FREQUENCIES}"


@dataclass(frozen=True, slots=True)
class Threshold:
    frequency: int
    """Octave index."""
    noise_sd: Estimate
    """Kept within the tested noise: an end of 0.02 reads "0.02 or less", one of 0.16 "0.16 or more". Its state is
    censored_below or censored_above where the threshold itself lies outside."""
    slope: float
    """Log-odds per octave of noise, 1/4 to 32."""


@dataclass(frozen=True, slots=True)
class PsychometricBand:
    thresholds: tuple[Threshold, ...]
    bandwidth: Estimate
    center_frequency: Estimate
    peak_noise_sensitivity: Estimate
    reference: float
    """Accuracy without noise, a fraction."""
    images: int
    clusters: int

    def estimates(self) -> dict[str, Estimate]:
        """The three numbers and the thresholds by name."""
        thresholds = {f"threshold_{threshold.frequency}": threshold.noise_sd for threshold in self.thresholds}
        return {name: getattr(self, name) for name in CHANNEL} | thresholds


def estimate_band(
    correct: NDArray[np.bool_],
    clusters: ArrayLike | None = None,
    *,
    settings: Sequence[Setting] = PUBLISHED,
    floor: float = 0.0,
    size: int = SIZE,
    resamples: int = 1000,
    seed: int = 0,
) -> PsychometricBand:
    """Thresholds and channel of one checkpoint on one image set.

    correct: (conditions, n) bool, the same n images in every row. settings: noise_sd and frequency of each row; row 0
    is noise_sd 0. As published there are 29: then frequency by frequency from 0, within each noise_sd 0.02, 0.04, 0.08,
    0.16. A frequency with a single level gets no threshold. clusters: (n,) ids of images that are not independent, such
    as crops of one photograph; left out, each image stands for itself. floor: accuracy of a blind guess, 1 over the
    classes that are decided between. size: pixels a side of the images. Resamples are a function of `seed`.
    """
    ids = np.unique(np.arange(correct.shape[1]) if clusters is None else clusters, return_inverse=True)[1]
    noise = noise_of(settings)
    hit_counts, images = count_right(correct, ids, resamples, seed)
    independent = int(ids.max()) + 1
    if too_little := _too_little(hit_counts, images, floor):
        return _without(too_little, noise, float(hit_counts[0, 0] / images[0]), correct.shape[1], independent)
    # A resample that happens to fall to chance has no threshold; the others speak for it.
    usable = _usable(hit_counts, images, floor)
    fits = _fit(hit_counts[:, usable], images[usable], floor, noise)
    return PsychometricBand(
        *_judged(fits, size, _why_too_few(independent)),
        float(hit_counts[0, 0] / images[0]),
        correct.shape[1],
        independent,
    )


def paired_band_intervals(
    a: NDArray[np.bool_],
    b: NDArray[np.bool_],
    clusters: ArrayLike | None = None,
    *,
    settings: Sequence[Setting] = PUBLISHED,
    floors: tuple[float, float] = (0.0, 0.0),
    size: int = SIZE,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Name of a row -> 95 % interval (low, high) of its value in B less that in A, over the same images in both.

    a and b are as for `estimate_band`, of the same settings, with their floors. The ends are percentiles of the
    differences in resamples that draw the same clusters for both. A number that has no interval in one of them is left
    out; the answer is empty where the answers to fewer than 10 clusters differ, of which resamples say too little.
    """
    ids = np.unique(np.arange(a.shape[1]) if clusters is None else clusters, return_inverse=True)[1]
    noise = noise_of(settings)
    if len(np.unique(ids[(a != b).any(axis=0)])) < FEWEST_APART:
        return {}
    hit_counts, images = count_right(np.concatenate([a, b]), ids, resamples, seed)
    runs = list(zip((hit_counts[: len(a)], hit_counts[len(a) :]), floors, strict=True))
    if any(_too_little(run_counts, images, floor) for run_counts, floor in runs):
        return {}
    usable = np.logical_and(*(_usable(run_counts, images, floor) for run_counts, floor in runs))
    independent = int(ids.max()) + 1
    numbers = []
    for run_counts, floor in runs:
        fits = _fit(run_counts[:, usable], images[usable], floor, noise)
        band = PsychometricBand(*_judged(fits, size, _why_too_few(independent)), 0.0, a.shape[1], independent)
        bounded = {name for name, estimate in band.estimates().items() if not np.isnan(estimate.low)}
        numbers.append({name: values for name, values in fits.numbers(size).items() if name in bounded})
    numbers_a, numbers_b = numbers
    return {name: interval((numbers_b[name] - numbers_a[name])[1:]) for name in numbers_a if name in numbers_b}


def _too_little(hit_counts: Floats, images: Floats, floor: float) -> Estimate | None:
    """The state of all numbers where too little is right without noise; `hit_counts` is (conditions, 1 + resamples)."""
    reference = hit_counts[0, 0] / images[0]
    if why := at_chance(reference, floor):
        return nothing(State.AT_CHANCE, why)
    if hit_counts[0, 0] < FEWEST_RIGHT:
        return _nothing(
            f"{hit_counts[0, 0]:.0f} of {images[0]:.0f} images are right without noise: too few to see a threshold"
        )
    return None


def _usable(hit_counts: Floats, images: Floats, floor: float) -> Mask:
    """Which resamples have a threshold."""
    return np.asarray((hit_counts[0] > 0) & (hit_counts[0] / images > 2 * floor))


def _why_too_few(independent: int) -> str | None:
    return too_few_images(independent) if independent < FEWEST_CLUSTERS else None


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


def _fit(hit_counts: Floats, images: Floats, floor: float, noise: Noise) -> _Fits:
    """Thresholds and channels of right answers (conditions, R) among images (R,)."""
    present = noise.present[:, :, None]
    levels, trials = (np.where(present, counts, 0.0) for counts in (hit_counts[noise.rows], images))
    flat = (len(levels), -1)
    return _fit_levels(levels.reshape(flat), trials.reshape(flat), hit_counts[0] / images, floor, noise)


def _fit_levels(levels: Floats, images: Floats, reference: Floats, floor: float, noise: Noise) -> _Fits:
    """As `fit_thresholds` takes them, frequency by frequency; reference is (R,)."""
    repeat = len(noise.frequencies)
    x = np.repeat(noise.x, len(reference), axis=1)
    sensitivity, slope = fit_thresholds(levels, images, np.tile(reference, repeat), floor, x)
    sensitivity = sensitivity.reshape(repeat, -1)
    return _Fits(noise, sensitivity, slope.reshape(repeat, -1), fit_channels(sensitivity, noise))


def _judged(fits: _Fits, size: int, too_few: str | None) -> tuple[tuple[Threshold, ...], Estimate, Estimate, Estimate]:
    """Thresholds, bandwidth, centre frequency and peak noise sensitivity."""
    columns = (fits.noise.frequencies, fits.noise.low, fits.noise.high, fits.sensitivity, fits.slope[:, 0])
    thresholds = tuple(
        _threshold(f, float(low), float(high), sensitivity, float(slope), too_few)
        for f, low, high, sensitivity, slope in zip(*columns, strict=True)
    )
    return thresholds, *_channel(fits, size, too_few)


def estimate_band_of_counts(
    right: NDArray[np.int64],
    trials: NDArray[np.int64],
    *,
    floor: float = 0.0,
    resamples: int = 1000,
    seed: int = 0,
) -> PsychometricBand:
    """As `estimate_band`, of right answers and all trials where each condition has trials of its own.

    right, trials: (5, 7), rows by noise_sd ascending from 0, columns by octave index; the trials at noise_sd 0 are one
    condition. floor: accuracy of a blind guess. Resampled are the trials of each condition.

    Raises UsageError for counts that do not fit.
    """
    shape = (len(NOISE_SDS), len(FREQUENCIES))
    if right.shape != shape or trials.shape != shape or np.any((right < 0) | (right > trials) | (trials < 1)):
        raise UsageError(
            f"critical band: counts of shapes {right.shape} and {trials.shape}; give right of all, {shape}"
        )
    share = right / trials
    random = np.random.default_rng(seed)
    counts = np.concatenate([right[None], random.binomial(trials, share, (resamples, *shape))]).astype(np.float64)
    reference = counts[:, 0].sum(axis=1) / trials[0].sum()
    total = int(trials.sum())
    if counts[0, 0].sum() < FEWEST_RIGHT or reference[0] <= 2 * floor:
        note = f"{right[0].sum()} of {trials[0].sum()} trials are right without noise: too few to see a threshold"
        return _without(_nothing(note), noise_of(PUBLISHED), float(reference[0]), total, total)
    counts, reference = counts[reference > 2 * floor], reference[reference > 2 * floor]
    flat = counts[:, 1:].transpose(1, 2, 0).reshape(shape[0] - 1, -1)
    all_trials = np.repeat(trials[1:].astype(np.float64), len(counts), axis=1)
    fits = _fit_levels(flat, all_trials, reference, floor, noise_of(PUBLISHED))
    return PsychometricBand(*_judged(fits, SIZE, None), float(reference[0]), total, total)


def _without(estimate: Estimate, noise: Noise, reference: float, images: int, clusters: int) -> PsychometricBand:
    """A band of which every number is the same estimate without a value."""
    thresholds = tuple(Threshold(f, estimate, np.nan) for f in noise.frequencies)
    return PsychometricBand(thresholds, estimate, estimate, estimate, reference, images, clusters)


def _threshold(
    frequency: int, low: float, high: float, sensitivity: Floats, slope: float, too_few: str | None
) -> Threshold:
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
    return Threshold(frequency, Estimate(sd, weakest, strongest, state, note), slope)


def _channel(fits: _Fits, size: int, too_few: str | None) -> tuple[Estimate, Estimate, Estimate]:
    """Bandwidth, centre frequency and peak noise sensitivity."""
    (low, high), sensitivity = _channel_range(fits.noise), fits.sensitivity[:, :1]
    inside_count = int(((sensitivity >= low) & (sensitivity <= high)).sum())
    if inside_count < FEWEST_FREQUENCIES:
        note = f"{inside_count} of {len(sensitivity)} thresholds lie within the tested noise; three numbers need three"
        return (_nothing(note),) * 3
    bounds = np.stack(channel_bounds(fits.noise), axis=1)
    for name, fit, ends in zip(("height", "centre", "width"), fits.channel, bounds, strict=True):
        if _at_bound(fit[0], ends):
            return (_nothing(f"the channel's {name} is at the bound of its fit"),) * 3
    # The bounds of the fit go the way of its optima, to be compared with them.
    width, middle, height = channel_numbers(np.hstack([fits.channel, bounds]), size)
    narrow = None
    if width[0] < fits.noise.apart:
        octaves = "an octave" if fits.noise.apart == 1 else f"{fits.noise.apart} octaves"
        narrow = f"the channel is narrower than {octaves}, by which the tested bands are apart"
    return (
        _judge("width", width, too_few, narrow),
        _judge("centre", middle, too_few, narrow),
        _judge("height", height, too_few, narrow),
    )


def channel_numbers(fits: Floats, size: int) -> tuple[Floats, Floats, Floats]:
    """The three numbers of CHANNEL of fits (3, R) of A, mu and sigma, (R,) each."""
    amplitude, mu, sigma = fits
    return FULL_WIDTH * sigma, center(mu, size), np.exp2(amplitude - 4)


def _judge(name: str, numbers: Floats, too_few: str | None, doubt: str | None) -> Estimate:
    """The estimate from a number of the data (first), of the resamples, and at the two bounds of the fit (last)."""
    value, bounds = float(numbers[0]), numbers[-2:]
    low, high = interval(numbers[1:-2])
    low_open, high_open = _at_bound(low, bounds), _at_bound(high, bounds)
    if low_open and high_open:
        return _nothing(f"the interval of the channel's {name} spans all that its fit allows")
    if too_few:
        return Estimate(value, np.nan, np.nan, State.NO_INTERVAL, "; ".join(filter(None, (too_few, doubt))))
    bounded = f"the {'lower' if low_open else 'upper'} end of the interval is where the fit is bounded"
    doubts = [words for words in (doubt, bounded if low_open or high_open else None) if words]
    return Estimate(value, low, high, State.DOUBTFUL if doubts else State.OK, "; ".join(doubts) or None)


def _at_bound(x: float, bounds: Floats) -> bool:
    return bool(np.isclose(x, bounds, rtol=1e-5, atol=0).any())


def _nothing(note: str) -> Estimate:
    return nothing(State.UNDETERMINED, note)


# The two likelihoods, as array functions over many fits
#
# x = log2(noise_sd / 0.16) counts octaves of noise down from the strongest published one, so the four published levels
# lie at -3, -2, -1, 0.
# The sensitivity S = log2(0.16 / threshold) is 0 where accuracy is halved at 0.16, and 3 where it is halved at 0.02.
# Rounded up, it is the published integer threshold on accuracies relative to noise_sd 0.
LEVELS = np.log2(np.array(NOISE_SDS[1:]) / NOISE_SDS[-1])
"""x of the four published noise levels, weakest first."""
SLOPE_BOUNDS = np.array([0.25, 32.0])
"""Log-odds per octave."""
BEYOND = 3.0
"""Octaves beyond the tested noise, and beyond the tested bands, that fits may go."""
SCATTER = 0.05
"""Octaves by which sensitivities scatter about the Gaussian. It cancels where no threshold is censored, and elsewhere
sets how sharply the Gaussian keeps to the censored side: a large one pushes a peak that lies just beyond the tested
noise away from it (0.25 overstates A = 3.6 by 0.2, 0.05 by less than 0.01)."""


def fit_thresholds(
    hits: Floats, images: Floats, reference: Floats, floor: float = 0.0, x: Floats = LEVELS[:, None]
) -> tuple[Floats, Floats]:
    """(sensitivity, slope in log-odds per octave), each (R,), by binomial maximum likelihood.

    hits (levels, R): right answers; x (levels, R) or (levels, 1): where the levels lie; images (R,) or (levels, R):
    answers in all, 0 at a level that does not count; reference (R,): the accuracy at noise_sd 0, above 2 * floor.
    """
    data = (hits, images, reference, np.full_like(reference, floor), np.broadcast_to(x, hits.shape))
    low, high = threshold_bounds(x)
    sensitivities = np.arange(low[0] + 2, high[0] - 1, 0.5)
    start = best_start(_threshold_starts(sensitivities, hits, images, reference, floor, x))
    sensitivity, log_slope = maximize(_binomial, start, low, high, data)
    return sensitivity, np.exp2(log_slope)


def _threshold_starts(
    sensitivities: Floats, hits: Floats, images: Floats, reference: Floats, floor: float, x: Floats
) -> Iterator[tuple[tuple[float, float], Floats]]:
    """Yield starts (S, log2 slope) with their log-likelihoods (R,), which are those of `_binomial` to the bit.

    The data are as for `fit_thresholds`. An accuracy depends on the reference and on x + S, of which there are few
    among resamples and levels, so that its logarithms are computed once for each two of them and looked up.
    """
    misses = images - hits
    references, column = np.unique(reference, return_inverse=True)
    levels, level = np.unique(x, return_inverse=True)
    offsets = np.unique(levels + sensitivities[:, None])
    tables = []
    for log_slope in (-1.0, 0.0, 1.0, 2.0, 3.0):
        p = _accuracy(np.array([0.0, log_slope]), references, np.array(floor), offsets[:, None])
        tables.append((log_slope, np.log(p), np.log1p(-p)))
    for sensitivity in sensitivities:
        row = np.searchsorted(offsets, levels + sensitivity)[level.reshape(x.shape)]
        place = row * len(references) + column
        for log_slope, log_p, log_q in tables:
            yield (sensitivity, log_slope), (hits * log_p.take(place) + misses * log_q.take(place)).sum(axis=0)


def threshold_bounds(x: Floats) -> tuple[Floats, Floats]:
    """Bounds of (S, log2 slope) for levels at x."""
    low, high = np.stack([[-x.max() - BEYOND, -x.min() + BEYOND], np.log2(SLOPE_BOUNDS)], axis=1)
    return low, high


def accuracy_at(x: Floats, sensitivity: Floats, slope: Floats, reference: Floats, floor: Floats) -> Floats:
    """Accuracy = floor + (reference - floor) / (1 + exp(slope (x + S) - logit q)), `reference` / 2 at x = -S.

    q = (reference / 2 - floor) / (reference - floor) is the share of the curve's height that lies below the half.
    """
    log_odds_at_half = np.log((reference / 2 - floor) / (reference / 2))
    accuracy: Floats = floor + (reference - floor) * scipy.special.expit(log_odds_at_half - slope * (x + sensitivity))
    return accuracy


def _accuracy(theta: Floats, reference: Floats, floor: Floats, x: Floats) -> Floats:
    return np.clip(accuracy_at(x, theta[0], np.exp2(theta[1]), reference, floor), 1e-12, 1 - 1e-12)


def _binomial(
    theta: Floats, hits: Floats, images: Floats, reference: Floats, floor: Floats, x: Floats
) -> tuple[Floats, Floats, Floats]:
    sensitivity, slope = theta[0], np.exp2(theta[1])
    images, x = map(np.ascontiguousarray, (images, x))  # sums depend on the layout in their last bits
    p = _accuracy(theta, reference, floor, x)
    value = (hits * np.log(p) + (images - hits) * np.log1p(-p)).sum(axis=0)
    height, variance = reference - floor, p * (1 - p)
    share = (p - floor) / height
    rise = height * share * (1 - share)  # dp / dlog-odds
    score = rise * (hits - images * p) / variance
    weight = rise**2 * images / variance
    jacobian = np.empty((2, *p.shape))
    jacobian[0], jacobian[1] = -slope, -np.log(2) * slope * (x + sensitivity)
    return value, np.einsum("plr,lr->pr", jacobian, score), np.einsum("plr,qlr,lr->pqr", jacobian, jacobian, weight)


def fit_channels(sensitivity: Floats, noise: Noise | None = None) -> Floats:
    """(A, mu, sigma), (3, R), of the Gaussians through sensitivities (frequencies, R), outside the range as censored.

    The noise is the published one by default.
    """
    noise = noise or noise_of(PUBLISHED)
    columns = (np.array(noise.frequencies, dtype=np.float64)[:, None], *_channel_range(noise))
    data = (sensitivity, *(np.broadcast_to(column, sensitivity.shape) for column in columns))
    low, high = channel_bounds(noise)
    starts = product(
        np.arange(1.0, max(high[0] - BEYOND, 0) + 1.5),
        np.arange(noise.frequencies[0], noise.frequencies[-1] + 1.0),
        (0.5, 1.0, 2.0, 4.0),
    )
    return maximize(_tobit, best_start(_channel_starts(starts, sensitivity, *columns)), low, high, data)


def _channel_starts(
    starts: Iterable[tuple[float, float, float]], sensitivity: Floats, frequency: Floats, low: Floats, high: Floats
) -> Iterator[tuple[tuple[float, float, float], Floats]]:
    """Yield starts with their log-likelihoods (R,), which are those of `_tobit` to the bit.

    sensitivity is (frequencies, R); the others are (frequencies, 1): at a start all fits have one model, and one value
    of what is censored.
    """
    above, below = sensitivity > high, sensitivity < low
    for start in starts:
        amplitude, mu, sigma = start
        model = gaussian((frequency - mu) / sigma, amplitude, 0.0, 1.0)
        log_above, log_below = (
            scipy.special.log_ndtr((model - high) / SCATTER),
            scipy.special.log_ndtr((low - model) / SCATTER),
        )
        log_density = -(((sensitivity - model) / SCATTER) ** 2) / 2
        yield start, np.where(above, log_above, np.where(below, log_below, log_density)).sum(axis=0)


def channel_bounds(noise: Noise) -> tuple[Floats, Floats]:
    """Bounds of (A, mu, sigma): widths of 1/4 to 7 octaves."""
    first, last = noise.frequencies[0], noise.frequencies[-1]
    strongest = float(_channel_range(noise)[1].max())
    return np.array([0.01, first - BEYOND, 0.25]), np.array([strongest + BEYOND, last + BEYOND, 7.0])


def _channel_range(noise: Noise) -> tuple[Floats, Floats]:
    """(frequencies, 1) sensitivities that a channel can be told from: the bell has none below 0, which is 0.16."""
    return np.maximum(noise.low, 0.0)[:, None], np.maximum(noise.high, 0.0)[:, None]


def _residuals(
    theta: Floats, sensitivity: Floats, frequency: Floats, low: Floats, high: Floats
) -> tuple[Floats, Floats, Floats, Mask, Floats]:
    """(frequencies, R) each: distance, model, z, whether S is censored, and log Phi(z), 0 where it is not.

    z is in units of the scatter: the residual where S is known, the distance to the censored side's edge elsewhere.
    """
    amplitude, mu, sigma = theta
    distance = (frequency - mu) / sigma
    model = gaussian(distance, amplitude, 0.0, 1.0)
    above, below = sensitivity > high, sensitivity < low
    censored = above | below
    z = np.where(above, model - high, np.where(below, low - model, sensitivity - model)) / SCATTER
    # The normal distribution takes longer than everything else, and few thresholds are censored.
    log_side = np.zeros_like(z)
    log_side[censored] = scipy.special.log_ndtr(z[censored])
    return distance, model, z, censored, log_side


def _tobit(
    theta: Floats, sensitivity: Floats, frequency: Floats, low: Floats, high: Floats
) -> tuple[Floats, Floats, Floats]:
    amplitude, _, sigma = theta
    frequency, low, high = map(np.ascontiguousarray, (frequency, low, high))
    distance, model, z, censored, log_side = _residuals(theta, sensitivity, frequency, low, high)
    half = z**2 / 2
    z_censored = z[censored]
    hazard = np.exp(-half[censored] - log_side[censored]) / np.sqrt(2 * np.pi)
    value = np.where(censored, log_side, -half).sum(axis=0)
    score, weight = z / SCATTER, np.full_like(z, 1.0 / SCATTER**2)
    score[censored] = np.where(sensitivity[censored] < low[censored], -1.0, 1.0) * hazard / SCATTER
    weight[censored] = hazard * (hazard + z_censored) / SCATTER**2
    jacobian = np.stack([model / amplitude, model * distance / sigma, model * distance**2 / sigma])
    return value, np.einsum("pfr,fr->pr", jacobian, score), np.einsum("pfr,qfr,fr->pqr", jacobian, jacobian, weight)


# The measures


def psychometric_estimates(outcomes: Outcomes, options: Options) -> dict[str, Estimate]:
    """The channel's numbers and the thresholds that the conditions of band noise determine."""
    settings, cells = settings_of(outcomes.available), band_cells(outcomes)
    if not with_threshold(settings) or cells[0].right is None:
        return {}
    band = estimate_band(
        np.array([cell.right for cell in cells]),
        outcomes.images.clusters,
        settings=settings,
        floor=outcomes.subject.floor,
        size=outcomes.subject.size,
        resamples=options.resamples,
    )
    return {f"psychometric_{name}": estimate for name, estimate in band.estimates().items()}


def psychometric_differences(a: Outcomes, b: Outcomes) -> dict[str, Ends]:
    """Paired intervals of what has an interval in both runs, where both have the same conditions of band noise."""
    settings = settings_of(a.available)
    if settings != settings_of(b.available):
        return {}
    cells_a, cells_b = band_cells(a), band_cells(b)
    if not with_threshold(settings) or cells_a[0].right is None or cells_b[0].right is None:
        return {}
    intervals = paired_band_intervals(
        np.array([cell.right for cell in cells_a]),
        np.array([cell.right for cell in cells_b]),
        a.images.clusters,
        settings=settings,
        floors=(a.subject.floor, b.subject.floor),
        size=a.subject.size,
    )
    return {f"psychometric_{name}": ends for name, ends in intervals.items()}


def _lacking_channel(available: Available) -> str | None:
    gap = channel_gap(settings_of(available))
    return gap and f"{PROBE} {gap}"


def _has_octave(octave: int, available: Available) -> bool:
    settings = settings_of(available)
    return None not in threshold_gaps(settings) and octave in _levels(settings)


def _lacking_levels(octave: int, available: Available) -> str | None:
    gap = threshold_gaps(settings_of(available)).get(octave)
    return gap and f"{PROBE} {gap}"


_measure = partial(Measure, scope=Scope.GRID, estimates=psychometric_estimates, differences=psychometric_differences)
MEASURES: Sequence[Measure[Outcomes]] = (
    *(
        _measure(
            name,
            display=Display(
                f"psych. {TITLES[number]}",
                UNITS[number],
                group="psychometric channel",
                quantity=number,
                panel=with_unit(TITLES[number], UNITS[number]),
                estimator="psychometric",
            ),
            applies=has_band,
            needs=_lacking_channel,
            is_bias=True,
        )
        for number, name in NUMBERS.items()
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
