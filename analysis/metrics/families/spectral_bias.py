"""Spectral bias: the proportion of its accuracy that a model retains on low or on high frequencies only.

With ratio(c) = accuracy under the filter with cutoff parameter c / clean accuracy:

    low_frequency_bias  = mean of ratio(c) over low-pass  c = 0.1, 0.2, 0.3, 0.4, 0.5
    high_frequency_bias = mean of ratio(c) over high-pass c = 0.1, 0.2, 0.3, 0.4, 0.5
    spectral_bias       = high_frequency_bias / (low_frequency_bias + high_frequency_bias)

spectral_bias lies in [0, 1]. Each mean requires all five cutoffs. For images of 224 pixels a side, the low-pass filters
keep frequencies below 11 to 56 cycles/image, and the high-pass filters remove frequencies below 100 to 56 cycles/image.
Without labels, the ratios use the agreement with the clean predictions instead of accuracy.

Without labels, or if a model decides between fewer than 1,000 classes, guessing contributes noticeably to accuracy. The
same three metrics are then also computed from chance-corrected ratios:

    corrected ratio(c) = (accuracy under the filter - chance level) / (clean accuracy - chance level)

They are named corrected_low_frequency_bias and so on, and use the chance levels of `statistics.chance_agreement`.
Comparisons, correlations, charts and sentences use the corrected metrics where they exist. Without labels, the
corrected ratio is the proportion of predictions that the filter leaves unchanged, whether or not they are correct.

The state of a bias is `at_chance` if the clean accuracy, or the accuracy under its five filters together, is not above
its chance level.

Confidence intervals require at least 20 independent images. They are the intervals for differences in
`statistics.proportions`, by linearization (delta method): a quotient p / b has the deviations (p_i - (p / b) b_i) / b.
The deviations p_i and b_i are the psi of `statistics.chance_agreement` or, for a chance level of 0, correctness minus
accuracy. Intervals of the published metrics are clipped at 0, and at 1 if the metric cannot exceed 1.

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
"""Mean of ratios -> probe whose conditions it is computed from."""
SHARE = "spectral_bias"
CORRECTED = "corrected_"
"""Prefix of the names of chance-corrected metrics."""


_filters_apply = under(*PROBES.values())


def _lacking_cutoffs(name: str, available: Available) -> str | None:
    """Return why the conditions do not include each of the five cutoffs exactly once, or None if they do."""
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
    """Quotient of weighted sums of accuracies or chance-corrected accuracies, or the difference of two quotients."""

    value: float
    deviations: Floats
    """Contribution of each cluster to the error of the value, (clusters,)."""
    total: float
    """Denominator. For a difference, the smaller of the two."""
    sizes: Floats
    """Number of images in each cluster, (clusters,)."""

    def ends(self, reach: float = math.inf) -> Ends | None:
        """Return the confidence interval, clipped to [-reach, reach], or None if there are too few clusters."""
        count = len(self.sizes)
        if count < FEWEST_CLUSTERS:
            return None
        return paired_interval(self.value, self.deviations, 1 / count / self.total, self.sizes, reach=reach)

    def __sub__(self, other: Quotient) -> Quotient:
        """Return the paired difference from a quotient over the same images."""
        return Quotient(
            self.value - other.value,
            self.deviations - other.deviations,
            min(self.total, other.total),
            self.sizes,
        )


def quotients(answers: MatchedAnswers, means: Sequence[str] = tuple(PROBES)) -> dict[str, Quotient]:
    """Compute the biases whose denominator is positive.

    Args:
        answers: Predictions for the clean images, followed by those under the filters of each of `means` at
            BIAS_CUTOFFS.
        means: Names in PROBES. The spectral bias is computed only if both are present.

    Returns:
        Name of the bias -> quotient.
    """
    # Each bias is a quotient of two weighted sums of accuracies. The rows of the identity matrix are the weights that
    # select one condition.
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
            # First-order deviation of the quotient: (numerator - value * denominator) / denominator.
            numbers[name] = Quotient(value, answers.deviations(part - value * base) / total, total, answers.sizes)
    return numbers


def _read_quotients(outcomes: Outcomes, above_floor: bool) -> dict[str, Quotient]:
    """Compute the biases whose denominator is positive, chance-corrected if `above_floor`."""
    means = _means(outcomes)
    if outcomes.clean is None or not means:
        return {}
    answers = outcomes.answers(_cells(outcomes, means))
    if answers is None:
        return {}
    # Without a reference and with a chance level of 0, nothing is subtracted from the accuracies.
    return quotients(answers if above_floor else replace(answers, reference=None, chance=0.0), means)


def _most(name: str, outcomes: Outcomes, above_floor: bool) -> float:
    """Return the upper limit of a bias: 1 if it is a proportion of predictions, otherwise infinity."""
    is_share = not above_floor if name == SHARE else not outcomes.subject.labelled
    return 1.0 if is_share else math.inf


def spectral_estimates(outcomes: Outcomes, above_floor: bool = False) -> dict[str, Estimate]:
    """Compute the biases that the conditions allow, with confidence intervals over images.

    If `above_floor`, compute the chance-corrected metrics instead.
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
    """Return the biases that have a value, each with its interval or with the reason why it has none."""
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
    """Return the estimates of biases whose accuracies are not above the chance level, with the state `at_chance`."""
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
    """Return the clean cell, if there is one, followed by the cells of each mean's filter at BIAS_CUTOFFS."""
    cells = [outcomes.clean] if outcomes.clean else []
    for name in means:
        conditions = outcomes.cells_under(PROBES[name]).items()
        by_cutoff = {round(condition.number("cutoff") or 0, 3): cell for condition, cell in conditions}
        cells += [by_cutoff[cutoff] for cutoff in BIAS_CUTOFFS]
    return cells


def spectral_differences(a: Outcomes, b: Outcomes, above_floor: bool = False) -> dict[str, Ends]:
    """Compute the paired intervals of the biases that have a value in both runs."""
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
    # All metrics share these two function objects, so that each is called only once.
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
