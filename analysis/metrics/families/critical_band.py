"""The critical band by the published estimator.

Accuracy is measured under octave-band noise of seven centre frequencies (octave index f = 0..6), 1.75 * 2^f cycles per
image of 224 pixels a side (at another size, size / 224 times that), and five strengths. A threshold is the number of
steps by which the noise must be weakened until more than half of the images are right; the bell through the seven
thresholds is the channel.

    t_f       = smallest j in 0..4 with accuracy(sd_(4-j), f) > 50 %, else 4;  sd = 0, 0.02, 0.04, 0.08, 0.16
    t_f       ~ A exp(-(f - mu)^2 / (2 sigma^2)),  least squares from (1, 0, 1), 0 <= A <= 4
    bandwidth              = 2 sqrt(ln 4) |sigma|    octaves, full width at half maximum
    center_frequency       = 1.75 * 2^mu size / 224  cycles per image
    peak_noise_sensitivity = 2^(A - 4)               from 1/16 (bears the strongest noise) to 1 (bears none)

Accuracies are relative to the one at sd 0, times 100; an option takes them relative to the clean images in colour;
names that end in `_raw`, and thresholds of people, are without a reference. critical_threshold_0 … critical_threshold_6
are the thresholds.

Sources: Subramanian et al. 2023 (thresholds, fit), Gavrikov & Keuper 2024 (these three numbers).

    at_chance    no more than twice as many images are right without noise as by blind guesses
    degenerate   all thresholds are equal, no Gaussian fits, its centre lies outside f = -1/2 to 6 1/2, or it has fallen
                 to half at neither end of the tested bands
    doubtful     it has at one end, and is wider than these seven octaves; or its peak is at the bound of 4

`psychometric` has continuous thresholds with intervals.
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
    """A number that a channel is described by."""

    title: str
    unit: str
    column: str
    """The end of the name of its column in the published results."""


CHANNEL: Mapping[str, ChannelNumber] = {
    "bandwidth": ChannelNumber("bandwidth", "octaves", "bw_norm"),
    "center_frequency": ChannelNumber("centre frequency", "cycles per image", "cf_norm"),
    "peak_noise_sensitivity": ChannelNumber("peak noise sensitivity", "share", "pns_norm"),
}
"""Name in the fit -> the number."""
NUMBERS = {number: f"critical_{number}" for number in CHANNEL}
"""Name in the fit -> the measure: the study's three numbers, which it takes from the normalized thresholds."""
HUMAN_THRESHOLDS = (0, 0, 0, 0, 2, 2, 0)
"""Thresholds of people, from the mean of the accuracies of 14 observers (Subramanian et al. 2023), not normalized."""
FULL_WIDTH = 2 * np.sqrt(np.log(4))
"""Full width at half maximum of a Gaussian, in standard deviations: 2 sqrt(ln 4) = 2 sqrt(2 ln 2)."""
LOWEST_OCTAVE = FREQUENCIES[0] - 0.5
"""Octave at which the lowest band of noise begins; each is one octave wide."""
HIGHEST_OCTAVE = FREQUENCIES[-1] + 0.5
"""Octave at which the highest band of noise ends."""


Setting = tuple[float | None, float | None]
"""noise_sd and octave index of a condition; no octave where noise_sd is 0."""


def settings_of(available: Available) -> list[Setting]:
    """noise_sd and octave of the conditions of critical_band: without noise first, then octave by octave."""
    return sorted(map(_setting, available.conditions_under(PROBE)), key=_place)


def band_cells(outcomes: Outcomes) -> dict[Setting, CellOutcomes]:
    """The cells of critical_band in the order of `settings_of`."""
    cells = {_setting(condition): cell for condition, cell in outcomes.cells_under(PROBE).items()}
    return {setting: cells[setting] for setting in sorted(cells, key=_place)}


def _setting(condition: Condition) -> Setting:
    return condition.number("noise_sd"), condition.number("frequency")


def _place(setting: Setting) -> tuple[float, float]:
    noise_sd, octave = setting
    return -1.0 if octave is None else octave, noise_sd or 0.0


def _lacking_conditions(available: Available) -> str | None:
    """Why the published 29 are not among the conditions, each once; None where they are."""
    counts = Counter(settings_of(available))
    published: set[Setting] = {(0.0, None), *((sd, f) for sd in NOISE_SDS[1:] for f in FREQUENCIES)}
    if missing := len(published - counts.keys()):
        design = f"the {len(published)} conditions that the published estimator takes"
        return f"{PROBE} lacks {missing} of {design}; leave out noise_sd and frequency"
    doubled = sum(counts[setting] > 1 for setting in published)
    return f"{PROBE} has {doubled} of the {len(published)} published conditions more than once" if doubled else None


def integer_thresholds(accuracy: ArrayLike) -> tuple[int, ...]:
    """Thresholds t_0..t_6 from accuracies in percent, shape (5, 7): rows by noise_sd ascending from 0, columns by f."""
    passes = np.asarray(accuracy, dtype=np.float64)[::-1] > 50  # row j: noise_sd of index 4 - j
    first = np.where(passes.any(axis=0), passes.argmax(axis=0), len(NOISE_SDS) - 1)
    return tuple(int(j) for j in first)


def normalized_thresholds(accuracy: ArrayLike) -> tuple[int, ...]:
    """The `_norm` thresholds: of accuracies relative to the one at noise_sd 0, which is above 0, times 100.

    The study does not say whether it took that or the clean accuracy in colour. Noise_sd 0 is one condition, repeated
    over the columns of `accuracy` in percent; should the columns differ, their mean is the reference.
    """
    percent = np.asarray(accuracy, dtype=np.float64)
    return integer_thresholds(percent / float(percent[0].mean()) * 100)


def center(octave: Any, size: int) -> NDArray[np.float64]:
    """Cycles per image at an octave, of images of `size` pixels a side."""
    with np.errstate(over="ignore"):  # a flat bell has its centre anywhere, 1e400 included
        return np.asarray(LOWEST_FREQUENCY * size / SIZE * np.exp2(octave), dtype=np.float64)


def fit_band(thresholds: ArrayLike, size: int = SIZE) -> dict[str, Estimate]:
    """The numbers of CHANNEL, for images of `size` pixels a side, of the Gaussian through t_0..t_6, from 0 to 4.

    The state is degenerate where they mean nothing, doubtful where they go beyond what was tested.
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
    """The three numbers of CHANNEL of bells (3, …) of A, mu and sigma, (…) each."""
    amplitude, mu, sigma = bells
    return FULL_WIDTH * sigma, center(mu, size), np.exp2(amplitude - 4)


def gaussian(f: ArrayLike, amplitude: Any, mu: Any, sigma: Any) -> NDArray[np.float64]:
    """The bell amplitude * exp(-(f - mu)^2 / (2 sigma^2)); the sign of sigma does not matter."""
    return np.asarray(amplitude * np.exp(-((np.asarray(f) - mu) ** 2) / (2 * sigma**2)), dtype=np.float64)


@lru_cache(maxsize=4096)  # many models have the same seven integers, and a fit takes 10 ms
def _least_squares(thresholds: tuple[float, ...]) -> tuple[float, float, float] | None:
    """(A, mu, sigma) from the published start and bounds, or None where no optimum is found."""
    from scipy.optimize import least_squares  # a fifth of a second, which every run would take to say what it lacks

    octaves, values = np.array(FREQUENCIES, dtype=np.float64), np.array(thresholds)
    bounds = ([0, -np.inf, -np.inf], [4, np.inf, np.inf])
    fit = least_squares(lambda parameters: gaussian(octaves, *parameters) - values, (1.0, 0.0, 1.0), bounds=bounds)
    if not fit.success:  # evaluations are used up
        return None
    amplitude, mu, sigma = fit.x
    return float(amplitude), float(mu), float(sigma)


# The measures


def band_estimates(outcomes: Outcomes) -> dict[str, Estimate]:
    """The published numbers and thresholds, of normalized accuracies and (as NAME_raw) of accuracies as they are."""
    percent = {
        setting: 100 * (hits.sum() / len(hits))
        for setting, cell in band_cells(outcomes).items()
        if (hits := cell.hits) is not None
    }
    if not percent:
        return dict.fromkeys(NUMBERS.values(), nothing(State.MISSING, "no clean prediction to agree with"))
    # (5, 7) percent: noise_sd by frequency.
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
    """Why half of what is right without noise is no more than what answers at random reach; None where it is more."""
    if not floor or reference > 2 * floor:
        return None
    return f"{reference:.3g} without noise is no more than twice what answers at random reach, {floor:.3g}"


def _band_numbers(thresholds: Sequence[int], size: int, suffix: str) -> Iterator[tuple[str, Estimate]]:
    """The three numbers, and the seven thresholds that they come of."""
    for name, estimate in fit_band(thresholds, size).items():
        yield f"{NUMBERS[name]}{suffix}", estimate
    for frequency, steps in zip(FREQUENCIES, thresholds, strict=True):
        yield f"critical_threshold_{frequency}{suffix}", Estimate(float(steps))


def people_estimates() -> dict[str, Estimate]:
    """The channel of people by the published estimator, which took their accuracies as they are (NAME_raw)."""
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
        # Charts have little room for the titles of these estimators.
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
