"""What a results database holds of the models of a study, as a table to correlate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from ..errors import UnknownName, UsageError
from .benchmarks import AS_PUBLISHED, GROUPS
from .estimates import FEWEST
from .published import SUBSETS
from .store import Store

ID_BENCHMARK = "imagenet"
"""The benchmark whose clean accuracy a partial correlation holds fixed."""


@dataclass(frozen=True, slots=True)
class StudyTable:
    """The models of a study: one row each, with category, and NAME, NAME_low, NAME_high of each bias and group."""

    frame: pl.DataFrame
    biases: list[str]
    groups: list[str]
    given: str | None


NO_BIAS = "_raw|_threshold_|^shape_bias_|^cue_accuracy"
"""Metrics that are not correlated: raw fits, which mostly degenerate, the thresholds that a channel is fitted to, and
what belongs to a shape bias. Each would be one test more to correct for."""


def study_label(store: Store, study: str | None) -> str:
    """The label, name@version, of a study: a name, a label, or None for the only one there is.

    UnknownName where there is none of the name, UsageError where there is none at all, or several to choose from.
    """
    versions = store.frame("SELECT study, label, newest FROM study_version ORDER BY study_id")
    newest: dict[str, str] = dict(versions.filter("newest").select("study", "label").rows())
    if not newest:
        raise UsageError(f"{store.path} holds no study; `bandlens run STUDY.toml --db {store.path}` adds one")
    if study is None:
        if len(newest) > 1:
            raise UsageError(f"{store.path} holds the studies {', '.join(newest)}; name one of them with --study")
        return next(iter(newest.values()))
    if study not in newest and study not in versions["label"]:
        raise UnknownName("study", study, [*newest, *versions["label"]])
    return newest.get(study, study)


def study_table(store: Store, label: str) -> StudyTable:
    """Biases are the metrics of the study; groups are its group means, or else the clean top-1 of each labelled set.

    Both are in percent. Raises UsageError where there are too few models, no metrics, or no accuracies.
    """
    where = f"{store.path}, {label}"
    models = store.frame(
        "SELECT DISTINCT checkpoint, category FROM study_version JOIN study_cell ON study_cell.study = study_id "
        "JOIN cell_detail USING (cell) WHERE label = ? ORDER BY ALL",
        [label],
    )
    if len(models) < FEWEST:
        count = f"{len(models)} model{'' if len(models) == 1 else 's'}"
        raise UsageError(f"{where}: {count}, and a correlation needs {FEWEST}; run a study of more checkpoints")
    measured = store.frame("SELECT checkpoint, image_set, metric, value, low, high FROM metric_of(?)", [label])
    metric = measured.filter(pl.col("image_set").is_not_null(), ~pl.col("metric").str.contains(NO_BIAS))
    if metric.is_empty():
        raise UsageError(f"{where}: no metrics; run `bandlens analyze --db {store.path} --study {label}` first")
    accuracy = measured.filter(
        pl.col("image_set").is_null(),
        pl.col("metric").is_in([group for group in GROUPS if group != AS_PUBLISHED]),
        pl.col("value").is_not_null(),
    )
    if accuracy.is_empty():
        accuracy = _clean_accuracy(store, label)
    if accuracy.is_empty():
        raise UsageError(f"{where}: no clean accuracy to correlate with; add a labelled image set to the study")
    several = pl.col("image_set").n_unique().over("metric") > 1
    metric = metric.with_columns(
        metric=pl.when(several).then(pl.format("{} ({})", "metric", "image_set")).otherwise("metric")
    )
    biases, groups = (sorted(long["metric"].unique()) for long in (metric, accuracy))
    return StudyTable(_wide(models, pl.concat([metric, accuracy]), where), biases, groups, _given(store, groups))


def _clean_accuracy(store: Store, label: str) -> pl.DataFrame:
    return store.frame(
        "SELECT checkpoint, image_set, 'top1 ' || image_set AS metric, 100 * top1 AS value, 100 * low AS low, "
        "100 * high AS high FROM accuracy_of(?) WHERE family = 'clean' AND measure = 'accuracy'",
        [label],
    )


def subsets_of(frame: pl.DataFrame) -> Mapping[str, pl.Expr]:
    """The published subsets; one alone where it would be everything."""
    sizes = {name: len(frame.filter(wanted)) for name, wanted in SUBSETS.items()}
    return SUBSETS if all(sizes.values()) else {"total": SUBSETS["total"]}


def _wide(models: pl.DataFrame, long: pl.DataFrame, where: str) -> pl.DataFrame:
    doubled = long.filter(long.select("checkpoint", "metric").is_duplicated())
    if len(doubled):
        checkpoint, metric = doubled.select("checkpoint", "metric").row(0)
        raise UsageError(f"{where}: {checkpoint} has {metric} more than once; give each image set a name of its own")
    wide = models
    for end in ("value", "low", "high"):
        suffix = "" if end == "value" else f"_{end}"
        columns = long.with_columns(pl.col("metric") + suffix).pivot("metric", index="checkpoint", values=end)
        wide = wide.join(columns, on="checkpoint", how="left")
    return wide


def _given(store: Store, groups: list[str]) -> str | None:
    """What stands for accuracy as such: ID, or else the largest image set of the benchmark imagenet."""
    sets = store.frame("SELECT name FROM image_set WHERE benchmark = ? ORDER BY count DESC, id", [ID_BENCHMARK])
    names = ["ID", *(f"top1 {name}" for name in sets["name"])]
    return next((name for name in names if name in groups), None)
