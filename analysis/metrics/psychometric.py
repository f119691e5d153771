"""The critical band from single images: continuous thresholds, a channel through them, and intervals.

Per octave index f, the noise_sd at which accuracy falls to half of that without noise, from a logistic in log noise
strength fitted to the single outcomes by maximum likelihood:

    P(right | noise_sd) = c + (a - c) / (1 + exp(slope (x + S_f) - logit q)),   x = log2(noise_sd / 0.16)
    a = accuracy at noise_sd 0, c = `floor`, q = (a/2 - c) / (a - c);   threshold_f = 0.16 * 2^-S_f

The sensitivities S_f, censored where the threshold lies outside the tested 0.02 .. 0.16, follow the same bell as the
published integers (which are S_f rounded up), and the same three numbers come of it:

    S_f ~ A exp(-(f - mu)^2 / (2 sigma^2)),  bandwidth = 2 sqrt(ln 4) sigma octaves,
    center_frequency = 1.75 * 2^mu cycles per image, times size / 224 where images are of another size,
    peak_noise_sensitivity = 2^(A - 4) = 0.01 / threshold at the peak

Intervals are percentiles over resampled images: all conditions of an image, and all images of a cluster, go together.
Sources: Wichmann & Hill 2001 (fit, bootstrap), Tobin 1958 (censored fit), Field & Welsh 2007 (clusters).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_ndtr

from ...errors import UsageError
from ...protocol import FREQUENCIES, NOISE_SDS, SIZE
from ..statistics.arrays import Floats, Mask
from ..statistics.images import FEWEST_CLUSTERS, count_right, interval
from ..statistics.shares import FEWEST_APART
from .critical_band import FULL_WIDTH, center, gaussian
from .likelihood import best_start, maximize
from .states import State

CONDITIONS = 1 + len(FREQUENCIES) * (len(NOISE_SDS) - 1)
FEWEST_RIGHT = 20
"""Right answers without noise, below which no threshold is looked for."""
CHANNEL = ("bandwidth", "center_frequency", "peak_noise_sensitivity")
"""What a channel is described by."""
FINEST = 1.0
"""Octaves from one tested band to the next: a narrower channel may lie and peak anywhere between two."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval. NaN where the data do not determine it, or its interval; `note` then says why."""

    value: float
    low: float
    high: float
    state: State = State.OK
    note: str | None = None

    def row(self, metric: str) -> dict[str, Any]:
        """The columns metric, value, low, high, state and note, with None for NaN."""
        return {"metric": metric} | {name: None if one != one else one for name, one in asdict(self).items()}


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

    def rows(self) -> list[dict[str, Any]]:
        """A row of metric, value, low, high, state and note for each of the three numbers and seven thresholds."""
        numbers = [getattr(self, name).row(name) for name in CHANNEL]
        return numbers + [one.noise_sd.row(f"threshold_{one.frequency}") for one in self.thresholds]


def estimate_band(
    correct: NDArray[np.bool_],
    clusters: ArrayLike | None = None,
    *,
    floor: float = 0.0,
    size: int = SIZE,
    resamples: int = 1000,
    seed: int = 0,
) -> PsychometricBand:
    """Thresholds and channel of one checkpoint on one image set.

    correct: (29, n) bool, the same n images in every row. Row 0 is noise_sd 0; then frequency by frequency from 0,
    within each noise_sd 0.02, 0.04, 0.08, 0.16. clusters: (n,) ids of images that are not independent (crops of one
    photograph, say); left out, each image stands for itself. floor: accuracy of a blind guess, 1 over the classes that
    are decided between. size: pixels a side of the images. Resamples are a function of `seed`.

    Raises UsageError for arrays that do not fit, a floor outside [0, 1), or fewer than 100 resamples.
    """
    ids = _check(correct, clusters, floor, resamples)
    right, images = count_right(correct, ids, resamples, np.random.default_rng(seed))
    independent = int(ids.max()) + 1
    nothing = _too_little(right, images, floor)
    if nothing:
        return _without(nothing, float(right[0, 0] / images[0]), correct.shape[1], independent)
    # A resample that happens to fall to chance has no threshold; the others speak for it.
    usable = _usable(right, images, floor)
    drawn = _fit(right[:, usable], images[usable], floor)
    return PsychometricBand(
        *_judged(drawn, size, _few(independent)), float(right[0, 0] / images[0]), correct.shape[1], independent
    )


def paired_band_intervals(
    a: NDArray[np.bool_],
    b: NDArray[np.bool_],
    clusters: ArrayLike | None = None,
    *,
    floors: tuple[float, float] = (0.0, 0.0),
    size: int = SIZE,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Name of a row -> 95 % interval (low, high) of its value in B less that in A, over the same images in both.

    a and b are as for `estimate_band`, with their floors. Percentiles of the differences in resamples that draw the
    same clusters for both. Without a number that has no interval in one of them; empty where the answers to fewer than
    10 clusters differ, which resamples say too little of. Raises UsageError as `estimate_band` does.
    """
    ids = _check(a, clusters, floors[0], resamples)
    _check(b, ids, floors[1], resamples)
    if len(np.unique(ids[(a != b).any(axis=0)])) < FEWEST_APART:
        return {}
    right, images = count_right(np.concatenate([a, b]), ids, resamples, np.random.default_rng(seed))
    both = list(zip((right[: len(a)], right[len(a) :]), floors, strict=True))
    if any(_too_little(one, images, floor) for one, floor in both):
        return {}
    usable = np.logical_and(*(_usable(one, images, floor) for one, floor in both))
    independent = int(ids.max()) + 1
    numbers = []
    for one, floor in both:
        drawn = _fit(one[:, usable], images[usable], floor)
        band = PsychometricBand(*_judged(drawn, size, _few(independent)), 0.0, a.shape[1], independent)
        known = {row["metric"] for row in band.rows() if row["low"] is not None}
        numbers.append({name: values for name, values in drawn.numbers(size).items() if name in known})
    mine, theirs = numbers
    return {name: interval((theirs[name] - mine[name])[1:]) for name in mine if name in theirs}


def _too_little(right: Floats, images: Floats, floor: float) -> Estimate | None:
    """What all numbers are where too little is right without noise, of right answers (29, 1 + resamples)."""
    reference = right[0, 0] / images[0]
    if floor and reference <= 2 * floor:
        note = f"accuracy without noise, {reference:.3g}, is no more than twice that of a blind guess, {floor:.3g}"
        return Estimate(np.nan, np.nan, np.nan, State.AT_CHANCE, note)
    if right[0, 0] < FEWEST_RIGHT:
        return _nothing(
            f"{right[0, 0]:.0f} of {images[0]:.0f} images are right without noise: too few to see a threshold"
        )
    return None


def _usable(right: Floats, images: Floats, floor: float) -> Mask:
    """Which resamples have a threshold."""
    return np.asarray((right[0] > 0) & (right[0] / images > 2 * floor))


def _few(independent: int) -> str | None:
    return f"{independent} independent images are too few for an interval" if independent < FEWEST_CLUSTERS else None


@dataclass(frozen=True, slots=True)
class _Fits:
    """Of the data first, then of the resamples."""

    sensitivity: Floats
    """(7, 1 + resamples)."""
    slope: Floats
    """(7, 1 + resamples)."""
    channel: Floats
    """(3, 1 + resamples): A, mu, sigma."""

    def numbers(self, size: int) -> dict[str, Floats]:
        """Name of a row -> its values."""
        sds = NOISE_SDS[-1] * np.exp2(-np.clip(self.sensitivity, *SENSITIVITY_RANGE))
        numbers = dict(zip(CHANNEL, channel_numbers(self.channel, size), strict=True))
        return numbers | {f"threshold_{f}": sds[f] for f in FREQUENCIES}


def _fit(right: Floats, images: Floats, floor: float) -> _Fits:
    """Thresholds and channels of right answers (29, R) among images (R,)."""
    repeat, reference = len(FREQUENCIES), right[0] / images
    levels = right[1:].reshape(repeat, len(NOISE_SDS) - 1, -1).transpose(1, 0, 2).reshape(len(NOISE_SDS) - 1, -1)
    return _fit_levels(levels, np.tile(images, repeat), reference, floor)


def _fit_levels(levels: Floats, images: Floats, reference: Floats, floor: float) -> _Fits:
    """As `fit_thresholds` takes them, frequency by frequency; reference is (R,)."""
    repeat = len(FREQUENCIES)
    sensitivity, slope = fit_thresholds(levels, images, np.tile(reference, repeat), floor)
    sensitivity = sensitivity.reshape(repeat, -1)
    return _Fits(sensitivity, slope.reshape(repeat, -1), fit_channels(sensitivity))


def _judged(fits: _Fits, size: int, few: str | None) -> tuple[tuple[Threshold, ...], Estimate, Estimate, Estimate]:
    """Thresholds, bandwidth, centre frequency and peak noise sensitivity."""
    thresholds = tuple(_threshold(f, fits.sensitivity[f], float(fits.slope[f, 0]), few) for f in FREQUENCIES)
    return thresholds, *_channel(fits, size, few)


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
    drawn = np.concatenate([right[None], random.binomial(trials, share, (resamples, *shape))]).astype(np.float64)
    reference = drawn[:, 0].sum(axis=1) / trials[0].sum()
    total = int(trials.sum())
    if drawn[0, 0].sum() < FEWEST_RIGHT or reference[0] <= 2 * floor:
        note = f"{right[0].sum()} of {trials[0].sum()} trials are right without noise: too few to see a threshold"
        return _without(_nothing(note), float(reference[0]), total, total)
    drawn, reference = drawn[reference > 2 * floor], reference[reference > 2 * floor]
    flat = drawn[:, 1:].transpose(1, 2, 0).reshape(shape[0] - 1, -1)
    all_trials = np.repeat(trials[1:].astype(np.float64), len(drawn), axis=1)
    fits = _fit_levels(flat, all_trials, reference, floor)
    return PsychometricBand(*_judged(fits, SIZE, None), float(reference[0]), total, total)


def _without(nothing: Estimate, reference: float, images: int, clusters: int) -> PsychometricBand:
    """Every number as `nothing` says."""
    thresholds = tuple(Threshold(f, nothing, np.nan) for f in FREQUENCIES)
    return PsychometricBand(thresholds, nothing, nothing, nothing, reference, images, clusters)


def _check(correct: NDArray[np.bool_], clusters: ArrayLike | None, floor: float, resamples: int) -> NDArray[np.intp]:
    """Cluster indices 0..C-1 of the images."""
    if correct.ndim != 2 or len(correct) != CONDITIONS or correct.shape[1] == 0 or correct.dtype != np.bool_:
        raise UsageError(
            f"critical band: outcomes are {correct.dtype} {correct.shape}; give bool ({CONDITIONS} conditions, images)"
        )
    if not 0 <= floor < 1:
        raise UsageError(f"critical band: floor {floor}; it is an accuracy in [0, 1), 0.001 for a thousand classes")
    if resamples < 100:
        raise UsageError(f"critical band: {resamples} resamples; intervals need at least 100")
    if clusters is None:
        return np.arange(correct.shape[1])
    given = np.asarray(clusters)
    if given.shape != correct.shape[1:]:
        raise UsageError(f"critical band: {given.shape} cluster ids for {correct.shape[1]} images; give one each")
    return np.unique(given, return_inverse=True)[1]


def _threshold(frequency: int, sensitivity: Floats, slope: float, few: str | None) -> Threshold:
    """From sensitivities of the data (first) and of the resamples."""
    low, high = SENSITIVITY_RANGE
    value = float(sensitivity[0])
    ends = np.clip([value, *interval(sensitivity[1:])], low, high)
    sd, weakest, strongest = (float(NOISE_SDS[-1] * 2.0 ** -ends[i]) for i in (0, 2, 1))
    # An infinitely steep curve leaves the threshold anywhere between two levels; its resamples all sit in one place.
    note = few or ("the slope is at the bound of its fit" if _at_bound(slope, SLOPE_BOUNDS) else None)
    state = State.NO_INTERVAL if note else State.OK
    if note:
        weakest, strongest = np.nan, np.nan
    if value > high:
        state, note = State.CENSORED_BELOW, "the threshold lies below the tested noise"
    elif value < low:
        state, note = State.CENSORED_ABOVE, "the threshold lies above the tested noise"
    elif (weakest, strongest) == (NOISE_SDS[1], NOISE_SDS[-1]):
        state, note = State.DOUBTFUL, "the interval spans the tested noise"
    return Threshold(frequency, Estimate(sd, weakest, strongest, state, note), slope)


def _channel(fits: _Fits, size: int, few: str | None) -> tuple[Estimate, Estimate, Estimate]:
    """Bandwidth, centre frequency and peak noise sensitivity."""
    low, high = SENSITIVITY_RANGE
    met = int(((fits.sensitivity[:, 0] >= low) & (fits.sensitivity[:, 0] <= high)).sum())
    if met < 3:
        nothing = _nothing(f"{met} of 7 thresholds lie within the tested noise; three numbers need three")
        return nothing, nothing, nothing
    bounds = np.stack([CHANNEL_LOW, CHANNEL_HIGH], axis=1)
    for name, fit, ends in zip(("height", "centre", "width"), fits.channel, bounds, strict=True):
        if _at_bound(fit[0], ends):
            nothing = _nothing(f"the channel's {name} is at the bound of its fit")
            return nothing, nothing, nothing
    # The bounds of the fit go the way of its optima, to be compared with them.
    width, middle, height = channel_numbers(np.hstack([fits.channel, bounds]), size)
    narrow = None
    if width[0] < FINEST:
        narrow = "the channel is narrower than an octave, by which the tested bands are apart"
    return (
        _judge("width", width, few, narrow),
        _judge("centre", middle, few, narrow),
        _judge("height", height, few, narrow),
    )


def channel_numbers(fits: Floats, size: int) -> tuple[Floats, Floats, Floats]:
    """The three numbers of CHANNEL of fits (3, R) of A, mu and sigma, (R,) each."""
    amplitude, mu, sigma = fits
    return FULL_WIDTH * sigma, center(mu, size), np.exp2(amplitude - 4)


def _judge(name: str, numbers: Floats, few: str | None, doubt: str | None) -> Estimate:
    """From a number of the data (first), of the resamples, and at the two bounds of the fit (last)."""
    value, bounds = float(numbers[0]), numbers[-2:]
    low, high = interval(numbers[1:-2])
    low_open, high_open = _at_bound(low, bounds), _at_bound(high, bounds)
    if low_open and high_open:
        return _nothing(f"the interval of the channel's {name} spans all that its fit allows")
    if few:
        return Estimate(value, np.nan, np.nan, State.NO_INTERVAL, "; ".join(filter(None, (few, doubt))))
    bounded = f"the {'lower' if low_open else 'upper'} end of the interval is where the fit is bounded"
    doubts = [one for one in (doubt, bounded if low_open or high_open else None) if one]
    return Estimate(value, low, high, State.DOUBTFUL if doubts else State.OK, "; ".join(doubts) or None)


def _at_bound(x: float, bounds: Floats) -> bool:
    return bool(np.isclose(x, bounds, rtol=1e-5, atol=0).any())


def _nothing(note: str) -> Estimate:
    return Estimate(np.nan, np.nan, np.nan, State.UNDETERMINED, note)


# The two likelihoods, as array functions over many fits
#
# x = log2(noise_sd / 0.16) counts octaves of noise down from the strongest, so the four levels lie at -3, -2, -1, 0.
# The sensitivity S = log2(0.16 / threshold) is 0 where accuracy is halved at 0.16, and 3 where it is halved at 0.02.
# Rounded up, it is the published integer threshold on accuracies relative to noise_sd 0.
LEVELS = np.log2(np.array(NOISE_SDS[1:]) / NOISE_SDS[-1])
"""x of the four noise levels, weakest first."""
SENSITIVITY_RANGE = (0.0, float(-LEVELS[0]))
"""Sensitivities that the tested noise can tell apart; a threshold outside is known to lie outside, no more."""

SLOPE_BOUNDS = np.array([0.25, 32.0])
"""Log-odds per octave."""
THRESHOLD_LOW, THRESHOLD_HIGH = np.stack([[-3.0, 6.0], np.log2(SLOPE_BOUNDS)], axis=1)
"""Bounds of (S, log2 slope): three octaves beyond the tested noise."""
CHANNEL_LOW, CHANNEL_HIGH = np.array([0.01, -3.0, 0.25]), np.array([6.0, 9.0, 7.0])
"""Bounds of (A, mu, sigma): sensitivities to 6, centres to three octaves outside, widths of 1/4 to 7 octaves."""
SCATTER = 0.05
"""Octaves by which sensitivities scatter about the Gaussian. It cancels where no threshold is censored, and elsewhere
sets how sharply the Gaussian keeps to the censored side: a large one pushes a peak that lies just beyond the tested
noise away from it (0.25 overstates A = 3.6 by 0.2, 0.05 by less than 0.01)."""


def fit_thresholds(right: Floats, images: Floats, reference: Floats, floor: float = 0.0) -> tuple[Floats, Floats]:
    """(sensitivity, slope in log-odds per octave), each (R,), by binomial maximum likelihood.

    right (4, R): right answers at the four levels, weakest noise first; images (R,) or (4, R): answers in all;
    reference (R,): the accuracy at noise_sd 0, above 2 * floor.
    """
    data = (right, images, reference, np.full_like(images, floor))
    start = best_start(_binomial, product(np.arange(-1.0, 5.0, 0.5), (-1.0, 0.0, 1.0, 2.0, 3.0)), data)
    sensitivity, log_slope = maximize(_binomial, start, THRESHOLD_LOW, THRESHOLD_HIGH, data)
    return sensitivity, np.exp2(log_slope)


def accuracy_at(x: Floats, sensitivity: Floats, slope: Floats, reference: Floats, floor: Floats) -> Floats:
    """Accuracy = floor + (reference - floor) / (1 + exp(slope (x + S) - logit q)), `reference` / 2 at x = -S.

    q = (reference / 2 - floor) / (reference - floor) is the share of the curve's height that lies below the half.
    """
    log_odds_at_half = np.log((reference / 2 - floor) / (reference / 2))
    accuracy: Floats = floor + (reference - floor) * expit(log_odds_at_half - slope * (x + sensitivity))
    return accuracy


def _binomial(
    theta: Floats, right: Floats, images: Floats, reference: Floats, floor: Floats
) -> tuple[Floats, Floats, Floats]:
    sensitivity, slope = theta[0], np.exp2(theta[1])
    offset = LEVELS[:, None] + sensitivity
    p = np.clip(accuracy_at(LEVELS[:, None], sensitivity, slope, reference, floor), 1e-12, 1 - 1e-12)
    value = (right * np.log(p) + (images - right) * np.log1p(-p)).sum(axis=0)
    share = (p - floor) / (reference - floor)
    rise = (reference - floor) * share * (1 - share)  # dp / dlog-odds
    score = rise * (right - images * p) / (p * (1 - p))
    weight = rise**2 * images / (p * (1 - p))
    jacobian = np.stack([np.broadcast_to(-slope, offset.shape), -np.log(2) * slope * offset])
    return value, np.einsum("plr,lr->rp", jacobian, score), np.einsum("plr,qlr,lr->rpq", jacobian, jacobian, weight)


def fit_channels(sensitivity: Floats) -> Floats:
    """(A, mu, sigma), (3, R), of the Gaussians through sensitivities (7, R), those outside the range as censored.

    Log-likelihood of a sensitivity S against m = A exp(-(f - mu)^2 / (2 sigma^2)), with scatter s: -(S - m)^2 / (2 s^2)
    within the tested range [0, 3]; log Phi((m - 3) / s) above it; log Phi((0 - m) / s) below it (Tobin 1958).
    """
    starts = product((1.0, 2.0, 3.0, 4.0), (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0), (0.5, 1.0, 2.0, 4.0))
    start = best_start(_tobit, starts, (sensitivity,))
    return maximize(_tobit, start, CHANNEL_LOW, CHANNEL_HIGH, (sensitivity,))


def _tobit(theta: Floats, sensitivity: Floats) -> tuple[Floats, Floats, Floats]:
    amplitude, mu, sigma = theta
    low, high = SENSITIVITY_RANGE
    distance = (np.array(FREQUENCIES, dtype=np.float64)[:, None] - mu) / sigma
    model = gaussian(distance, amplitude, 0.0, 1.0)
    above, below = sensitivity > high, sensitivity < low
    # In units of the scatter: the residual where it is known, the distance to the censored side's edge elsewhere.
    sign = np.where(below, -1.0, 1.0)
    z = np.where(above, model - high, np.where(below, low - model, sensitivity - model)) / SCATTER
    log_side = log_ndtr(z)
    hazard = np.exp(-(z**2) / 2 - log_side) / np.sqrt(2 * np.pi)
    censored = above | below
    value = np.where(censored, log_side, -(z**2) / 2).sum(axis=0)
    score = np.where(censored, sign * hazard, z) / SCATTER
    weight = np.where(censored, hazard * (hazard + z), 1.0) / SCATTER**2
    jacobian = np.stack([model / amplitude, model * distance / sigma, model * distance**2 / sigma])
    return value, np.einsum("pfr,fr->rp", jacobian, score), np.einsum("pfr,qfr,fr->rpq", jacobian, jacobian, weight)
