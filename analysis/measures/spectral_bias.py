"""Spectral bias: the accuracy that a classifier keeps on low and on high frequencies alone.

With ratio(c) = top-1 under the filter at cutoff c / clean top-1:

    low_frequency_bias  = mean of ratio(c) over low-pass  c = 0.1, 0.2, 0.3, 0.4, 0.5
    high_frequency_bias = mean of ratio(c) over high-pass c = 0.1, 0.2, 0.3, 0.4, 0.5
    spectral_bias       = high_frequency_bias / (low_frequency_bias + high_frequency_bias)

All are fractions; the third lies in [0, 1]. Without labels the ratio is that of agreement with the prediction for the
clean image. A mean needs all five cutoffs. At 224 pixels a side, low-passes of 0.1 to 0.5 keep what is below 11 to 56
cycles per image, and high-passes remove what is below 100 to 56.

Where a model decides between fewer than 1,000 classes, the same three are also computed of

    corrected ratio(c) = (top-1 under the filter - chance) / (clean top-1 - chance)
    chance             = mean number of right classes of an image / classes

as corrected_low_frequency_bias and so on. Comparisons, correlations and charts take these. A bias is `at_chance` where
the clean accuracy, or the accuracy under each of its filters, is within chance (`statistics.shares`).

Intervals are percentiles over resamples (`statistics.resampling`), from 20 independent images on. Where fewer than 10
clusters make up the variance, a mean has the interval of a quotient of two shares (`statistics.shares`), and
spectral_bias that of the share of the right answers that are right under high-passes.

Source: Gavrikov & Keuper 2024 for the two means.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...core.protocol import BIAS_CUTOFFS
from ..statistics import Floats, Mask
from ..statistics.resampling import FEWEST_CLUSTERS, RESAMPLES, count_right, interval
from ..statistics.shares import FEWEST_APART, paired_interval, quotient, share_of, within_chance
from ..statistics.wilson import contributing, share_of_sums
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
from .outcomes import Outcomes

PROBES = {"low_frequency_bias": "lowpass", "high_frequency_bias": "highpass"}
"""Mean of ratios -> the probe whose conditions it is over."""
SHARE = "spectral_bias"
FEW_APART = "too few answers are right or differ for an interval"
"""Why an estimate has no interval where resamples do not show the spread of its value, or clean accuracy may be 0."""
CORRECTED = "corrected_"
"""The beginning of the names of numbers that are made of accuracies above chance."""


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


def spectral_estimates(outcomes: Outcomes, above_chance: bool = False) -> dict[str, Estimate]:
    """The biases for which the conditions are there, with an interval over images where they have a value.

    `above_chance` takes accuracies above that of a blind guess.
    """
    if above_chance:
        estimates = _estimates(outcomes, outcomes.subject.floor)
        return {f"{CORRECTED}{name}": estimate for name, estimate in estimates.items()}
    estimates = _estimates(outcomes, 0.0)
    if outcomes.available.few_classes:
        guess = f"a blind guess is right in 1 of {1 / outcomes.subject.floor:.3g} images"
        note = f"{guess}; {CORRECTED}{{}} is without it"
        for name, estimate in estimates.items():
            if estimate.state == State.OK:
                estimates[name] = replace(estimate, state=State.DOUBTFUL, note=note.format(name))
    return estimates


def _estimates(outcomes: Outcomes, chance: float) -> dict[str, Estimate]:
    """The biases of accuracies above `chance`, by the names of the published ones."""
    estimates = {name: _mean_ratio(name, outcomes, chance) for name in _means(outcomes)}
    names = [name for name, estimate in estimates.items() if not np.isnan(estimate.value)]
    if len(estimates) == len(PROBES):
        estimates[SHARE] = _share(estimates)
    if not names:
        return estimates
    clusters = outcomes.images.clusters
    intervals = spectral_intervals(_read_hits(outcomes, names), clusters, means=names, chance=chance)
    note = too_few_images(outcomes.images.independent)
    for name, estimate in estimates.items():
        if name in intervals and np.isfinite(intervals[name]).all():
            estimates[name] = replace(estimate, low=intervals[name][0], high=intervals[name][1])
        elif not np.isnan(estimate.value):
            why = FEW_APART if intervals else note
            estimates[name] = replace(estimate, state=State.NO_INTERVAL, note=why)
    return estimates | _at_chance(outcomes, estimates)


def _at_chance(outcomes: Outcomes, estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """The estimates with a value that are made of nothing but blind guesses."""
    chance, clusters = outcomes.subject.floor, outcomes.images.clusters
    names = [name for name, estimate in estimates.items() if not np.isnan(estimate.value)]
    notes = dict.fromkeys(names, outcomes.guessed) if outcomes.guessed else {}
    if chance and not notes:
        filtered = {name: _read_hits(outcomes, [name])[1:] for name in names if name in PROBES}
        at_chance = [
            name
            for name, hits in filtered.items()
            if all(within_chance(share_of(cell_hits, clusters), chance) for cell_hits in hits)
        ]
        blind = f"of the bias is not told from that of a blind guess, {chance:.3g}"
        notes = {name: f"accuracy under each {PROBES[name]} {blind}" for name in at_chance}
        if SHARE in names and len(at_chance) == len(PROBES):
            notes[SHARE] = f"accuracy under each filter {blind}"
    return {name: replace(estimates[name], state=State.AT_CHANCE, note=note) for name, note in notes.items()}


def _means(outcomes: Outcomes) -> list[str]:
    return [name for name in PROBES if not _lacking_cutoffs(name, outcomes.available)]


def _mean_ratio(name: str, outcomes: Outcomes, chance: float) -> Estimate:
    if outcomes.clean is None or outcomes.clean.hits is None or not outcomes.clean.hits.any():
        without = ", ".join(f"{cutoff} has no ratio to clean accuracy" for cutoff in BIAS_CUTOFFS)
        return nothing(State.UNDETERMINED, f"{PROBES[name]} cutoff {without}")
    hits = _read_hits(outcomes, [name])
    above = hits.sum(axis=1) / hits.shape[1] - chance
    if above[0] <= 0:
        return nothing(State.AT_CHANCE, f"clean accuracy is no greater than that of a blind guess, {chance:.3g}")
    return Estimate(math.fsum(above[1:] / above[0]) / len(BIAS_CUTOFFS))


def _share(means: Mapping[str, Estimate]) -> Estimate:
    low, high = (means[name].value for name in PROBES)
    if np.isnan(low) or np.isnan(high):
        notes = [note for name in PROBES if (note := means[name].note)]
        return nothing(State.UNDETERMINED, "; ".join(notes))
    if low + high <= 0:
        return nothing(State.UNDETERMINED, "nothing is recognized in either band")
    return Estimate(high / (low + high))


def _read_hits(outcomes: Outcomes, means: Sequence[str]) -> Mask:
    """(1 + 5 a mean, n): right or wrong of the clean images, then of each mean's filter at BIAS_CUTOFFS."""
    cells = [outcomes.clean]
    for name in means:
        conditions = outcomes.cells_under(PROBES[name]).items()
        by_cutoff = {round(condition.number("cutoff") or 0, 3): cell for condition, cell in conditions}
        cells += [by_cutoff[cutoff] for cutoff in BIAS_CUTOFFS]
    return np.array([cell.hits for cell in cells if cell])


def spectral_differences(a: Outcomes, b: Outcomes, above_chance: bool = False) -> dict[str, Ends]:
    """Paired intervals of the biases that both have a value of."""
    chances = (a.subject.floor, b.subject.floor) if above_chance else (0.0, 0.0)
    means = [
        name
        for name in PROBES
        if all(
            name in _means(outcomes) and not np.isnan(_mean_ratio(name, outcomes, chance).value)
            for outcomes, chance in zip((a, b), chances, strict=True)
        )
    ]
    if not means:
        return {}
    intervals = paired_spectral_intervals(
        _read_hits(a, means), _read_hits(b, means), a.images.clusters, means=means, chances=chances
    )
    return {f"{CORRECTED}{name}": ends for name, ends in intervals.items()} if above_chance else intervals


def spectral_intervals(
    correct: NDArray[np.bool_],
    clusters: ArrayLike,
    resamples: int = RESAMPLES,
    seed: int = 0,
    means: Sequence[str] = tuple(PROBES),
    chance: float = 0.0,
) -> dict[str, tuple[float, float]]:
    """Name -> (low, high) over images; without a bias that has no value, and empty with too few independent images.

    correct: (1 + 5 a mean, n) bool, the same images in every row: clean, then for each of `means`, which have a value,
    its filter at BIAS_CUTOFFS. chance: accuracy of a blind guess, in [0, 1), above which accuracies are counted.

    The ends are percentiles over resampled clusters. Where fewer than 10 clusters make up the variance, as where
    nothing is right under a filter, resamples do not show it: then the intervals are `quotient` of the two accuracies
    for a mean ratio, and that of a share for spectral_bias, the share of the right answers under the filters that are
    high-pass; above a chance, spectral_bias is left out there.
    """
    ids = np.unique(np.asarray(clusters), return_inverse=True)[1]
    if ids.max() + 1 < FEWEST_CLUSTERS or not correct[0].any():
        return {}
    hit_counts, images = count_right(correct, ids, resamples, seed)
    resampled = _values(hit_counts, means, chance * images)
    intervals: dict[str, tuple[float, float]] = {}
    for name, (part, base) in _quotients(correct, means, chance).items():
        value, values = resampled[name][0], resampled[name][1:]
        if chance and np.isnan(value):
            continue
        parts, bases = (np.bincount(ids, numbers).astype(np.float64) for numbers in (part, base))
        if contributing(parts - (0 if np.isnan(value) else value) * bases) >= FEWEST_APART:
            # A resample without a right answer has no ratios; the others speak for it.
            intervals[name] = interval(values[~np.isnan(values)])
        elif name in PROBES:
            intervals[name] = quotient(share_of(part + chance, ids), share_of(base + chance, ids), chance)
        elif base.any() and not chance:
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
    chances: tuple[float, float] = (0.0, 0.0),
) -> dict[str, tuple[float, float]]:
    """Name -> 95 % interval (low, high) of its value in B less that in A, over the same images in both.

    a and b: (1 + 5 a mean, n) bool as for `spectral_intervals`, with the chance of each. The ends are percentiles of
    the differences in resamples that draw the same clusters for both. Where fewer than 10 clusters make up a
    difference, resamples do not show what others would do: there it is `paired_interval`, to first order. A bias
    without a value is left out; empty with too few independent images.
    """
    ids = np.unique(np.asarray(clusters), return_inverse=True)[1]
    count = int(ids.max()) + 1
    if count < FEWEST_CLUSTERS:
        return {}
    hit_counts, images = count_right(np.concatenate([a, b]), ids, resamples, seed)
    intervals = {}
    chance_a, chance_b = chances
    values_a = _values(hit_counts[: len(a)], means, chance_a * images)
    values_b = _values(hit_counts[len(a) :], means, chance_b * images)
    influences_a, influences_b = _influences(a, ids, means, chance_a), _influences(b, ids, means, chance_b)
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
    correct: NDArray[np.bool_], ids: NDArray[np.intp], means: Sequence[str], chance: float
) -> dict[str, tuple[Floats, float]]:
    """Name -> what each cluster (clusters,) adds to the error of its value, to first order; and what it is a part of.

    The latter is in images, and at least a fraction of one.
    """
    influences = {}
    for name, (part, base) in _quotients(correct, means, chance).items():
        total = max(float(base.sum()), 1e-9)
        influences[name] = np.bincount(ids, part - part.sum() / total * base) / total, total
    return influences


def _values(hit_counts: Floats, means: Sequence[str], guessed: Floats) -> dict[str, Floats]:
    """Name -> its values (resamples,), NaN where it has none, from right answers (1 + 5 a mean, resamples)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            name: np.where(base > 0, part / base, np.nan)
            for name, (part, base) in _quotients(hit_counts, means, guessed).items()
        }


def _quotients(hits: NDArray[Any], means: Sequence[str], guessed: Floats | float) -> dict[str, tuple[Floats, Floats]]:
    """Name -> (part, whole), (m,) each, whose sums its value is the quotient of; right answers are (1 + 5 a mean, m).

    `guessed` is how many of them blind guesses give, (m,) or one number for all. The share is left out where only one
    of the two means is there.
    """
    clean = hits[0] - guessed
    means_of_cutoffs = hits[1:].reshape(len(means), len(BIAS_CUTOFFS), -1).mean(axis=1) - guessed
    filtered = dict(zip(means, means_of_cutoffs, strict=True))
    quotients = {name: (part, clean) for name, part in filtered.items()}
    if filtered.keys() == PROBES.keys():
        low, high = (filtered[name] for name in PROBES)
        quotients[SHARE] = high, low + high
    return quotients


SIDES = dict(zip(PROBES, ("low", "high"), strict=True))
TITLES = {name: f"{side}-frequency bias" for name, side in SIDES.items()} | {SHARE: "spectral bias"}


def _measures(above_chance: bool) -> Iterator[Measure[Outcomes]]:
    # The measures have the same function, so that it is called once.
    estimates = partial(spectral_estimates, above_chance=above_chance)
    differences = partial(spectral_differences, above_chance=above_chance)
    for bias, title in TITLES.items():
        name, side = f"{CORRECTED}{bias}" if above_chance else bias, SIDES.get(bias)
        columns = [f"metric/bandpass/{side[0].upper()}FC/{cutoff}" for cutoff in BIAS_CUTOFFS] if side else ()
        display = Display(
            f"{title} above chance" if above_chance else title,
            quantity=name,
            words=Words(change=("relies", f"on {side} frequencies") if side else None),
            published=PublishedFigure(tuple(columns)) if columns and not above_chance else None,
            stands_for=bias if above_chance else "",
            ratio_to_clean=True,
        )
        yield Measure(
            name,
            Scope.GRID,
            display,
            applies=lambda available: _filters_apply(available) and (available.few_classes or not above_chance),
            needs=partial(_lacking_cutoffs, bias) if side else _lacking_means,
            estimates=estimates,
            differences=differences,
            is_bias=True,
        )


MEASURES = (*_measures(above_chance=False), *_measures(above_chance=True))
