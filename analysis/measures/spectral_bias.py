"""Spectral bias: how much of its accuracy a classifier keeps on low and on high frequencies alone.

With ratio(c) = top-1 under the filter at cutoff c / clean top-1:

    low_frequency_bias  = mean of ratio(c) over low-pass  c = 0.1, 0.2, 0.3, 0.4, 0.5
    high_frequency_bias = mean of ratio(c) over high-pass c = 0.1, 0.2, 0.3, 0.4, 0.5
    spectral_bias       = high_frequency_bias / (low_frequency_bias + high_frequency_bias)

All are fractions; the first two are rarely above 1, the third lies in [0, 1].

At images of n pixels a side, a low-pass of cutoff c keeps frequencies below int(c n / 2) cycles per image, and a
high-pass removes those below int((1 - c) n / 2): at 224, low-passes of 0.1 to 0.5 keep what is below 11 to 56 cycles,
and high-passes remove what is below 100 to 56. A mean needs all five cutoffs, each once and each with a ratio, and is
null otherwise. Without labels the ratio is that of agreement with the prediction for the clean image.

Intervals (95 %) are percentiles over 1,000 resamples of the images (`statistics.images`), from 20 independent images
on. Resamples show no spread where fewer than 10 clusters make up the variance: there a mean has the interval of a
quotient of two shares (`statistics.shares`), and spectral_bias that of the share of the right answers that are right
under high-passes. Two runs on the same images are paired: each resample draws the same clusters for both.

Source: Gavrikov & Keuper 2024 for the two means.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...protocol import BIAS_CUTOFFS
from ..statistics.arrays import Floats, Mask
from ..statistics.images import FEWEST_CLUSTERS, count_right, interval
from ..statistics.shares import FEWEST_APART, paired_interval, quotient, share_of
from ..statistics.wilson import contributing, share_of_sums
from .base import Available, Ends, Estimate, Measure, Options, Scope, State, nothing, too_few_images
from .outcomes import CellOutcomes, Outcomes

PROBES = {"low_frequency_bias": "lowpass", "high_frequency_bias": "highpass"}
"""Mean of ratios -> the probe whose conditions it is over."""
SHARE = "spectral_bias"


def _applies(available: Available) -> bool:
    return any(available.of_probe(probe) for probe in PROBES.values())


def _lacking_cutoffs(name: str, available: Available) -> str | None:
    """Why a mean cannot be had of the conditions: it takes all five cutoffs, each once."""
    probe = PROBES[name]
    counts = Counter(round(condition.number("cutoff") or 0, 3) for condition in available.of_probe(probe))
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


def spectral_estimates(outcomes: Outcomes, options: Options) -> dict[str, Estimate]:
    """The biases for which the conditions are there, with an interval over images where they have a value."""
    means, clean = _means(outcomes), outcomes.clean
    ratios = {name: _mean_ratio(name, outcomes, clean) for name in means}
    estimates = {name: Estimate(ratio) if isinstance(ratio, float) else ratio for name, ratio in ratios.items()}
    if len(means) == len(PROBES):
        estimates[SHARE] = _share(estimates)
    valued = [name for name in means if not np.isnan(estimates[name].value)]
    if not valued:
        return estimates
    clusters = outcomes.images.clusters
    intervals = spectral_intervals(_right(outcomes, valued), clusters, options.resamples, means=valued)
    note = too_few_images(len(np.unique(clusters)))
    for name, estimate in estimates.items():
        if name in intervals:
            estimates[name] = replace(estimate, low=intervals[name][0], high=intervals[name][1])
        elif not intervals and not np.isnan(estimate.value):
            estimates[name] = replace(estimate, state=State.NO_INTERVAL, note=note)
    return estimates


def _means(outcomes: Outcomes) -> list[str]:
    return [name for name in PROBES if not _lacking_cutoffs(name, outcomes.available)]


def _filtered(name: str, outcomes: Outcomes) -> list[CellOutcomes]:
    """The conditions of a mean, by cutoff."""
    by_cutoff = {
        round(condition.number("cutoff") or 0, 3): cell for condition, cell in outcomes.of_probe(PROBES[name]).items()
    }
    return [by_cutoff[cutoff] for cutoff in BIAS_CUTOFFS]


def _mean_ratio(name: str, outcomes: Outcomes, clean: CellOutcomes | None) -> float | Estimate:
    clean_right = None if clean is None else clean.right
    if clean_right is None or not clean_right.any():
        without = ", ".join(f"{cutoff} has no ratio to clean accuracy" for cutoff in BIAS_CUTOFFS)
        return nothing(State.UNDETERMINED, f"{PROBES[name]} cutoff {without}")
    rights = _right(outcomes, [name])
    top1 = rights.sum(axis=1) / rights.shape[1]
    return math.fsum(top1[1:] / top1[0]) / len(BIAS_CUTOFFS)


def _share(means: Mapping[str, Estimate]) -> Estimate:
    low, high = (means[name].value for name in PROBES)
    if np.isnan(low) or np.isnan(high):
        notes = [note for name in PROBES if (note := means[name].note)]
        return nothing(State.UNDETERMINED, "; ".join(notes))
    if low + high == 0:
        return nothing(State.UNDETERMINED, "nothing is recognized in either band")
    return Estimate(high / (low + high))


def _right(outcomes: Outcomes, means: Sequence[str]) -> Mask:
    """(1 + 5 a mean, n): right or wrong of the clean images, then of each mean's filter at BIAS_CUTOFFS."""
    cells = [outcomes.clean, *(cell for name in means for cell in _filtered(name, outcomes))]
    return np.array([cell.right for cell in cells if cell is not None])


def spectral_differences(a: Outcomes, b: Outcomes) -> dict[str, Ends]:
    """Paired intervals of the biases that both have a value of."""
    means = [
        name
        for name in PROBES
        if all(
            name in _means(outcomes) and isinstance(_mean_ratio(name, outcomes, outcomes.clean), float)
            for outcomes in (a, b)
        )
    ]
    if not means:
        return {}
    return paired_spectral_intervals(_right(a, means), _right(b, means), a.images.clusters, means=means)


def spectral_intervals(
    correct: NDArray[np.bool_],
    clusters: ArrayLike,
    resamples: int = 1000,
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
    right, _ = count_right(correct, ids, resamples, np.random.default_rng(seed))
    resampled = _values(right, means)
    intervals: dict[str, tuple[float, float]] = {}
    for name, (part, base) in _quotients(correct, means).items():
        value, drawn = resampled[name][0], resampled[name][1:]
        parts, bases = (np.bincount(ids, right).astype(np.float64) for right in (part, base))
        if contributing(parts - (0 if np.isnan(value) else value) * bases) >= FEWEST_APART:
            # A resample without a right answer has no ratios; the others speak for it.
            intervals[name] = interval(drawn[~np.isnan(drawn)])
        elif name in PROBES:
            intervals[name] = quotient(share_of(part, ids), share_of(base, ids))
        elif base.any():
            low, high = share_of_sums(5 * parts, 5 * bases)
            if low is not None and high is not None:
                intervals[name] = low, high
    return intervals


def paired_spectral_intervals(
    a: NDArray[np.bool_],
    b: NDArray[np.bool_],
    clusters: ArrayLike,
    resamples: int = 1000,
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
    right, _ = count_right(np.concatenate([a, b]), ids, resamples, np.random.default_rng(seed))
    intervals = {}
    values_a, values_b = _values(right[: len(a)], means), _values(right[len(a) :], means)
    influences_a, influences_b = _influences(a, ids, means), _influences(b, ids, means)
    for name in values_a:
        drawn = values_b[name] - values_a[name]
        if np.isnan(drawn[0]):
            continue
        (influence_a, total_a), (influence_b, total_b) = influences_a[name], influences_b[name]
        influence = influence_b - influence_a
        if contributing(len(ids) * influence) >= FEWEST_APART:
            intervals[name] = interval(drawn[1:][~np.isnan(drawn[1:])])
        else:
            intervals[name] = paired_interval(float(drawn[0]), influence, len(ids) / count / min(total_a, total_b))
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


def _values(right: Floats, means: Sequence[str]) -> dict[str, Floats]:
    """Name -> its values (resamples,), NaN where it has none, from right answers (1 + 5 a mean, resamples)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            name: np.where(base > 0, part / base, np.nan) for name, (part, base) in _quotients(right, means).items()
        }


def _quotients(right: NDArray[Any], means: Sequence[str]) -> dict[str, tuple[Floats, Floats]]:
    """Name -> (part, whole), (m,) each, whose sums its value is the quotient of; right answers are (1 + 5 a mean, m).

    The share is left out where only one of the two means is there.
    """
    clean = right[0].astype(np.float64)
    filtered = dict(zip(means, right[1:].reshape(len(means), len(BIAS_CUTOFFS), -1).mean(axis=1), strict=True))
    quotients = {name: (part, clean) for name, part in filtered.items()}
    if filtered.keys() == PROBES.keys():
        low, high = (filtered[name] for name in PROBES)
        quotients[SHARE] = high, low + high
    return quotients


def _bias(
    name: str,
    title: str,
    needs: Callable[[Available], str | None],
    change: tuple[str, str] | None = None,
    published: tuple[str, ...] = (),
) -> Measure[Outcomes]:
    return Measure(
        name,
        title,
        "share",
        Scope.GRID,
        estimates=spectral_estimates,
        applies=_applies,
        needs=needs,
        differences=spectral_differences,
        is_bias=True,
        change=change,
        number=name,
        published=published,
    )


MEASURES = (
    *(
        _bias(
            name,
            f"{side}-frequency bias",
            partial(_lacking_cutoffs, name),
            ("relies", f"on {side} frequencies"),
            tuple(f"metric/bandpass/{side[0].upper()}FC/{cutoff}" for cutoff in BIAS_CUTOFFS),
        )
        for name, side in zip(PROBES, ("low", "high"), strict=True)
    ),
    _bias(SHARE, "spectral bias", _lacking_means),
)
