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

Intervals are from 20 independent images on. Those of corrected numbers are intervals of differences
(`statistics.shares`), with psi of `statistics.floor`. All others are percentiles over resamples
(`statistics.resampling`). Where fewer than 10 clusters make up the variance, a mean has the interval of a quotient of
two shares (`statistics.shares`), and spectral_bias that of the share of the right answers that are right under
high-passes.

Source: Gavrikov & Keuper 2024 for the two means.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.protocol import BIAS_CUTOFFS
from ..statistics import Floats, Mask
from ..statistics.resampling import FEWEST_CLUSTERS, RESAMPLES, count_right, interval
from ..statistics.shares import FEWEST_APART, paired_interval, quotient, share_of
from ..statistics.wilson import NO_SPREAD, contributing, share_of_sums
from .base import (
    Available,
    Display,
    Ends,
    Estimate,
    Measure,
    PublishedFigure,
    Scope,
    State,
    Words,
    nothing,
    too_few_images,
    under,
)
from .outcomes import CellOutcomes, Outcomes

PROBES = {"low_frequency_bias": "lowpass", "high_frequency_bias": "highpass"}
"""Mean of ratios -> the probe whose conditions it is over."""
SHARE = "spectral_bias"
FEW_APART = "too few answers are right or differ for an interval"
"""Why an estimate has no interval where resamples do not show the spread of its value, or clean accuracy may be 0."""
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


def spectral_estimates(outcomes: Outcomes, above_floor: bool = False) -> dict[str, Estimate]:
    """The biases for which the conditions are there, with an interval over images where they have a value.

    `above_floor` takes accuracies above their floors.
    """
    estimates = {name: _mean_ratio(name, outcomes) for name in _means(outcomes)}
    if len(estimates) == len(PROBES):
        estimates[SHARE] = _share(estimates)
    if above_floor:
        estimates |= _corrected(outcomes, [name for name, estimate in estimates.items() if np.isfinite(estimate.value)])
    else:
        estimates |= _with_intervals(outcomes, estimates)
    estimates |= _at_floor(outcomes, estimates)
    if above_floor:
        return {f"{CORRECTED}{name}": estimate for name, estimate in estimates.items()}
    if outcomes.available.has_floor and outcomes.floor:
        guess = "a blind guess is right in" if outcomes.subject.labelled else "unrelated answers agree on"
        note = f"{guess} 1 of {1 / outcomes.floor:.3g} images; {CORRECTED}{{}} is without it"
        for name, estimate in estimates.items():
            if estimate.state == State.OK:
                estimates[name] = replace(estimate, state=State.DOUBTFUL, note=note.format(name))
    return estimates


def _with_intervals(outcomes: Outcomes, estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """The published biases that have a value, with their intervals, or why there is none."""
    names = [name for name in estimates if name in PROBES and not np.isnan(estimates[name].value)]
    if not names:
        return {}
    intervals = spectral_intervals(_read_hits(outcomes, names), outcomes.images.clusters, means=names)
    why = FEW_APART if intervals else too_few_images(outcomes.images.independent)
    return {
        name: replace(estimate, low=intervals[name][0], high=intervals[name][1])
        if name in intervals and np.isfinite(intervals[name]).all()
        else replace(estimate, state=State.NO_INTERVAL, note=why)
        for name, estimate in estimates.items()
        if not np.isnan(estimate.value)
    }


@dataclass(frozen=True, slots=True)
class AboveFloor:
    """A quotient of sums of accuracies above their floors."""

    value: float
    deviations: Floats
    """(clusters,): what each adds to its error."""
    total: float
    """The denominator."""


def _above_floor(outcomes: Outcomes) -> dict[str, AboveFloor]:
    """The corrected biases whose denominator is above 0."""
    means = _means(outcomes)
    answers, numbers = outcomes.answers(_cells(outcomes, means)), {}
    if answers is not None:
        for name, (part, base) in _quotients(np.eye(len(answers.hits)), means).items():
            total = float(base @ answers.above)
            if total > NO_SPREAD:
                value = float(part @ answers.above) / total
                numbers[name] = AboveFloor(value, answers.deviations(part - value * base) / total, total)
    return numbers


def _corrected(outcomes: Outcomes, names: Sequence[str]) -> dict[str, Estimate]:
    """The biases of these names above their floors."""
    why, estimates, numbers = too_few_images(outcomes.images.independent), {}, _above_floor(outcomes)
    for name in names:
        if name not in numbers:
            empty = nothing(State.UNDETERMINED, "nothing is recognized in either band")
            estimates[name] = nothing(State.AT_CHANCE, outcomes.guessed) if outcomes.guessed else empty
        elif ends := _paired(outcomes, numbers[name].value, numbers[name].deviations, numbers[name].total):
            # A share of answers that are kept cannot exceed 1.
            high = ends[1] if outcomes.subject.labelled or name == SHARE else min(1.0, ends[1])
            estimates[name] = Estimate(numbers[name].value, ends[0], high)
        else:
            estimates[name] = Estimate(numbers[name].value, state=State.NO_INTERVAL, note=why)
    return estimates


def _paired(outcomes: Outcomes, value: float, deviations: Floats, total: float) -> Ends | None:
    """The interval of a quotient of that denominator, or of a difference of two; None of too few clusters."""
    sizes = np.bincount(outcomes.images.cluster_ids).astype(np.float64)
    if len(sizes) < FEWEST_CLUSTERS:
        return None
    return paired_interval(value, deviations, 1 / len(sizes) / total, sizes)


def _at_floor(outcomes: Outcomes, estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """The estimates with a value that are made of nothing above its floor."""
    names = [name for name, estimate in estimates.items() if not np.isnan(estimate.value)]
    notes = {
        name: outcomes.guessed
        or outcomes.why_at_floor(_cells(outcomes, [name])[1:], f"under each {PROBES[name]} of the bias")
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
    hits = _read_hits(outcomes, [name])
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


def _read_hits(outcomes: Outcomes, means: Sequence[str]) -> Mask:
    """(1 + 5 a mean, n): which images are right in each cell of `_cells`."""
    return np.array([cell.hits for cell in _cells(outcomes, means)])


def spectral_differences(a: Outcomes, b: Outcomes, above_floor: bool = False) -> dict[str, Ends]:
    """Paired intervals of the biases that both have a value of."""
    if above_floor:
        numbers_a, numbers_b = _above_floor(a), _above_floor(b)
        pairs = {name: (numbers_a[name], numbers_b[name]) for name in numbers_a.keys() & numbers_b.keys()}
        differences = {
            f"{CORRECTED}{name}": _paired(
                a, in_b.value - in_a.value, in_b.deviations - in_a.deviations, min(in_a.total, in_b.total)
            )
            for name, (in_a, in_b) in pairs.items()
        }
        return {name: ends for name, ends in differences.items() if ends}
    means = [
        name
        for name in PROBES
        if all(name in _means(outcomes) and not np.isnan(_mean_ratio(name, outcomes).value) for outcomes in (a, b))
    ]
    if not means:
        return {}
    return paired_spectral_intervals(_read_hits(a, means), _read_hits(b, means), a.images.clusters, means=means)


def spectral_intervals(
    correct: NDArray[np.bool_],
    clusters: ArrayLike,
    resamples: int = RESAMPLES,
    seed: int = 0,
    means: Sequence[str] = tuple(PROBES),
) -> dict[str, tuple[float, float]]:
    """Name -> (low, high) over images; without a bias that has no value, and empty with too few independent images.

    correct: (1 + 5 a mean, n) bool, the same images in every row: clean, then for each of `means`, which have a value,
    its filter at BIAS_CUTOFFS.

    The ends are percentiles over resampled clusters. Where fewer than 10 clusters make up the variance, as where
    nothing is right under a filter, resamples do not show it: then the intervals are `quotient` of the two accuracies
    for a mean ratio, and that of a share for spectral_bias, the share of the right answers under the filters that are
    high-pass.
    """
    ids = np.unique(np.asarray(clusters), return_inverse=True)[1]
    if ids.max() + 1 < FEWEST_CLUSTERS or not correct[0].any():
        return {}
    resampled = _values(count_right(correct, ids, resamples, seed)[0], means)
    intervals: dict[str, tuple[float, float]] = {}
    for name, (part, base) in _quotients(correct, means).items():
        value, values = resampled[name][0], resampled[name][1:]
        parts, bases = (np.bincount(ids, numbers).astype(np.float64) for numbers in (part, base))
        if contributing(parts - (0 if np.isnan(value) else value) * bases) >= FEWEST_APART:
            # A resample without a right answer has no ratios; the others speak for it.
            intervals[name] = interval(values[~np.isnan(values)])
        elif name in PROBES:
            intervals[name] = quotient(share_of(part, ids), share_of(base, ids))
        elif base.any():
            low, high = share_of_sums(5 * parts, 5 * bases, widest=1.0)
            if low is not None and high is not None:
                intervals[name] = low, high
    return intervals


def paired_spectral_intervals(
    a: NDArray[np.bool_],
    b: NDArray[np.bool_],
    clusters: ArrayLike,
    resamples: int = RESAMPLES,
    seed: int = 0,
    means: Sequence[str] = tuple(PROBES),
) -> dict[str, tuple[float, float]]:
    """Name -> 95 % interval (low, high) of its value in B less that in A, over the same images in both.

    a and b: (1 + 5 a mean, n) bool as for `spectral_intervals`. The ends are percentiles of the differences in
    resamples that draw the same clusters for both. Where fewer than 10 clusters make up a difference, resamples do not
    show what others would do: there it is `paired_interval`, to first order. A bias without a value is left out; empty
    with too few independent images.
    """
    ids = np.unique(np.asarray(clusters), return_inverse=True)[1]
    count = int(ids.max()) + 1
    if count < FEWEST_CLUSTERS:
        return {}
    hit_counts, intervals = count_right(np.concatenate([a, b]), ids, resamples, seed)[0], {}
    values_a, values_b = _values(hit_counts[: len(a)], means), _values(hit_counts[len(a) :], means)
    influences_a, influences_b = _influences(a, ids, means), _influences(b, ids, means)
    for name in values_a:
        differences = values_b[name] - values_a[name]
        if np.isnan(differences[0]):
            continue
        (influence_a, total_a), (influence_b, total_b) = influences_a[name], influences_b[name]
        influence = influence_b - influence_a
        if contributing(len(ids) * influence) >= FEWEST_APART:
            intervals[name] = interval(differences[1:][~np.isnan(differences[1:])])
        else:
            intervals[name] = paired_interval(
                float(differences[0]), influence, len(ids) / count / min(total_a, total_b)
            )
    return intervals


def _influences(
    correct: NDArray[np.bool_], ids: NDArray[np.intp], means: Sequence[str]
) -> dict[str, tuple[Floats, float]]:
    """Name -> what each cluster (clusters,) adds to the error of its value, to first order; and what it is a part of.

    The latter is in images, and at least a fraction of one.
    """
    influences = {}
    for name, (part, base) in _quotients(correct, means).items():
        total = max(float(base.sum()), 1e-9)
        influences[name] = np.bincount(ids, part - part.sum() / total * base) / total, total
    return influences


def _values(hit_counts: Floats, means: Sequence[str]) -> dict[str, Floats]:
    """Name -> its values (resamples,), NaN where it has none, from right answers (1 + 5 a mean, resamples)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            name: np.where(base > 0, part / base, np.nan)
            for name, (part, base) in _quotients(hit_counts, means).items()
        }


def _quotients(hits: NDArray[Any], means: Sequence[str]) -> dict[str, tuple[Floats, Floats]]:
    """Name -> (part, whole), (m,) each, whose sums its value is the quotient of; right answers are (1 + 5 a mean, m).

    The share is left out where only one of the two means is there.
    """
    means_of_cutoffs = hits[1:].reshape(len(means), len(BIAS_CUTOFFS), -1).mean(axis=1)
    filtered = dict(zip(means, means_of_cutoffs, strict=True))
    quotients = {name: (part, np.asarray(hits[0], np.float64)) for name, part in filtered.items()}
    if filtered.keys() == PROBES.keys():
        low, high = (filtered[name] for name in PROBES)
        quotients[SHARE] = high, low + high
    return quotients


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
            ratio_to_clean=True,
        )
        yield Measure(
            name,
            Scope.GRID,
            display,
            applies=lambda available: _filters_apply(available) and (available.has_floor or not above_floor),
            needs=partial(_lacking_cutoffs, bias) if side else _lacking_means,
            estimates=estimates,
            differences=differences,
            is_bias=True,
        )


MEASURES = (*_measures(above_floor=False), *_measures(above_floor=True))
