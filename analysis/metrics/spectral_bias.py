"""Spectral bias: how much of its accuracy a classifier keeps on low and on high frequencies alone.

With ratio(c) = top-1 under the filter at cutoff c / clean top-1:

    low_frequency_bias  = mean of ratio(c) over low-pass  c = 0.1, 0.2, 0.3, 0.4, 0.5
    high_frequency_bias = mean of ratio(c) over high-pass c = 0.1, 0.2, 0.3, 0.4, 0.5
    spectral_bias       = high_frequency_bias / (low_frequency_bias + high_frequency_bias)

All are fractions; the first two are at least 0 and rarely above 1, the third lies in [0, 1].
Source: Gavrikov & Keuper 2024 for the two means; their intervals are of this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from ...errors import StoreError
from ...protocol import BIAS_CUTOFFS
from ..statistics.arrays import Floats
from ..statistics.images import FEWEST_CLUSTERS, count_right, interval
from ..statistics.shares import FEWEST_APART, paired_interval, quotient, share_of
from ..statistics.wilson import contributing, share_of_sums
from .states import State

PROBES = {"low_frequency_bias": "lowpass", "high_frequency_bias": "highpass"}
_KEYS = ("study", "checkpoint", "image_set", "measure")
_NEEDED = (*_KEYS, "probe", "cutoff", "ratio")


def spectral_bias(curve: pl.DataFrame) -> pl.DataFrame:
    """The three biases of every (study, checkpoint, image_set, measure) in `curve`.

    `curve` has one row per condition with at least the columns study, checkpoint, image_set, measure, probe, cutoff
    (null for conditions without one) and ratio. The answer has the four keys, metric, value, state and note, three
    rows a key. A mean is taken over all five cutoffs or not at all: where one is missing, doubled or without a ratio,
    value is null, state is missing or undetermined, and note says why; elsewhere state is ok and note is null.

    Raises StoreError if a column is missing.
    """
    absent = [name for name in _NEEDED if name not in curve.columns]
    if absent:
        raise StoreError(f"curve frame lacks {', '.join(absent)}; pass all columns of the view `curve`")
    means = [_mean_ratio(curve, metric, probe) for metric, probe in PROBES.items()]
    wide = means[0].join(means[1], on=_KEYS, nulls_equal=True)
    low, high = (pl.col(metric) for metric in PROBES)
    share = pl.when(low + high > 0).then(high / (low + high))
    reason = (
        pl.when(low.is_null() | high.is_null())
        .then(pl.concat_str([f"{metric}_note" for metric in PROBES], separator="; ", ignore_nulls=True))
        .when(low + high == 0)
        .then(pl.lit("nothing is recognized in either band"))
    )
    absent_too = pl.any_horizontal(pl.col(f"{metric}_state") == State.MISSING for metric in PROBES)
    state = (
        pl.when(share.is_not_null())
        .then(pl.lit(State.OK.value))
        .when(absent_too)
        .then(pl.lit(State.MISSING.value))
        .otherwise(pl.lit(State.UNDETERMINED.value))
    )
    wide = wide.with_columns(spectral_bias=share, spectral_bias_state=state, spectral_bias_note=reason)
    rows = [
        wide.select(
            *_KEYS,
            pl.lit(metric).alias("metric"),
            pl.col(metric).alias("value"),
            pl.col(f"{metric}_state").alias("state"),
            pl.col(f"{metric}_note").alias("note"),
        )
        for metric in (*PROBES, "spectral_bias")
    ]
    return pl.concat(rows).sort(*_KEYS, "metric")


def spectral_intervals(
    correct: NDArray[np.bool_],
    clusters: ArrayLike,
    resamples: int = 1000,
    seed: int = 0,
    means: Sequence[str] = tuple(PROBES),
) -> dict[str, tuple[float, float]]:
    """Metric -> (low, high) over images; without a metric that has no value, and empty with too few independent images.

    correct: (1 + 5 a mean, n) bool, the same images in every row: clean, then for each of `means`, which have a value,
    its filter at BIAS_CUTOFFS.

    Percentiles over resampled clusters. Where fewer than 10 clusters make up the variance, as where nothing is right
    under a filter, resamples do not show it: then the intervals are `quotient` of the two accuracies for a mean ratio,
    and that of a share for spectral_bias, the share of the right answers under the filters that are high-pass.
    """
    ids = np.unique(np.asarray(clusters), return_inverse=True)[1]
    if ids.max() + 1 < FEWEST_CLUSTERS or not correct[0].any():
        return {}
    right, _ = count_right(correct, ids, resamples, np.random.default_rng(seed))
    resampled = _values(right, means)
    found: dict[str, tuple[float, float]] = {}
    for name, (part, whole) in _quotients(correct, means).items():
        value, drawn = resampled[name][0], resampled[name][1:]
        of_part, of_whole = (np.bincount(ids, one).astype(np.float64) for one in (part, whole))
        if contributing(of_part - (0 if np.isnan(value) else value) * of_whole) >= FEWEST_APART:
            # A resample without a right answer has no ratios; the others speak for it.
            found[name] = interval(drawn[~np.isnan(drawn)])
        elif name in PROBES:
            found[name] = quotient(share_of(part, ids), share_of(whole, ids))
        elif whole.any():
            low, high = share_of_sums(5 * of_part, 5 * of_whole)
            if low is not None and high is not None:
                found[name] = low, high
    return found


def paired_spectral_intervals(
    a: NDArray[np.bool_],
    b: NDArray[np.bool_],
    clusters: ArrayLike,
    resamples: int = 1000,
    seed: int = 0,
    means: Sequence[str] = tuple(PROBES),
) -> dict[str, tuple[float, float]]:
    """Metric -> 95 % interval (low, high) of its value in B less that in A, over the same images in both.

    a and b: (1 + 5 a mean, n) bool as for `spectral_intervals`. Percentiles of the differences in resamples that draw
    the same clusters for both. Where fewer than 10 clusters make up a difference, resamples do not show what others
    would do: there it is `paired_interval`, to first order. Without a metric that has no value; empty with too few
    independent images.
    """
    ids = np.unique(np.asarray(clusters), return_inverse=True)[1]
    count = int(ids.max()) + 1
    if count < FEWEST_CLUSTERS:
        return {}
    right, _ = count_right(np.concatenate([a, b]), ids, resamples, np.random.default_rng(seed))
    found = {}
    mine, theirs = _values(right[: len(a)], means), _values(right[len(a) :], means)
    first, second = _influences(a, ids, means), _influences(b, ids, means)
    for name in mine:
        drawn = theirs[name] - mine[name]
        if np.isnan(drawn[0]):
            continue
        (of_a, one), (of_b, other) = first[name], second[name]
        if contributing(len(ids) * (of_b - of_a)) >= FEWEST_APART:
            found[name] = interval(drawn[1:][~np.isnan(drawn[1:])])
        else:
            found[name] = paired_interval(float(drawn[0]), of_b - of_a, len(ids) / count / min(one, other))
    return found


def _influences(
    correct: NDArray[np.bool_], ids: NDArray[np.intp], means: Sequence[str]
) -> dict[str, tuple[Floats, float]]:
    """Metric -> what each cluster (clusters,) adds to the error of its value, to first order; and what it is a part of.

    The second is in images, and at least a fraction of one.
    """
    found = {}
    for name, (part, whole) in _quotients(correct, means).items():
        total = max(float(whole.sum()), 1e-9)
        found[name] = np.bincount(ids, part - part.sum() / total * whole) / total, total
    return found


def _values(right: Floats, means: Sequence[str]) -> dict[str, Floats]:
    """Metric -> its values (resamples,), NaN where it has none, from right answers (1 + 5 a mean, resamples)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            name: np.where(whole > 0, part / whole, np.nan) for name, (part, whole) in _quotients(right, means).items()
        }


def _quotients(right: NDArray[Any], means: Sequence[str]) -> dict[str, tuple[Floats, Floats]]:
    """Metric -> (part, whole), (m,) each, whose sums its value is the quotient of; right answers are (1 + 5 a mean, m).

    The share is of both means, and not there where there is one of them.
    """
    clean = right[0].astype(np.float64)
    filtered = dict(zip(means, right[1:].reshape(len(means), len(BIAS_CUTOFFS), -1).mean(axis=1), strict=True))
    found = {name: (part, clean) for name, part in filtered.items()}
    if filtered.keys() == PROBES.keys():
        low, high = (filtered[name] for name in PROBES)
        found["spectral_bias"] = high, low + high
    return found


def _mean_ratio(curve: pl.DataFrame, metric: str, probe: str) -> pl.DataFrame:
    """One row a key: the mean ratio over BIAS_CUTOFFS as column `metric`, with `<metric>_state` and `<metric>_note`."""
    # Cutoffs travel as binary fractions: compare them in thousandths.
    cutoff = (pl.col("cutoff") * 1000).round().cast(pl.Int32)
    usable = pl.col("ratio").is_not_null() & pl.col("ratio").is_finite()
    mine = pl.col("probe") == probe
    problems, counts, once = [], [], []
    for value in BIAS_CUTOFFS:
        here = mine & (cutoff == round(value * 1000))
        rows, good = here.sum(), (here & usable).sum()
        counts.append(here & usable)
        once.append(rows == 1)
        problems.append(
            pl.when(rows == 0)
            .then(pl.lit(f"{value} is missing"))
            .when(rows > 1)
            .then(pl.lit(f"{value} is there more than once"))
            .when(good == 0)
            .then(pl.lit(f"{value} has no ratio to clean accuracy"))
        )
    note = pl.concat_str(problems, separator=", ", ignore_nulls=True)
    mean = pl.col("ratio").filter(pl.any_horizontal(counts)).mean()
    return curve.group_by(_KEYS).agg(
        pl.when(note == "").then(mean).alias(metric),
        pl.when(note == "")
        .then(pl.lit(State.OK.value))
        .when(pl.all_horizontal(once))
        .then(pl.lit(State.UNDETERMINED.value))
        .otherwise(pl.lit(State.MISSING.value))
        .alias(f"{metric}_state"),
        pl.when(note != "").then(pl.lit(f"{probe} cutoff ") + note).alias(f"{metric}_note"),
    )
