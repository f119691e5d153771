"""Critical band of a model by the published estimator, with integer thresholds.

Accuracy is measured on images with octave-band noise of seven center frequencies and five noise levels, including no
noise. The center frequency of octave index f = 0..6 is 1.75 * 2^f cycles/image for images of 224 pixels a side; for
images of `size` pixels, it is size / 224 times as high. The threshold of a frequency is the number of steps by which
the noise must be reduced from its highest level until more than half of the images are classified correctly. A Gaussian
fitted to the seven thresholds is called the channel.

    t_f       = smallest j in 0..4 with accuracy(sd_(4-j), f) > 50 %, else 4;  sd = 0, 0.02, 0.04, 0.08, 0.16
    t_f       ~ A exp(-(f - mu)^2 / (2 sigma^2)),  least squares from (1, 0, 1), 0 <= A <= 4
    bandwidth              = 2 sqrt(ln 4) |sigma|    octaves, full width at half maximum
    center_frequency       = 1.75 * 2^mu size / 224  cycles/image
    peak_noise_sensitivity = 2^(A - 4)               from 1/16 (tolerates the strongest noise) to 1 (tolerates none)

critical_threshold_0 … critical_threshold_6 are the thresholds t_f. They are computed from accuracies divided by the
accuracy at sd = 0, in percent. Metrics whose name ends in `_raw`, and the thresholds of human observers, are computed
from accuracies without this normalization.

Sources: Subramanian et al. 2023 for the thresholds and the fit, Gavrikov & Keuper 2024 for the three numbers.

The estimates have these states:

    at_chance    accuracy without noise is at most twice the chance level
    degenerate   all thresholds are equal, no Gaussian can be fitted, its center lies outside f = -1/2 to 6 1/2, or it
                 falls to half of its maximum at neither end of the tested bands
    doubtful     it falls to half of its maximum at one end only, and its bandwidth exceeds the seven tested octaves; or
                 A is at its upper bound of 4

For continuous thresholds with confidence intervals, see `psychometric`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ....core.protocol import FREQUENCIES, LOWEST_FREQUENCY, NOISE_SDS, SIZE
from ....core.records import Condition
from ...statistics import Floats
from ..base import MEANINGLESS, Available, Display, Estimate, Measure, PublishedFigure, State, nothing, under, with_unit
from ..predictions import CellOutcomes, Outcomes

PROBE = "critical_band"


@dataclass(frozen=True, slots=True)
class ChannelNumber:
    """Describes one of the three numbers that characterize a channel."""

    title: str
    unit: str
    column: str
    """Suffix of its column in the published results."""


CHANNEL: Mapping[str, ChannelNumber] = {
    "bandwidth": ChannelNumber("bandwidth", "octaves", "bw_norm"),
    "center_frequency": ChannelNumber("centre frequency", "cycles per image", "cf_norm"),
    "peak_noise_sensitivity": ChannelNumber("peak noise sensitivity", "share", "pns_norm"),
}
"""Name in the fit -> description of the number."""
NUMBERS = {number: f"critical_{number}" for number in CHANNEL}
"""Name in the fit -> metric. As in the published study, it is computed from the normalized thresholds."""
HUMAN_THRESHOLDS = (0, 0, 0, 0, 2, 2, 0)
"""Human thresholds from the mean accuracies of 14 observers (Subramanian et al. 2023), not normalized."""
FULL_WIDTH = 2 * np.sqrt(np.log(4))
"""Full width at half maximum of a Gaussian, in standard deviations: 2 sqrt(ln 4) = 2 sqrt(2 ln 2)."""
LOWEST_OCTAVE = FREQUENCIES[0] - 0.5
"""Lower edge of the lowest noise band, in octaves. Each band is one octave wide."""
HIGHEST_OCTAVE = FREQUENCIES[-1] + 0.5
"""Upper edge of the highest noise band, in octaves."""


Setting = tuple[float | None, float | None]
"""noise_sd and octave index of a condition. The octave index is None if noise_sd is 0."""


def settings_of(available: Available) -> list[Setting]:
    """Return noise_sd and octave index of the critical_band conditions: without noise first, then octave by octave."""
    return sorted(map(_setting, available.conditions_under(PROBE)), key=_place)


def band_cells(outcomes: Outcomes) -> dict[Setting, CellOutcomes]:
    """Return the critical_band cells in the order of `settings_of`."""
    cells = {_setting(condition): cell for condition, cell in outcomes.cells_under(PROBE).items()}
    return {setting: cells[setting] for setting in sorted(cells, key=_place)}


def _setting(condition: Condition) -> Setting:
    return condition.number("noise_sd"), condition.number("frequency")


def _place(setting: Setting) -> tuple[float, float]:
    noise_sd, octave = setting
    return -1.0 if octave is None else octave, noise_sd or 0.0


def _lacking_conditions(available: Available) -> str | None:
    """Return why the conditions do not include each of the 29 published ones exactly once, or None if they do."""
    counts = Counter(settings_of(available))
    published: set[Setting] = {(0.0, None), *((sd, f) for sd in NOISE_SDS[1:] for f in FREQUENCIES)}
    if missing := len(published - counts.keys()):
        design = f"the {len(published)} conditions that the published estimator takes"
        return f"{PROBE} lacks {missing} of {design}; leave out noise_sd and frequency"
    doubled = sum(counts[setting] > 1 for setting in published)
    return f"{PROBE} has {doubled} of the {len(published)} published conditions more than once" if doubled else None


def integer_thresholds(accuracy: ArrayLike) -> tuple[int, ...]:
    """Compute the thresholds t_0..t_6 from accuracies in percent (5, 7): noise_sd ascending from 0 by frequency."""
    passes = np.asarray(accuracy, dtype=np.float64)[::-1] > 50  # row j has the noise_sd of index 4 - j
    first = np.where(passes.any(axis=0), passes.argmax(axis=0), len(NOISE_SDS) - 1)
    return tuple(int(j) for j in first)


def normalized_thresholds(accuracy: ArrayLike) -> tuple[int, ...]:
    """Compute the thresholds from accuracies divided by the accuracy at noise_sd 0, which must be above 0, times 100.

    These are the published `_norm` thresholds. The study does not state whether the reference is the accuracy at
    noise_sd 0, as here, or that on the clean color images. noise_sd 0 is a single condition that is repeated in all
    columns of `accuracy`. If the columns differ, the reference is their mean.

    Args:
        accuracy: Accuracies in percent, (5, 7): noise_sd ascending from 0 by frequency.
    """
    percent = np.asarray(accuracy, dtype=np.float64)
    return integer_thresholds(percent / float(percent[0].mean()) * 100)


def center(octave: Any, size: int) -> NDArray[np.float64]:
    """Convert octave indices to center frequencies in cycles/image, for images of `size` pixels a side."""
    with np.errstate(over="ignore"):  # the center of a nearly flat Gaussian is arbitrary and may overflow to infinity
        return np.asarray(LOWEST_FREQUENCY * size / SIZE * np.exp2(octave), dtype=np.float64)


def fit_band(thresholds: ArrayLike, size: int = SIZE) -> dict[str, Estimate]:
    """Fit the Gaussian to thresholds t_0..t_6 and compute its bandwidth, center frequency and peak noise sensitivity.

    The state of the estimates is `degenerate` if the fit is meaningless, and `doubtful` if it extends beyond the tested
    bands or noise levels.

    Args:
        thresholds: t_0..t_6, each from 0 to 4.
        size: Pixels a side of the images, for the center frequency.
    """
    values = np.asarray(thresholds, dtype=np.float64)
    fit = _least_squares(tuple(values.tolist()))
    amplitude, mu, sigma = (np.nan, np.nan, np.nan) if fit is None else fit
    bandwidth = FULL_WIDTH * abs(sigma)
    meaningless, doubts = None, []
    if np.ptp(values) == 0:
        meaningless = "all thresholds are equal"
    elif fit is None:
        meaningless = "no Gaussian fits the thresholds"
    elif not LOWEST_OCTAVE <= mu <= HIGHEST_OCTAVE:
        meaningless = "the centre lies outside the tested bands"
    elif mu - bandwidth / 2 < LOWEST_OCTAVE and mu + bandwidth / 2 > HIGHEST_OCTAVE:
        meaningless = "the Gaussian is wider than the tested range"
    elif bandwidth > HIGHEST_OCTAVE - LOWEST_OCTAVE:
        doubts.append("one of its flanks lies outside the tested bands")
    if amplitude > 4 - 1e-3:
        doubts.append("the peak is at its bound")
    state = State.DEGENERATE if meaningless else State.DOUBTFUL if doubts else State.OK
    note = "; ".join([meaningless, *doubts] if meaningless else doubts) or None
    numbers = map(float, channel_numbers(np.array([amplitude, mu, abs(sigma)]), size))
    return {
        name: Estimate(number if np.isfinite(number) else np.nan, state=state, note=note)
        for name, number in zip(CHANNEL, numbers, strict=True)
    }


def channel_numbers(bells: Floats, size: int) -> tuple[Floats, Floats, Floats]:
    """Compute the numbers of CHANNEL from Gaussians (3, …) with the rows A, mu and sigma. Each result is (…)."""
    amplitude, mu, sigma = bells
    return FULL_WIDTH * sigma, center(mu, size), np.exp2(amplitude - 4)


def gaussian(f: ArrayLike, amplitude: Any, mu: Any, sigma: Any) -> NDArray[np.float64]:
    """Return amplitude * exp(-(f - mu)^2 / (2 sigma^2)). The sign of sigma does not matter."""
    return np.asarray(amplitude * np.exp(-((np.asarray(f) - mu) ** 2) / (2 * sigma**2)), dtype=np.float64)


@lru_cache(maxsize=4096)  # a fit takes 10 ms, and many models have the same seven integers
def _least_squares(thresholds: tuple[float, ...]) -> tuple[float, float, float] | None:
    """Return (A, mu, sigma) with the published starting values and bounds, or None if the fit does not converge."""
    # The import takes 0.2 s. Every run imports this module to check which metrics it can compute, and should not wait.
    from scipy.optimize import least_squares

    octaves, values = np.array(FREQUENCIES, dtype=np.float64), np.array(thresholds)
    bounds = ([0, -np.inf, -np.inf], [4, np.inf, np.inf])
    fit = least_squares(lambda parameters: gaussian(octaves, *parameters) - values, (1.0, 0.0, 1.0), bounds=bounds)
    if not fit.success:  # the maximum number of evaluations was reached
        return None
    amplitude, mu, sigma = fit.x
    return float(amplitude), float(mu), float(sigma)


# Metrics


def band_estimates(outcomes: Outcomes) -> dict[str, Estimate]:
    """Compute the published numbers and thresholds, from normalized accuracies and without normalization (NAME_raw)."""
    percent = {
        setting: 100 * (hits.sum() / len(hits))
        for setting, cell in band_cells(outcomes).items()
        if (hits := cell.hits) is not None
    }
    if not percent:
        return dict.fromkeys(NUMBERS.values(), nothing(State.MISSING, "no clean prediction to agree with"))
    # Accuracies in percent, (5, 7): noise_sd by frequency.
    accuracy = np.array([[percent[sd, f if sd else None] for f in FREQUENCIES] for sd in NOISE_SDS], dtype=np.float64)
    size = outcomes.subject.size
    if accuracy[0, 0] > 0:
        estimates = dict(_band_numbers(normalized_thresholds(accuracy), size, ""))
    else:
        estimates = dict.fromkeys(NUMBERS.values(), nothing(State.UNDETERMINED, "nothing is right without noise"))
    estimates |= dict(_band_numbers(integer_thresholds(accuracy), size, "_raw"))
    why = at_chance(accuracy[0, 0] / 100, outcomes.floor)
    if why is None:
        return estimates
    return {
        name: estimate if estimate.state in MEANINGLESS else replace(estimate, state=State.AT_CHANCE, note=why)
        for name, estimate in estimates.items()
    }


def at_chance(reference: float, floor: float) -> str | None:
    """Return a note if the accuracy without noise is at most twice the chance level, or None if it is higher.

    A threshold is the noise at which half of this accuracy remains, which must be above the chance level.
    """
    if not floor or reference > 2 * floor:
        return None
    return f"{reference:.3g} without noise is no more than twice what answers at random reach, {floor:.3g}"


def _band_numbers(thresholds: Sequence[int], size: int, suffix: str) -> Iterator[tuple[str, Estimate]]:
    """Yield the three numbers of the channel and the seven thresholds that they are computed from."""
    for name, estimate in fit_band(thresholds, size).items():
        yield f"{NUMBERS[name]}{suffix}", estimate
    for frequency, steps in zip(FREQUENCIES, thresholds, strict=True):
        yield f"critical_threshold_{frequency}{suffix}", Estimate(float(steps))


def people_estimates() -> dict[str, Estimate]:
    """Compute the human channel with the published estimator. Human accuracies are not normalized (NAME_raw)."""
    return dict(_band_numbers(HUMAN_THRESHOLDS, SIZE, "_raw"))


def _measures(
    suffix: str, words: str, people: Callable[[], Mapping[str, Estimate]] | None
) -> Iterator[Measure[Outcomes]]:
    measure = partial(
        Measure,
        applies=under(PROBE),
        needs=_lacking_conditions,
        estimates=band_estimates,
        people=people,
    )
    make_display = partial(Display, group="critical band", estimator="published")
    for name, number in CHANNEL.items():
        # Charts have little space for the titles of these metrics.
        title = f"{'critical ' if name == 'bandwidth' else ''}{number.title}{words}"
        if suffix:
            yield measure(f"{NUMBERS[name]}{suffix}", display=make_display(title, number.unit))
            continue
        display = make_display(
            title,
            number.unit,
            quantity=name,
            panel=with_unit(number.title, number.unit),
            published=PublishedFigure((f"metric/criticalband/{number.column}",)),
        )
        yield measure(NUMBERS[name], display=display, is_bias=True)
    for frequency in FREQUENCIES:
        title = f"critical threshold of octave {frequency}{words}"
        yield measure(f"critical_threshold_{frequency}{suffix}", display=make_display(title, "steps"))


MEASURES: Sequence[Measure[Outcomes]] = (
    *_measures("", "", None),
    *_measures("_raw", ", accuracies not normalized", people_estimates),
)
