"""Spectral bias: the accuracy that a classifier keeps on low and on high frequencies alone.

With ratio(c) = top-1 under the filter at cutoff c / clean top-1:

    low_frequency_bias  = mean of ratio(c) over low-pass  c = 0.1, 0.2, 0.3, 0.4, 0.5
    high_frequency_bias = mean of ratio(c) over high-pass c = 0.1, 0.2, 0.3, 0.4, 0.5
    spectral_bias       = high_frequency_bias / (low_frequency_bias + high_frequency_bias)

All are fractions; the third lies in [0, 1]. Without labels the ratio is that of agreement with the prediction for the
clean image. A mean needs all five cutoffs. At 224 pixels a side, low-passes of 0.1 to 0.5 keep what is below 11 to 56
cycles per image, and high-passes remove what is below 100 to 56.

Without labels, and where a model decides between fewer than 1,000 classes, the same three are also computed of

    corrected ratio(c) = (top-1 under the filter - its floor) / (clean top-1 - its floor)

as corrected_low_frequency_bias and so on, with the floors of `statistics.floor`. Comparisons, correlations, charts and
sentences take these. Without labels they are the share of answers that a model keeps, whether these were right or not.
A bias is `at_chance` where the clean accuracy, or that under its five filters together, is at its floor.

Intervals are from 20 independent images on. All are those of differences (`statistics.shares`), to first order: a
quotient p / b has the deviations (p_i - p / b b_i) / b, of the psi of `statistics.floor` or, with a floor of 0, of the
right answers less their share. Published numbers end at 0, and where they cannot exceed 1, there.

Source: Gavrikov & Keuper 2024 for the two means.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ....core.protocol import BIAS_CUTOFFS
from ...statistics import Floats
from ...statistics.chance_agreement import MatchedAnswers
from ...statistics.proportions import paired_interval
from ...statistics.resampling import FEWEST_CLUSTERS
from ...statistics.wilson import NO_SPREAD
from ..base import (
    Available,
    Display,
    Ends,
    Estimate,
    Measure,
    PublishedFigure,
    State,
    Words,
    nothing,
    too_few_images,
    under,
)
from ..predictions import CellOutcomes, Outcomes

PROBES = {"low_frequency_bias": "lowpass", "high_frequency_bias": "highpass"}
"""Mean of ratios -> the probe whose conditions it is over."""
SHARE = "spectral_bias"
CORRECTED = "corrected_"
"""The beginning of the names of numbers that are made of accuracies above their floors."""


_filters_apply = under(*PROBES.values())


def _lacking_cutoffs(name: str, available: Available) -> str | None:
    """Why a mean cannot be had of the conditions: it takes all five cutoffs, each once."""
    probe = PROBES[name]
    counts = Counter(round(condition.number("cutoff") or 0, 3) for condition in available.conditions_under(probe))
    problems = [
        f"{verb} the cutoff{'s' * (len(cutoffs) > 1)} {', '.join(f'{cutoff:g}' for cutoff in cutoffs)}{end}"
        for verb, end, cutoffs in (
            ("lacks", "", [cutoff for cutoff in BIAS_CUTOFFS if not counts[cutoff]]),
            ("has", " more than once", [cutoff for cutoff in BIAS_CUTOFFS if counts[cutoff] > 1]),
        )
        if cutoffs
    ]
    return f"{probe} {' and '.join(problems)}" if problems else None


def _lacking_means(available: Available) -> str | None:
    lacking = [name for name in PROBES if _lacking_cutoffs(name, available)]
    return f"it is made of {' and '.join(lacking)}" if lacking else None


@dataclass(frozen=True, slots=True)
class Quotient:
    """A quotient of sums of accuracies, or of what of them is above their floors; or the difference of two."""

    value: float
    deviations: Floats
    """(clusters,): what each adds to its error."""
    total: float
    """The denominator, of a difference the smaller one."""
    sizes: Floats
    """(clusters,): images of each."""

    def ends(self, reach: float = math.inf) -> Ends | None:
        """The interval, within [-reach, reach]; None of too few clusters."""
        count = len(self.sizes)
        if count < FEWEST_CLUSTERS:
            return None
        return paired_interval(self.value, self.deviations, 1 / count / self.total, self.sizes, reach=reach)

    def __sub__(self, other: Quotient) -> Quotient:
        """The difference from a quotient over the same images."""
        return Quotient(
            self.value - other.value,
            self.deviations - other.deviations,
            min(self.total, other.total),
            self.sizes,
        )


def quotients(answers: MatchedAnswers, means: Sequence[str] = tuple(PROBES)) -> dict[str, Quotient]:
    """The biases whose denominator is above 0.

    `answers` are to the clean images, then under the filter of each of `means` at BIAS_CUTOFFS. The share is left out
    where only one of the two means is there.
    """
    clean, *conditions = np.eye(len(answers.hits))
    filtered = dict(zip(means, np.reshape(conditions, (len(means), len(BIAS_CUTOFFS), -1)).mean(axis=1), strict=True))
    weights = {name: (part, clean) for name, part in filtered.items()}
    if filtered.keys() == PROBES.keys():
        low, high = (filtered[name] for name in PROBES)
        weights[SHARE] = high, low + high
    numbers = {}
    for name, (part, base) in weights.items():
        total = float(base @ answers.above)
        if total > NO_SPREAD:
            value = float(part @ answers.above) / total
            numbers[name] = Quotient(value, answers.deviations(part - value * base) / total, total, answers.sizes)
    return numbers


def _read_quotients(outcomes: Outcomes, above_floor: bool) -> dict[str, Quotient]:
    """The biases whose denominator is above 0, of whole accuracies or of what is above their floors."""
    means = _means(outcomes)
    if outcomes.clean is None or not means:
        return {}
    answers = outcomes.answers(_cells(outcomes, means))
    if answers is None:
        return {}
    return quotients(answers if above_floor else replace(answers, reference=None, chance=0.0), means)


def _most(name: str, outcomes: Outcomes, above_floor: bool) -> float:
    """The number that a bias cannot exceed: 1 for a share of right answers, or of answers that are kept."""
    is_share = not above_floor if name == SHARE else not outcomes.subject.labelled
    return 1.0 if is_share else math.inf


def spectral_estimates(outcomes: Outcomes, above_floor: bool = False) -> dict[str, Estimate]:
    """The biases for which the conditions are there, with an interval over images where they have a value.

    `above_floor` takes accuracies above their floors.
    """
    estimates = {name: _mean_ratio(name, outcomes) for name in _means(outcomes)}
    if len(estimates) == len(PROBES):
        estimates[SHARE] = _share(estimates)
    estimates |= _with_intervals(outcomes, estimates, above_floor)
    estimates |= _at_floor(outcomes, estimates)
    if above_floor:
        return {f"{CORRECTED}{name}": estimate for name, estimate in estimates.items()}
    if outcomes.available.has_floor and outcomes.floor:
        guess = "a blind guess is right in" if outcomes.subject.labelled else "unrelated answers agree on"
        images = 1 / outcomes.floor
        note = f"{guess} 1 of {round(images, 1 if images < 10 else 0):g} images; {CORRECTED}{{}} is without it"
        for name, estimate in estimates.items():
            if estimate.state == State.OK:
                estimates[name] = replace(estimate, state=State.DOUBTFUL, note=note.format(name))
    return estimates


def _with_intervals(outcomes: Outcomes, estimates: Mapping[str, Estimate], above_floor: bool) -> dict[str, Estimate]:
    """The biases that have a published value, with their intervals or why there is none."""
    numbers, with_intervals = _read_quotients(outcomes, above_floor), {}
    for name, estimate in estimates.items():
        if np.isnan(estimate.value):
            continue
        if name not in numbers:
            empty = nothing(State.UNDETERMINED, "nothing is recognized in either band")
            with_intervals[name] = nothing(State.AT_CHANCE, outcomes.guessed) if outcomes.guessed else empty
            continue
        value = numbers[name].value if above_floor else estimate.value
        if ends := numbers[name].ends():
            low = ends[0] if above_floor else max(0.0, ends[0])
            with_intervals[name] = Estimate(value, low, min(_most(name, outcomes, above_floor), ends[1]))
        else:
            why = too_few_images(outcomes.images.independent)
            with_intervals[name] = Estimate(value, state=State.NO_INTERVAL, note=why)
    return with_intervals


def _at_floor(outcomes: Outcomes, estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """The estimates with a value that are made of nothing above its floor."""
    names = [name for name, estimate in estimates.items() if not np.isnan(estimate.value)]
    notes = {
        name: outcomes.guessed
        or outcomes.why_at_floor(
            _cells(outcomes, [name])[1:], f"as the mean over the {PROBES[name]} cutoffs of the bias"
        )
        for name in names
        if name in PROBES
    }
    if SHARE in names and all(notes.values()):
        notes[SHARE] = "; ".join(dict.fromkeys(filter(None, notes.values())))
    return {name: replace(estimates[name], state=State.AT_CHANCE, note=note) for name, note in notes.items() if note}


def _means(outcomes: Outcomes) -> list[str]:
    return [name for name in PROBES if not _lacking_cutoffs(name, outcomes.available)]


def _mean_ratio(name: str, outcomes: Outcomes) -> Estimate:
    if outcomes.clean is None or outcomes.clean.hits is None or not outcomes.clean.hits.any():
        without = ", ".join(f"{cutoff} has no ratio to clean accuracy" for cutoff in BIAS_CUTOFFS)
        return nothing(State.UNDETERMINED, f"{PROBES[name]} cutoff {without}")
    hits = np.array([cell.hits for cell in _cells(outcomes, [name])])
    shares = hits.sum(axis=1) / hits.shape[1]
    return Estimate(math.fsum(shares[1:] / shares[0]) / len(BIAS_CUTOFFS))


def _share(means: Mapping[str, Estimate]) -> Estimate:
    low, high = (means[name].value for name in PROBES)
    if np.isnan(low) or np.isnan(high):
        notes = [note for name in PROBES if (note := means[name].note)]
        return nothing(State.UNDETERMINED, "; ".join(notes))
    if low + high <= 0:
        return nothing(State.UNDETERMINED, "nothing is recognized in either band")
    return Estimate(high / (low + high))


def _cells(outcomes: Outcomes, means: Sequence[str]) -> list[CellOutcomes]:
    """The clean cell, if there is one, then those of each mean's filter at BIAS_CUTOFFS."""
    cells = [outcomes.clean] if outcomes.clean else []
    for name in means:
        conditions = outcomes.cells_under(PROBES[name]).items()
        by_cutoff = {round(condition.number("cutoff") or 0, 3): cell for condition, cell in conditions}
        cells += [by_cutoff[cutoff] for cutoff in BIAS_CUTOFFS]
    return cells


def spectral_differences(a: Outcomes, b: Outcomes, above_floor: bool = False) -> dict[str, Ends]:
    """Paired intervals of the biases that both have a value of."""
    quotients_a, quotients_b = (_read_quotients(outcomes, above_floor) for outcomes in (a, b))
    intervals = {}
    for name in quotients_a.keys() & quotients_b.keys():
        difference = quotients_b[name] - quotients_a[name]
        if ends := difference.ends(_most(name, a, above_floor)):
            intervals[f"{CORRECTED}{name}" if above_floor else name] = ends
    return intervals


SIDES = dict(zip(PROBES, ("low", "high"), strict=True))
TITLES = {name: f"{side}-frequency bias" for name, side in SIDES.items()} | {SHARE: "spectral bias"}


def _measures(above_floor: bool) -> Iterator[Measure[Outcomes]]:
    # The measures have the same function, so that it is called once.
    estimates = partial(spectral_estimates, above_floor=above_floor)
    differences = partial(spectral_differences, above_floor=above_floor)
    for bias, title in TITLES.items():
        name, side = f"{CORRECTED}{bias}" if above_floor else bias, SIDES.get(bias)
        on_side = f"on {side} frequencies"
        columns = [f"metric/bandpass/{side[0].upper()}FC/{cutoff}" for cutoff in BIAS_CUTOFFS] if side else ()
        display = Display(
            f"{title} above chance" if above_floor else title,
            quantity=name,
            words=Words(change=("relies", on_side), agreement=("keeps", f"of its answers {on_side}"))
            if side
            else Words(),
            published=PublishedFigure(tuple(columns)) if columns and not above_floor else None,
            stands_for=bias if above_floor else "",
            tie_to_clean="a ratio to clean accuracy",
        )
        yield Measure(
            name,
            display,
            applies=lambda available: _filters_apply(available) and (available.has_floor or not above_floor),
            needs=partial(_lacking_cutoffs, bias) if side else _lacking_means,
            estimates=estimates,
            differences=differences,
            is_bias=True,
        )


MEASURES = (*_measures(above_floor=False), *_measures(above_floor=True))
