"""Inputs of correlation tables: values of models as arrays (variables, models), NaN where a value is missing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ...core.errors import StoreError, UnknownName, UsageError, plural, quoted
from ...core.protocol import ADVERSARIAL_TRAINING, GROUPS
from ...core.records import Missing
from ..database.store import Store
from ..metrics.base import MEANINGLESS, State, with_unit
from ..metrics.families.generalization import BenchmarkOutcomes, read_benchmarked
from ..metrics.predictions import PredictionReader, read_decisions
from ..metrics.registry import MEASURES, title_of, without_replaced
from ..metrics.registry import biases as bias_names
from ..statistics import Floats, Index, Mask
from ..statistics.proportions import Share, share_of
from ..statistics.resampling import Spread, shared_factors

FEWEST_MODELS = 4
"""Minimum number of models for a correlation.

With three models, a third of all orders give a perfect rank correlation.
"""
MODELS_AT_ONCE = 64
"""Number of models whose clean predictions are read by one query.

The fixed cost of a query exceeds the cost of reading the predictions of a thousand models.
"""


@dataclass(frozen=True, slots=True)
class Models:
    """Values of n models: a bias metrics x, b groups y, and the variable z that a partial correlation holds fixed."""

    biases: Sequence[str]
    """Names of the bias metrics, (a,)."""
    groups: Sequence[str]
    """Names of the generalization groups, (b,)."""
    x: Floats
    """Values of the bias metrics, (a, n)."""
    y: Floats
    """Accuracies of the groups in percent, (b, n)."""
    x_spread: Spread
    """Confidence intervals of x."""
    y_spread: Spread
    """Confidence intervals of y."""
    shared: Floats | None
    """Factor loadings of the errors that values have in common, (a + b, n, factors): see `shared_factors`."""
    control: str | None
    """Name of z."""
    z: Floats | None
    """Values that a partial correlation holds fixed, (n,). None if there is no such variable."""
    category: NDArray[Any]
    """Category of each model, (n,)."""

    @property
    def n(self) -> int:
        return len(self.category)

    @property
    def has_z(self) -> Mask:
        """Whether z is known for each model, (n,)."""
        return np.zeros(self.n, bool) if self.z is None else ~np.isnan(self.z)

    @property
    def over_images(self) -> Mask:
        """Whether at least one of the two variables of each pair has confidence intervals, (a, b)."""
        return np.asarray(self.x_spread.has_interval[:, None] | self.y_spread.has_interval[None, :])

    def part(self, complete: Mask, biases: Index, groups: Index) -> Models:
        """Select some of the models, bias metrics and groups."""
        models = np.flatnonzero(complete)
        rows_x, rows_y = np.ix_(biases, models), np.ix_(groups, models)
        return Models(
            [self.biases[i] for i in biases],
            [self.groups[i] for i in groups],
            self.x[rows_x],
            self.y[rows_y],
            Spread(self.x_spread.down[rows_x], self.x_spread.up[rows_x]),
            Spread(self.y_spread.down[rows_y], self.y_spread.up[rows_y]),
            None if self.shared is None else self.shared[np.ix_([*biases, *(len(self.x) + groups)], models)],
            self.control,
            None if self.z is None else self.z[complete],
            self.category[complete],
        )


Errors = Mapping[str, Mapping[str, Share]]
"""Maps a column to the proportion, by checkpoint, that its value is a percentage of."""


def read_models(
    frame: pl.DataFrame, biases: Sequence[str], groups: Sequence[str], control: str | None, errors: Errors | None = None
) -> Models:
    """Convert a frame to arrays.

    Args:
        frame: One row per model, with the column `category` and numeric columns. NAME_low and NAME_high are the limits
            of the confidence interval of NAME.
        biases: Columns of the bias metrics.
        groups: Columns of the generalization groups.
        control: Column that a partial correlation holds fixed, or None.
        errors: Proportions that values are percentages of. Requires the column `checkpoint` in `frame`.

    Raises:
        StoreError: If a column is missing.
    """
    shared = None
    if errors:
        shares = [errors.get(name, {}).get(model) for name in (*biases, *groups) for model in frame["checkpoint"]]
        factors = shared_factors(shares)
        shared = factors.reshape(len(biases) + len(groups), len(frame), factors.shape[1])
    x, y = values_of(frame, biases), values_of(frame, groups)
    return Models(
        biases,
        groups,
        x,
        y,
        _spread(frame, biases, x),
        _spread(frame, groups, y),
        shared,
        control,
        values_of(frame, [control])[0] if control else None,
        frame["category"].fill_null("none").to_numpy(),
    )


def values_of(frame: pl.DataFrame, names: Sequence[str]) -> Floats:
    """Return columns as an array (variables, models), with NaN for every value that is not a finite number.

    Raises:
        StoreError: If a column is missing.
    """
    unknown_columns = [name for name in dict.fromkeys(names) if name not in frame.columns]
    if unknown_columns:
        raise StoreError(
            f"correlation: no column {', '.join(unknown_columns)}; the frame has {', '.join(frame.columns)}"
        )
    columns = [frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in names]
    values = np.array(columns, dtype=np.float64).reshape(len(names), len(frame))
    return np.where(np.isfinite(values), values, np.nan)


def _spread(frame: pl.DataFrame, names: Sequence[str], values: Floats) -> Spread:
    """Return the confidence intervals of values. The distances are 0 where a value has no interval."""
    sides = np.zeros((2, *values.shape))
    for row, name in enumerate(names):
        if {f"{name}_low", f"{name}_high"} <= set(frame.columns):
            low, high = values_of(frame, [f"{name}_low", f"{name}_high"])
            sides[:, row] = np.nan_to_num(np.maximum(0, [values[row] - low, high - values[row]]))
    return Spread(*sides)


def complete_blocks(x: Floats, y: Floats) -> Iterator[tuple[Mask, Index, Index]]:
    """Yield blocks of variables that have values for the same models. Each pair of variables is in exactly one block.

    Correlations are computed block by block because arrays of a block have no missing values.

    Args:
        x: Variables, (a, n), NaN where a value is missing.
        y: Variables, (b, n), NaN where a value is missing.

    Yields:
        For each block, a mask of the models without missing values, (n,), the indices of its variables in x, and those
        in y.
    """
    for complete_x, variables_x in _by_gaps(x):
        for complete_y, variables_y in _by_gaps(y):
            yield complete_x & complete_y, variables_x, variables_y


def _by_gaps(values: Floats) -> list[tuple[Mask, Index]]:
    """Group variables by their pattern of missing values.

    Return the mask of models and the indices of the variables.
    """
    patterns, pattern_of_variable = np.unique(~np.isnan(values), axis=0, return_inverse=True)
    return [(pattern, np.flatnonzero(pattern_of_variable.ravel() == i)) for i, pattern in enumerate(patterns)]


# Reading the models of a study from a results database
ID_BENCHMARK = "imagenet"
"""Benchmark whose clean accuracy the partial correlation holds fixed."""
ID_GROUP = "ID"
"""Group of benchmarks that contains `ID_BENCHMARK`."""
CLEAN_ACCURACY = """
SELECT checkpoint, image_set, 'top1 ' || image_set AS metric, 100 * top1 AS value, 100 * low AS low, 100 * high AS high
FROM accuracy_of(?) WHERE probe = 'clean' AND measure = 'accuracy'
"""


@dataclass(frozen=True, slots=True)
class StudyTable:
    """Models of a study, for correlation tables."""

    frame: pl.DataFrame
    """One row per model: category, and the columns NAME, NAME_low and NAME_high of each bias metric and group."""
    biases: Sequence[str]
    """Names of the bias metrics."""
    groups: Sequence[str]
    """Names of the generalization groups."""
    control: str | None
    """Group that the partial correlation holds fixed. None if the study has none."""
    errors: Errors = field(default_factory=dict)
    """Errors of the accuracies of the groups. They are correlated between models because models see the same images."""
    own_titles: Mapping[str, str] = field(default_factory=dict)
    """Titles in charts for custom metrics."""
    denominators: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Maps a bias metric to the groups that share a term with it.

    Such a metric is defined as a ratio to clean accuracy or as a part of it, and the groups are this accuracy or a mean
    that includes it.
    """

    def title(self, name: str) -> str:
        """Return the title of a bias metric or a group in charts."""
        measure, bracket, image_set = name.partition(" (")
        return self.own_titles[measure] + bracket + image_set if measure in self.own_titles else title_of(name)


def study_table(store: Store, label: str, with_errors: bool = True) -> StudyTable:
    """Return the result of `find_study_table`.

    Raises:
        UsageError: If the study cannot be correlated.
    """
    table = find_study_table(store, label, with_errors)
    if isinstance(table, Missing):
        raise UsageError(f"{store.path}, {label}: {table.reason}")
    return table


def find_study_table(store: Store, label: str, with_errors: bool = True) -> StudyTable | Missing:
    """Read the bias metrics and generalization groups of a study.

    The bias metrics are the metrics of the study. The groups are its group means, or the clean top-1 accuracy on each
    labeled image set if there are none, in percent. Values that are not meaningful, for example those of a degenerate
    fit, are null.

    Args:
        store: Results database.
        label: Version of a study, as NAME@VERSION.
        with_errors: Whether to compute the errors of the groups from the predictions, which takes time.

    Returns:
        The table, or the reason if there are too few models, no metrics, or no accuracies.
    """
    models = store.frame("SELECT DISTINCT checkpoint, category FROM study_detail_of(?) ORDER BY ALL", [label])
    if len(models) < FEWEST_MODELS:
        count = plural(len(models), "model")
        return Missing(f"{count}, and a correlation needs {FEWEST_MODELS}; run a study of more checkpoints")
    metrics = store.frame("SELECT checkpoint, image_set, metric, value, low, high, state FROM metric_of(?)", [label])
    has_meaning = ~pl.col("state").is_in(MEANINGLESS)
    metrics = metrics.with_columns(pl.when(has_meaning).then(pl.col("value", "low", "high")))
    titles = own_titles(store, label)
    metric = metrics.filter(pl.col("image_set").is_not_null(), pl.col("metric").is_in([*bias_names(), *titles]))
    metric = without_replaced(metric)
    if metric.is_empty():
        command = f"bandlens analyze --db {quoted(store.path)} --study {quoted(label)}"
        return Missing(f"no metrics; run `{command}` first")
    read_errors = _group_errors
    accuracy = metrics.filter(
        pl.col("image_set").is_null(),
        pl.col("metric").is_in([*GROUPS]),
        pl.col("value").is_not_null(),
    )
    if accuracy.is_empty():
        accuracy, read_errors = store.frame(CLEAN_ACCURACY, [label]), _clean_errors
    if accuracy.is_empty():
        return Missing("no clean accuracy to correlate with; add a labelled image set to the study")
    on_several_sets = pl.col("image_set").n_unique().over("metric") > 1
    metric = metric.with_columns(
        metric=pl.when(on_several_sets).then(pl.format("{} ({})", "metric", "image_set")).otherwise("metric")
    )
    denominators = denominators_of(metric.select("metric", "image_set").unique().rows())
    unsound = metric.group_by("metric").agg((pl.col("state") != State.OK).sum())
    biases, groups = unsound.sort("state", "metric")["metric"].to_list(), sorted(accuracy["metric"].unique())
    values = pl.concat([metric, accuracy], how="diagonal")
    duplicates = values.filter(values.select("checkpoint", "metric").is_duplicated())
    if len(duplicates):
        checkpoint, name = duplicates.select("checkpoint", "metric").row(0)
        return Missing(f"{checkpoint} has {name} more than once; give each image set a name of its own")
    errors = read_errors(store, label) if with_errors else {}
    table = _wide(models, values)
    return StudyTable(table, biases, groups, _control(store, label, groups), errors, titles, denominators)


def check_biases(store: Store, label: str, names: Iterable[str]) -> None:
    """Check the names of bias metrics.

    Raises:
        UnknownName: If a name is neither a built-in bias metric nor a custom metric of the study.
    """
    known = [*bias_names(), *own_titles(store, label)]
    for name in names:
        if name.partition(" (")[0] not in known:
            raise UnknownName("bias", name, known)


def denominators_of(biases: Iterable[tuple[str, str]]) -> dict[str, Collection[str]]:
    """Return `StudyTable.denominators` from pairs of a bias metric and its image set."""
    groups: dict[str, set[str]] = {}
    for name, image_set in biases:
        measure = MEASURES.get(name.partition(" (")[0])
        if measure and measure.display.tie_to_clean:
            groups.setdefault(name, {ID_GROUP, ID_BENCHMARK}).add(clean_group(image_set))
    return dict(groups)


def clean_group(image_set: str) -> str:
    """Return the name of the group that is the clean accuracy on one image set."""
    return f"top1 {image_set}"


def own_titles(store: Store, label: str) -> dict[str, str]:
    """Read the custom metrics of a version of a study, and their titles in charts."""
    query = "SELECT name, title, unit FROM own_measure JOIN version_of(?) ON study_id = own_measure.study ORDER BY name"
    return {name: with_unit(title, unit) for name, title, unit in store.frame(query, [label]).rows()}


def _group_errors(store: Store, label: str) -> Errors:
    """Compute the errors of the group means of a study from its predictions."""
    errors: dict[str, dict[str, Share]] = {}
    models = store.frame(
        "SELECT DISTINCT study_id, checkpoint_id, checkpoint FROM study_detail_of(?) ORDER BY ALL", [label]
    )
    benchmarked, predictions = read_benchmarked(store, models["study_id"][0]), PredictionReader(store)
    for _, checkpoint_id, checkpoint in models.rows():
        for name, mean in BenchmarkOutcomes(predictions, benchmarked, checkpoint_id).measured.items():
            if mean.share and name in GROUPS:
                errors.setdefault(name, {})[checkpoint] = mean.share
        predictions.forget()
    return errors


def _clean_errors(store: Store, label: str) -> Errors:
    """Compute the errors of the clean accuracies of a study from its predictions."""
    cells = store.frame(
        "SELECT image_set, image_set_id, checkpoint, cell FROM study_detail_of(?) "
        "WHERE labelled AND probe = 'clean' ORDER BY ALL",
        [label],
    )
    errors: dict[str, dict[str, Share]] = {}
    predictions = PredictionReader(store)
    for (name, image_set), group in cells.group_by("image_set", "image_set_id", maintain_order=True):
        photographs = predictions.images(int(str(image_set))).photographs
        errors_of_set = errors.setdefault(clean_group(str(name)), {})
        for models in group.sort("cell").iter_slices(MODELS_AT_ONCE):
            decisions = read_decisions(store, models["cell"].to_list())
            for checkpoint, outcome in zip(models["checkpoint"], decisions, strict=True):
                errors_of_set[checkpoint] = share_of(np.asarray(outcome.rank == 0), photographs)
    return errors


_ADVERSARIAL = pl.col("category") == ADVERSARIAL_TRAINING
SUBSET_FILTERS = {"total": pl.lit(True), ADVERSARIAL_TRAINING: _ADVERSARIAL, "other": ~_ADVERSARIAL}
"""Maps each published subset to an expression on the column `category` that selects its models."""


def subsets_of(frame: pl.DataFrame) -> Mapping[str, pl.Expr]:
    """Return the published subsets. If one of them is empty, return only the set of all models."""
    sizes = {name: len(frame.filter(members)) for name, members in SUBSET_FILTERS.items()}
    return SUBSET_FILTERS if all(sizes.values()) else {"total": SUBSET_FILTERS["total"]}


def _wide(models: pl.DataFrame, long: pl.DataFrame) -> pl.DataFrame:
    table = models
    for end in ("value", "low", "high"):
        suffix = "" if end == "value" else f"_{end}"
        columns = long.with_columns(pl.col("metric") + suffix).pivot("metric", index="checkpoint", values=end)
        table = table.join(columns, on="checkpoint", how="left", maintain_order="left")
    return table


def _control(store: Store, label: str, groups: list[str]) -> str | None:
    """Return the group for in-distribution accuracy: `ID`, or the study's largest image set of the benchmark
    imagenet.
    """
    sets = store.frame(
        "SELECT shown.name FROM version_of(?) JOIN study_image_set AS shown ON shown.study = study_id "
        "JOIN image_set ON image_set.id = shown.image_set WHERE shown.benchmark = ? "
        "ORDER BY image_set.count DESC, image_set.id",
        [label, ID_BENCHMARK],
    )
    names = [ID_GROUP, *map(clean_group, sets["name"])]
    return next((name for name in names if name in groups), None)
