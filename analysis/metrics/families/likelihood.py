"""Maximum-likelihood fits of thresholds and channels of band noise, computed for many data sets at once.

The likelihoods are maximized by damped Fisher scoring. Each data set is one column of the arrays. The formulas are in
`psychometric`.
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
"""A function likelihood(theta, *data) for R fits with P parameters.

theta is (P, R), and each array in `data` is (…, R). It returns the log-likelihood (R,), its gradient (P, R), and the
information matrix (P, P, R), which is minus the expected or approximate second derivative and must be positive
semidefinite. Each call must return new arrays, because `maximize` modifies them."""
MOST_STEPS = 200
FEWEST_LEVELS = 2
"""Minimum number of noise levels for a threshold."""


def best_start(candidates: Iterable[tuple[Sequence[float], Floats]]) -> Floats:
    """Return the candidate with the highest log-likelihood for each fit, (P, R).

    `candidates` are starting values of the P parameters, each with its log-likelihoods (R,). These must be
    bit-identical to those of the likelihood that is maximized afterwards, because `maximize` compares the two.
    """
    starts, values = zip(*candidates, strict=True)
    return np.ascontiguousarray(np.array(starts, dtype=np.float64)[np.argmax(values, axis=0)].T)


def maximize(likelihood: Likelihood, start: Floats, low: Floats, high: Floats, data: Sequence[Floats]) -> Floats:
    """Maximize the likelihood of each fit within bounds, and return the parameters (P, R).

    Each step solves (I + damping diag I) step = gradient for the parameters that are not pushed against a bound. A step
    is accepted only if the likelihood does not decrease. A fit ends when its step is below 1e-7 or when no step
    improves it, which is assumed once the damping reaches 1e12.

    Args:
        likelihood: Function that computes the log-likelihood, its gradient and the information matrix.
        start: Starting values, (P, R).
        low: Lower bounds, (P,).
        high: Upper bounds, (P,).
        data: Arrays that are passed to `likelihood`, (…, R) each.
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
        # Most steps are improvements, so reverting the few others in place is faster than np.where over whole arrays.
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
    # The diagonal vanishes if a parameter has no influence here. The constant term keeps the system solvable.
    np.einsum("ppr->pr", matrix)[...] += np.where(free, diagonal * damping + 1e-10, 1.0)
    solution = np.linalg.solve(matrix.transpose(2, 0, 1), np.where(free, gradient, 0.0).T[:, :, None])
    return np.ascontiguousarray(solution[:, :, 0].T)


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise levels of the octaves for which thresholds are fitted."""

    frequencies: tuple[int, ...]
    """Octaves with at least FEWEST_LEVELS noise levels."""
    rows: NDArray[np.intp]
    """Row of each condition in the outcomes, (levels, frequencies). Octaves with fewer levels repeat their first."""
    x: Floats
    """log2(noise_sd / 0.16), (levels, frequencies), with the weakest level first."""
    present: Mask
    """Whether an entry is an actual level, (levels, frequencies). False for repetitions."""

    @property
    def low(self) -> Floats:
        """Smallest sensitivity in the tested range, (frequencies,). Smaller sensitivities are censored."""
        return np.asarray(0.0 - self.x.max(axis=0))

    @property
    def high(self) -> Floats:
        """Largest sensitivity in the tested range, (frequencies,). Larger sensitivities are censored."""
        return np.asarray(0.0 - self.x.min(axis=0))

    @property
    def apart(self) -> int:
        """Largest distance between neighboring octaves. The position of a narrower channel cannot be determined."""
        return int(np.diff(self.frequencies).max(initial=1))


def noise_of(settings: Sequence[Setting]) -> Noise:
    """Return the noise levels of conditions. The first condition has no noise; the others can be in any order."""
    levels = levels_of(settings)
    frequencies = tuple(f for f, rows in levels.items() if len(rows) >= FEWEST_LEVELS)
    length = max((len(levels[f]) for f in frequencies), default=0)
    rows = np.array([levels[f] + levels[f][:1] * (length - len(levels[f])) for f in frequencies], np.intp).T
    present = np.array([np.arange(length) < len(levels[f]) for f in frequencies], bool).T
    sds = np.array([sd or np.nan for sd, _ in settings])
    return Noise(frequencies, rows, np.log2(sds[rows] / NOISE_SDS[-1]), present)


def levels_of(settings: Sequence[Setting]) -> dict[int, list[int]]:
    """Return the rows of the conditions of each octave, with the weakest noise first."""
    levels: dict[int, list[int]] = {}
    for row, (_, f) in sorted(enumerate(settings), key=lambda numbered: (numbered[1][1] or 0, numbered[1][0])):
        if f is not None:
            levels.setdefault(int(f), []).append(row)
    return levels


# The two likelihoods, as array functions over many fits
#
# x = log2(noise_sd / 0.16) is the noise level in octaves relative to the strongest published one, so the four published
# levels are -3, -2, -1 and 0. The sensitivity S = log2(0.16 / threshold) is 0 if accuracy is halved at 0.16, and 3 if
# it is halved at 0.02. Rounded up, it is the published integer threshold for accuracies relative to noise_sd 0.
LEVELS = np.log2(np.array(NOISE_SDS[1:]) / NOISE_SDS[-1])
"""x of the four published noise levels, with the weakest first."""
SLOPE_BOUNDS = np.array([0.25, 32.0])
"""Bounds of the slope, in log-odds per octave."""
BEYOND = 3.0
"""Octaves by which fits may exceed the tested noise levels and the tested bands."""
SCATTER = 0.05
"""Standard deviation of sensitivities about the Gaussian, in octaves.

It has no effect if no threshold is censored. Otherwise, it determines how sharply the Gaussian is confined to the
censored side. A large value pushes a peak that is slightly beyond the tested noise away from it: 0.25 overestimates
A = 3.6 by 0.2, and 0.05 by less than 0.01."""


def fit_thresholds(
    hits: Floats, images: Floats, reference: Floats, floor: float = 0.0, x: Floats = LEVELS[:, None]
) -> tuple[Floats, Floats]:
    """Fit sensitivities and slopes by binomial maximum likelihood.

    Args:
        hits: Numbers of correct predictions, (levels, R).
        images: Numbers of predictions, (R,) or (levels, R). 0 for a level that is not used.
        reference: Accuracy at noise_sd 0, (R,), which must exceed 2 * floor.
        floor: Chance level.
        x: Noise levels, (levels, R) or (levels, 1).

    Returns:
        Sensitivities (R,), and slopes in log-odds per octave (R,).
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
    """Yield starting values (S, log2 slope) with their log-likelihoods (R,), bit-identical to those of `_binomial`.

    The data are the same as for `fit_thresholds`.
    """
    misses = images - hits
    for start in product(sensitivities, (-1.0, 0.0, 1.0, 2.0, 3.0)):
        p = _accuracy(np.array(start), reference, np.array(floor), x)
        yield start, (hits * np.log(p) + misses * np.log1p(-p)).sum(axis=0)


def threshold_bounds(x: Floats) -> tuple[Floats, Floats]:
    """Return the lower and upper bounds of (S, log2 slope) for the levels x."""
    low, high = np.stack([[-x.max() - BEYOND, -x.min() + BEYOND], np.log2(SLOPE_BOUNDS)], axis=1)
    return low, high


def accuracy_at(x: Floats, sensitivity: Floats, slope: Floats, reference: Floats, floor: Floats) -> Floats:
    """Return floor + (reference - floor) / (1 + exp(slope (x + S) - logit q)), which is reference / 2 at x = -S.

    q = (reference / 2 - floor) / (reference - floor) is the fraction of the curve's height that is below reference / 2.
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
    images, x = map(np.ascontiguousarray, (images, x))  # the memory layout changes the last bits of the sums
    p = _accuracy(theta, reference, floor, x)
    value = (hits * np.log(p) + (images - hits) * np.log1p(-p)).sum(axis=0)
    height, variance = reference - floor, p * (1 - p)
    share = (p - floor) / height
    rise = height * share * (1 - share)  # derivative of p with respect to the log-odds
    score = rise * (hits - images * p) / variance
    weight = rise**2 * images / variance
    jacobian = np.empty((2, *p.shape))
    jacobian[0], jacobian[1] = -slope, -np.log(2) * slope * (x + sensitivity)
    return value, np.einsum("plr,lr->pr", jacobian, score), np.einsum("plr,qlr,lr->pqr", jacobian, jacobian, weight)


def fit_channels(sensitivity: Floats, noise: Noise) -> Floats:
    """Fit (A, mu, sigma) of Gaussians, (3, R), to sensitivities (frequencies, R) censored outside the tested noise."""
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
    """Yield starting values with their log-likelihoods (R,), bit-identical to those of `_tobit`.

    sensitivity is (frequencies, R), and the other arrays are (frequencies, 1). All fits have the same model at a
    starting value, so the likelihood of a censored threshold is computed once for all of them.
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
    """Return the lower and upper bounds of (A, mu, sigma). Widths are between 1/4 and 7 octaves."""
    first, last = noise.frequencies[0], noise.frequencies[-1]
    strongest = float(channel_range(noise)[1].max())
    return np.array([0.01, first - BEYOND, 0.25]), np.array([strongest + BEYOND, last + BEYOND, 7.0])


def channel_range(noise: Noise) -> tuple[Floats, Floats]:
    """Return the ranges of sensitivities (frequencies, 1) that constrain a channel.

    The Gaussian is positive everywhere, so it cannot describe sensitivities below 0, the value at a noise_sd of 0.16.
    """
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
    # In units of SCATTER: the residual if S is known, otherwise the distance from the limit of the tested range.
    z = np.where(above, model - high, np.where(below, low - model, sensitivity - model)) / SCATTER
    z_censored, half = z[censored], z**2 / 2
    # log_ndtr takes longer than everything else, so it is computed only for the few censored thresholds.
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
