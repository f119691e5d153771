"""Metrics and correlations of two runs that are no longer the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from ..correlations.models import study_table, subsets_of, values_of
from ..correlations.table import correlate
from ..database.store import Store
from ..metrics.compute import CRITICAL_BAND, Subject, band_settings, filtered, read_decisions, read_outcomes, subjects
from ..metrics.generalization import measure, read_benchmarked
from ..metrics.psychometric import paired_band_intervals
from ..metrics.shape_bias import paired_shape_intervals
from ..metrics.spectral_bias import PROBES, paired_spectral_intervals
from ..statistics.resampling import bootstrap, percentile_interval
from ..statistics.shares import difference_interval
from .cells import Run

KEYS = {"checkpoint": pl.String, "image_set": pl.String, "metric": pl.String}
Ends = tuple[str | float | None, ...]
"""The keys of a row, and the ends of a paired interval."""


def compare_metrics(a: Run, b: Run) -> pl.DataFrame:
    """One row a checkpoint, image set and metric that both runs have: difference, low, high, value_a, value_b, state_a,
    state_b, note.

    The interval of the difference is `paired_intervals`' where both saw the same images. Elsewhere, where both values
    have an interval (l, u), it is that of MOVER (Zou & Donner 2008),

        low  = B - A - sqrt((B - l_B)^2 + (u_A - A)^2)
        high = B - A + sqrt((u_B - B)^2 + (A - l_A)^2)

    which takes the two as independent. None where no metric of the checkpoint on the image set has moved.
    """
    query = "SELECT checkpoint, image_set, metric, value, low, high, state, note FROM metric_of(?) ORDER BY ALL"
    mine, theirs = (run.renamed(run.store.frame(query, [run.label])) for run in (a, b))
    return beside(mine, theirs, list(KEYS), lambda moved: paired_intervals(a, b, moved))


def beside(
    mine: pl.DataFrame, theirs: pl.DataFrame, keys: Sequence[str], paired: Callable[[pl.DataFrame], Iterable[Ends]]
) -> pl.DataFrame:
    """Rows of the keys, value, low, high, state and note of two runs, as `compare_metrics` has them.

    `paired` gives the keys and the ends of an interval for those of the rows it is given that it has one for.
    """
    both = mine.join(theirs, on=keys, suffix="_b", nulls_equal=True, maintain_order="left")  # groups have no set
    one, other = pl.col("value"), pl.col("value_b")
    moved = ((other - one).abs() > 0).any().over("checkpoint", "image_set")
    found = pl.DataFrame(
        list(paired(both.filter(moved, (other - one).is_not_null()))),
        dict.fromkeys(keys, pl.String) | {"paired_low": pl.Float64, "paired_high": pl.Float64},
        orient="row",
    )
    both = both.join(found, on=keys, how="left", nulls_equal=True, maintain_order="left")
    down = ((other - pl.col("low_b")) ** 2 + (pl.col("high") - one) ** 2).sqrt()
    up = ((pl.col("high_b") - other) ** 2 + (one - pl.col("low")) ** 2).sqrt()
    return both.select(
        *keys,
        difference=other - one,
        low=pl.when(moved).then(pl.coalesce("paired_low", other - one - down)),
        high=pl.when(moved).then(pl.coalesce("paired_high", other - one + up)),
        value_a="value",
        value_b="value_b",
        state_a="state",
        state_b="state_b",
        note=pl.when(one.is_null() != other.is_null()).then(
            pl.coalesce(
                pl.when(one.is_null()).then(pl.lit("A: ") + pl.col("note")),
                pl.when(other.is_null()).then(pl.lit("B: ") + pl.col("note_b")),
            )
        ),
    )


def paired_intervals(a: Run, b: Run, moved: pl.DataFrame) -> Iterator[tuple[str, str | None, str, float, float]]:
    """(checkpoint, image set, metric, low, high) of the differences of metrics, paired over the images of both runs.

    Spectral biases and psychometric numbers of the same image set, over resamples of the same clusters; shape biases,
    accuracies on benchmarks and their means by the variance of the difference over clusters. Metrics that are not in
    `moved` are left out, and psychometric numbers whose difference too few clusters make up.
    """
    wanted = set(moved.select(*KEYS).rows())
    if not wanted:
        return
    of_a, of_b = ({(one.checkpoint, one.image_set): one for one in subjects_of(run)} for run in (a, b))
    for key in of_a.keys() & of_b.keys():
        metrics = {metric for *names, metric in wanted if tuple(names) == key}
        one, other = of_a[key], of_b[key]
        if not metrics or digest_of_images(a.store, one) != digest_of_images(b.store, other):
            continue
        found: dict[str, tuple[float, float]] = {}
        if means := [name for name in PROBES if name in metrics]:
            correct, clusters = read_outcomes(a.store, one, filtered(means))
            found |= paired_spectral_intervals(
                correct, read_outcomes(b.store, other, filtered(means))[0], clusters, means=means
            )
        settings = band_settings(a.store, one)
        banded = any(metric.startswith("psychometric_") for metric in metrics)
        if banded and settings == band_settings(b.store, other):
            correct, clusters = read_outcomes(a.store, one, CRITICAL_BAND)
            bands = paired_band_intervals(
                correct,
                read_outcomes(b.store, other, CRITICAL_BAND)[0],
                clusters,
                settings=settings,
                floors=(one.floor, other.floor),
                size=one.size,
            )
            found |= {f"psychometric_{name}": ends for name, ends in bands.items()}
        if one.cues and any(metric.startswith((one.cues.bias, one.cues.accuracy)) for metric in metrics):
            decisions, names = read_decisions(a.store, one)
            found |= dict(paired_shape_intervals(decisions, read_decisions(b.store, other)[0], names))
        yield from ((*key, metric, *ends) for metric, ends in found.items() if metric in metrics)
    yield from _paired_accuracies(a, b, {(name, metric) for name, images, metric in wanted if images is None})


def _paired_accuracies(a: Run, b: Run, wanted: set[tuple[str, str]]) -> Iterator[tuple[str, None, str, float, float]]:
    """Those of benchmarks and of groups, in percent; wanted are (checkpoint, metric)."""
    if not wanted:
        return
    ids = [{one.checkpoint: one for one in subjects_of(run)} for run in (a, b)]
    first = [next(iter(one.values())).study_id for one in ids]
    studies = [read_benchmarked(run.store, study) for run, study in zip((a, b), first, strict=True)]
    for name in sorted({checkpoint for checkpoint, _ in wanted} & ids[0].keys() & ids[1].keys()):
        mine, theirs = (
            measure(run.store, study, of[name].checkpoint_id)
            for run, study, of in zip((a, b), studies, ids, strict=True)
        )
        for metric in mine.keys() & theirs.keys():
            one, other = mine[metric].share, theirs[metric].share
            if (name, metric) in wanted and one and other and (ends := difference_interval(one, other)):
                yield name, None, metric, 100 * ends[0], 100 * ends[1]


def subjects_of(run: Run) -> list[Subject]:
    """What the run has metrics of, by the names that the comparison has for it."""
    found = subjects(run.store, run.label)
    if run.column is None:
        return found
    called: dict[str, Any] = {run.column: run.called}
    return [replace(one, **called) for one in found if getattr(one, run.column) == run.value]


def digest_of_images(store: Store, subject: Subject) -> str:
    found = store.frame("SELECT digest FROM image_set WHERE id = ?", [subject.image_set_id])
    return str(found.item())


def compare_correlations(a: Run, b: Run, resamples: int = 10_000) -> pl.DataFrame:
    """One row a bias, generalization and subset that both runs have, over the models that have both values in both.

    n, coefficient_a, coefficient_b, difference with a 95 % percentile interval over models, p_holm_a, p_holm_b. A
    resample takes the same models in both runs. Raises UsageError where one of them has nothing to correlate.
    """
    mine, theirs = (study_table(run.store, run.label, with_errors=False) for run in (a, b))
    biases = [name for name in mine.biases if name in theirs.biases]
    groups = [name for name in mine.groups if name in theirs.groups]
    joint = mine.frame.join(theirs.frame.drop("category"), on="checkpoint", suffix="_b", maintain_order="left")
    pairs = [(name, f"{name}_b") for name in (*biases, *groups)]
    joint = joint.with_columns(
        pl.when(pl.all_horizontal(pl.col(pair).is_not_null())).then(pl.col(pair)) for pair in pairs
    )
    subsets = subsets_of(joint)
    one, other = (
        correlate(joint, [x + end for x in biases], [y + end for y in groups], subsets, "spearman", None, resamples)
        for end in ("", "_b")
    )
    both = one.select("bias", "group", "subset", "n", coefficient_a="coefficient", p_holm_a="p_holm")
    both = both.with_columns(
        coefficient_b=other["coefficient"],
        p_holm_b=other["p_holm"],
        difference=other["coefficient"] - one["coefficient"],
    )
    changed = both.filter(pl.col("difference").abs() > 0).rows(named=True)
    with threadpool_limits(1, "blas"):
        intervals = [
            {name: row[name] for name in ("bias", "group", "subset")}
            | _difference(joint.filter(subsets[row["subset"]]), row["bias"], row["group"], resamples)
            for row in changed
        ]
    keys = {"bias": pl.String, "group": pl.String, "subset": pl.String, "low": pl.Float64, "high": pl.Float64}
    return both.join(pl.DataFrame(intervals, keys), on=list(keys)[:3], how="left", maintain_order="left")


def _difference(joint: pl.DataFrame, bias: str, group: str, resamples: int) -> dict[str, float]:
    """Interval of the coefficient in B less that in A, over the models that have all four values."""
    values = values_of(joint, [bias, group, f"{bias}_b", f"{group}_b"])
    values = values[:, ~np.isnan(values).any(axis=0)]
    mine, theirs = (bootstrap("spearman", pair[:1], pair[1:], resamples, 0) for pair in (values[:2], values[2:]))
    interval = percentile_interval(theirs - mine)
    return {"low": float(interval.low[0, 0]), "high": float(interval.high[0, 0])}
