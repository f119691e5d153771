"""The critical band by the published estimator: integer thresholds and a Gaussian through them.

A network's accuracy is measured under octave-band noise of seven centre frequencies (octave index f = 0..6) and five
strengths. Octave f is centred at 1.75 * 2^f cycles per image of 224 pixels a side; at another size, at size / 224 times
that. Per frequency, the threshold is the number of steps by which the noise must be weakened until more than half of
the images are right; the bell through the seven thresholds is the channel that the network recognizes objects through.

    t_f       = smallest j in 0..4 with accuracy(sd_(4-j), f) > 50 %, else 4;  sd = 0, 0.02, 0.04, 0.08, 0.16
    t_f       ~ A exp(-(f - mu)^2 / (2 sigma^2)),  least squares from (1, 0, 1), 0 <= A <= 4
    bandwidth              = 2 sqrt(ln 4) |sigma|    octaves, full width at half maximum
    center_frequency       = 1.75 * 2^mu size / 224  cycles per image
    peak_noise_sensitivity = 2^(A - 4)               from 1/16 (bears the strongest noise) to 1 (bears none)

Sources: Subramanian et al. 2023 (thresholds, fit), Gavrikov & Keuper 2024 (these three numbers for 48 ResNet-50s).
Where the centre lies outside the tested bands, f = -1/2 to 6 1/2, or the bell has not fallen to half at either end of
them, the numbers are extrapolated from nothing and degenerate. Where it has at one end, and is wider than these seven
octaves, they are doubtful; so are those of a peak at its bound of 4, where peak_noise_sensitivity is 1 whatever lies
above. Few integers carry little: see `psychometric` for continuous thresholds with intervals.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import OptimizeWarning, curve_fit

from ...errors import UsageError
from ...protocol import FREQUENCIES, LOWEST_FREQUENCY, NOISE_SDS, SIZE
from .states import State

FULL_WIDTH = 2 * np.sqrt(np.log(4))
"""Full width at half maximum of a Gaussian, in standard deviations: 2 sqrt(ln 4) = 2 sqrt(2 ln 2)."""
LOWEST, HIGHEST = FREQUENCIES[0] - 0.5, FREQUENCIES[-1] + 0.5
"""Octaves between which the bands of noise lie, each of which is one octave wide."""


@dataclass(frozen=True, slots=True)
class CriticalBand:
    """The three numbers, NaN where the fit has none, and what they are worth."""

    thresholds: tuple[int, ...]
    bandwidth: float
    center_frequency: float
    """Cycles per image."""
    peak_noise_sensitivity: float
    state: State
    """degenerate where the numbers mean nothing, doubtful where they go beyond what was tested."""
    note: str | None
    """Why the state is what it is, for people; None where it is ok."""


def band_gaps(settings: Iterable[tuple[float | None, float | None]]) -> str | None:
    """Why the published 29 are not among the conditions of (noise_sd, frequency), each once; None where they are."""
    counts = Counter(settings)
    wanted: set[tuple[float | None, float | None]] = {
        (0.0, None),
        *((sd, f) for sd in NOISE_SDS[1:] for f in FREQUENCIES),
    }
    problems: dict[str, set[tuple[float | None, float | None]]] = {
        "lacks {}": wanted - {*counts},
        "has {} more than once": {setting for setting, count in counts.items() if count > 1 and setting in wanted},
    }
    told = [words.format(_levels(which)) for words, which in problems.items() if which]
    if not told:
        return None
    return f"{', and '.join(told)}; the published estimator takes its {len(wanted)} conditions, each once"


def _levels(settings: Iterable[tuple[float | None, float | None]]) -> str:
    """Such as `noise_sd 0.08, noise_sd 0.16 at frequency 2`; a level by itself stands for all of its frequencies."""
    by_level: dict[float, list[float]] = {}
    for sd, f in sorted((sd or 0.0, -1.0 if f is None else f) for sd, f in settings):
        by_level.setdefault(sd, []).extend([f] if f >= 0 else [])
    return ", ".join(
        f"noise_sd {sd:g}" + (f" at frequency {' and '.join(f'{f:g}' for f in found)}" if 0 < len(found) < 7 else "")
        for sd, found in by_level.items()
    )


def integer_thresholds(accuracy: ArrayLike, reference: float | None = None) -> tuple[int, ...]:
    """Thresholds t_0..t_6 from accuracies in percent, shape (5, 7): rows by noise_sd ascending from 0, columns by f.

    With `reference`, an accuracy in percent, every accuracy is first divided by it and multiplied by 100: the `_norm`
    variant. Raises UsageError for another shape, values that are not percentages, or a reference that is not positive.
    """
    percent = np.asarray(accuracy, dtype=np.float64)
    if percent.shape != (len(NOISE_SDS), len(FREQUENCIES)):
        raise UsageError(f"critical band: accuracies of shape {percent.shape}; give (5 noise levels, 7 frequencies)")
    if not np.all((percent >= 0) & (percent <= 100)):
        raise UsageError("critical band: accuracies outside 0..100 or missing; give percentages of all 35 conditions")
    if reference is not None:
        if not reference > 0:
            raise UsageError(f"critical band: reference accuracy {reference}; it must be above 0 percent")
        percent = percent / reference * 100
    passes = percent[::-1] > 50  # row j: noise_sd of index 4 - j
    first = np.where(passes.any(axis=0), passes.argmax(axis=0), len(NOISE_SDS) - 1)
    return tuple(int(j) for j in first)


def normalized_thresholds(accuracy: ArrayLike, rgb_clean: float | None = None) -> tuple[int, ...]:
    """The `_norm` thresholds: relative to the accuracy at noise_sd 0, or to the clean accuracy in colour if given.

    The study does not say which of the two it used. Noise_sd 0 is one condition, repeated over the columns of
    `accuracy` in percent; should the columns differ, their mean is the reference.
    """
    percent = np.asarray(accuracy, dtype=np.float64)
    return integer_thresholds(percent, float(percent[0].mean()) if rgb_clean is None else rgb_clean)


def center(octave: Any, size: int) -> NDArray[np.float64]:
    """Cycles per image at an octave, of images of `size` pixels a side."""
    with np.errstate(over="ignore"):  # a flat bell has its centre anywhere, 1e400 included
        return np.asarray(LOWEST_FREQUENCY * size / SIZE * np.exp2(octave), dtype=np.float64)


def fit_band(thresholds: ArrayLike, size: int = SIZE) -> CriticalBand:
    """The Gaussian through t_0..t_6 and the numbers it gives, for images of `size` pixels a side.

    Raises UsageError unless there are seven thresholds in 0..4.
    """
    values = np.asarray(thresholds, dtype=np.float64)
    if values.shape != (len(FREQUENCIES),) or not np.all((values >= 0) & (values <= 4)):
        raise UsageError(f"critical band: thresholds {values.tolist()}; give seven numbers from 0 to 4")
    fit = _least_squares(values)
    amplitude, mu, sigma = (np.nan, np.nan, np.nan) if fit is None else fit
    bandwidth = FULL_WIDTH * abs(sigma)
    nothing, doubts = None, []
    if np.ptp(values) == 0:
        nothing = "all thresholds are equal"
    elif fit is None:
        nothing = "no Gaussian fits the thresholds"
    elif not LOWEST <= mu <= HIGHEST:
        nothing = "the centre lies outside the tested bands"
    elif mu - bandwidth / 2 < LOWEST and mu + bandwidth / 2 > HIGHEST:
        nothing = "the Gaussian is wider than the tested range"
    elif bandwidth > HIGHEST - LOWEST:
        doubts.append("one of its flanks lies outside the tested bands")
    if amplitude > 4 - 1e-3:
        doubts.append("the peak is at its bound")
    return CriticalBand(
        thresholds=tuple(int(t) for t in values),
        bandwidth=float(bandwidth),
        center_frequency=float(center(mu, size)),
        peak_noise_sensitivity=float(np.exp2(amplitude - 4)),
        state=State.DEGENERATE if nothing else State.DOUBTFUL if doubts else State.OK,
        note="; ".join([nothing, *doubts] if nothing else doubts) or None,
    )


def gaussian(f: ArrayLike, amplitude: Any, mu: Any, sigma: Any) -> NDArray[np.float64]:
    """The bell amplitude * exp(-(f - mu)^2 / (2 sigma^2)); the sign of sigma does not matter."""
    return np.asarray(amplitude * np.exp(-((np.asarray(f) - mu) ** 2) / (2 * sigma**2)), dtype=np.float64)


def _least_squares(thresholds: NDArray[np.float64]) -> tuple[float, float, float] | None:
    """(A, mu, sigma) from the published start and bounds, or None where no optimum is found."""
    bounds = ([0, -np.inf, -np.inf], [4, np.inf, np.inf])
    with warnings.catch_warnings():
        # The covariance is not used; that it cannot be estimated is one more face of a degenerate fit.
        warnings.simplefilter("ignore", OptimizeWarning)
        try:
            (amplitude, mu, sigma), _ = curve_fit(
                gaussian, np.array(FREQUENCIES, dtype=np.float64), thresholds, p0=(1, 0, 1), bounds=bounds
            )
        except RuntimeError:  # evaluations are used up
            return None
    return float(amplitude), float(mu), float(sigma)
