"""The thresholds and channels of band noise by maximum likelihood: many small fits at once, by damped Fisher scoring.

`psychometric` has the formulas. The arrays of a fit are columns of the arrays of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
import scipy
from numpy.typing import NDArray

from ....core.protocol import NOISE_SDS
from ...statistics import Floats, Mask
from .critical_band import Setting, gaussian

Likelihood: TypeAlias = Callable[..., tuple[Floats, Floats, Floats]]
"""likelihood(theta, *data) for R fits with P parameters: theta is (P, R), each array of data (…, R). It gives the
log-likelihood (R,), its gradient (P, R), and the information (P, P, R): minus the expected or approximate second
derivative, positive semidefinite. The arrays are new in each call."""
MOST_STEPS = 200
FEWEST_LEVELS = 2
"""Levels of noise that a threshold takes at least."""


def best_start(candidates: Iterable[tuple[Sequence[float], Floats]]) -> Floats:
    """The likeliest start of each fit, (P, R): from starts of P parameters, and the log-likelihood (R,) of each.

    The likelihoods have to be those of the fit to the bit, since steps are judged by these.
    """
    starts, values = zip(*candidates, strict=True)
    return np.ascontiguousarray(np.array(starts, dtype=np.float64)[np.argmax(values, axis=0)].T)


def maximize(likelihood: Likelihood, start: Floats, low: Floats, high: Floats, data: Sequence[Floats]) -> Floats:
    """The optimum (P, R) of each fit within low <= theta <= high, both (P,), from `start` (P, R).

    A step solves (I + damping diag I) step = gradient, without the parameters that push against a bound; it is taken
    only if the likelihood does not fall. A fit ends when steps are below 1e-7 or no step helps.
    """
    theta = start.copy()
    active, damping = np.arange(start.shape[1]), np.full(start.shape[1], 1e-2)
    state, going_data = [start, *likelihood(start, *data)], list(data)
    for _ in range(MOST_STEPS):
        point, value, gradient, information = state
        trial = np.clip(point + _step(point, gradient, information, damping, low, high), low[:, None], high[:, None])
        attempt = [trial, *likelihood(trial, *going_data)]
        worse = ~(attempt[1] >= value)
        step_size = np.abs(trial - point).max(axis=0)
        # Most steps are better, so that it takes less to undo the others than to choose between two arrays.
        for new, old in zip(attempt, state, strict=True):
            np.copyto(new, old, where=worse)
        state = attempt
        damping = np.where(worse, damping * 10, damping / 10)
        going = (step_size > 1e-7) & (damping < 1e12)
        if not going.all():
            theta[:, active] = state[0]
            active, damping, *state = (array.compress(going, axis=-1) for array in (active, damping, *state))
            going_data = [array.compress(going, axis=-1) for array in going_data]
            if not len(active):
                return theta
    theta[:, active] = state[0]
    return theta


def _step(theta: Floats, gradient: Floats, information: Floats, damping: Floats, low: Floats, high: Floats) -> Floats:
    outward = ((theta <= low[:, None]) & (gradient < 0)) | ((theta >= high[:, None]) & (gradient > 0))
    free = ~outward
    matrix = information * (free[:, None] & free)
    diagonal = np.einsum("ppr->pr", information)
    # A vanishing diagonal is a parameter without influence here; the floor keeps the system solvable.
    np.einsum("ppr->pr", matrix)[...] += np.where(free, diagonal * damping + 1e-10, 1.0)
    solution = np.linalg.solve(matrix.transpose(2, 0, 1), np.where(free, gradient, 0.0).T[:, :, None])
    return np.ascontiguousarray(solution[:, :, 0].T)


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
    levels = levels_of(settings)
    frequencies = tuple(f for f, rows in levels.items() if len(rows) >= FEWEST_LEVELS)
    length = max((len(levels[f]) for f in frequencies), default=0)
    rows = np.array([levels[f] + levels[f][:1] * (length - len(levels[f])) for f in frequencies], np.intp).T
    present = np.array([np.arange(length) < len(levels[f]) for f in frequencies], bool).T
    sds = np.array([sd or np.nan for sd, _ in settings])
    return Noise(frequencies, rows, np.log2(sds[rows] / NOISE_SDS[-1]), present)


def levels_of(settings: Sequence[Setting]) -> dict[int, list[int]]:
    """Octave -> the rows of its levels, weakest first."""
    levels: dict[int, list[int]] = {}
    for row, (_, f) in sorted(enumerate(settings), key=lambda numbered: (numbered[1][1] or 0, numbered[1][0])):
        if f is not None:
            levels.setdefault(int(f), []).append(row)
    return levels


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

    The data are as for `fit_thresholds`.
    """
    misses = images - hits
    for start in product(sensitivities, (-1.0, 0.0, 1.0, 2.0, 3.0)):
        p = _accuracy(np.array(start), reference, np.array(floor), x)
        yield start, (hits * np.log(p) + misses * np.log1p(-p)).sum(axis=0)


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


def fit_channels(sensitivity: Floats, noise: Noise) -> Floats:
    """(A, mu, sigma), (3, R), of the bells through sensitivities (frequencies, R), censored outside tested noise."""
    columns = (np.array(noise.frequencies, dtype=np.float64)[:, None], *channel_range(noise))
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
    strongest = float(channel_range(noise)[1].max())
    return np.array([0.01, first - BEYOND, 0.25]), np.array([strongest + BEYOND, last + BEYOND, 7.0])


def channel_range(noise: Noise) -> tuple[Floats, Floats]:
    """(frequencies, 1) sensitivities that a channel can be told from: the bell has none below 0, which is 0.16."""
    return np.maximum(noise.low, 0.0)[:, None], np.maximum(noise.high, 0.0)[:, None]


def _tobit(
    theta: Floats, sensitivity: Floats, frequency: Floats, low: Floats, high: Floats
) -> tuple[Floats, Floats, Floats]:
    amplitude, mu, sigma = theta
    frequency, low, high = map(np.ascontiguousarray, (frequency, low, high))
    distance = (frequency - mu) / sigma
    model = gaussian(distance, amplitude, 0.0, 1.0)
    above, below = sensitivity > high, sensitivity < low
    censored = above | below
    # In units of the scatter: the residual where S is known, the distance to the censored side's edge elsewhere.
    z = np.where(above, model - high, np.where(below, low - model, sensitivity - model)) / SCATTER
    z_censored, half = z[censored], z**2 / 2
    # The normal distribution takes longer than everything else, and few thresholds are censored.
    log_side = scipy.special.log_ndtr(z_censored)
    hazard = np.exp(-half[censored] - log_side) / np.sqrt(2 * np.pi)
    terms, score, weight = -half, z / SCATTER, np.full_like(z, 1.0 / SCATTER**2)
    terms[censored] = log_side
    score[censored] = np.where(below[censored], -1.0, 1.0) * hazard / SCATTER
    weight[censored] = hazard * (hazard + z_censored) / SCATTER**2
    jacobian = np.stack([model / amplitude, model * distance / sigma, model * distance**2 / sigma])
    return (
        terms.sum(axis=0),
        np.einsum("pfr,fr->pr", jacobian, score),
        np.einsum("pfr,qfr,fr->pqr", jacobian, jacobian, weight),
    )
