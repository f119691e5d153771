"""Tables of correlations: every bias metric with every group of benchmarks.

A row is the correlation of one bias metric with one group over the `n` models that have both values, at least four. The
groups are the group means of benchmarks, or the clean top-1 accuracy on each labeled image set if a study has no group
means. The bias metrics are all metrics except raw fits, thresholds of single bands, and the parts of a shape bias. For
eight or fewer models there is no confidence interval, `partial_p` or `detectable`, and `p` and `p_permutation` are
computed by enumerating all permutations.

    low, high                 95% confidence interval over models (`resampling`)
    low_images, high_images   95% confidence interval over models and images
    p_permutation             p-value of a permutation test over models
    p_least                   smallest possible p-value for these values, for eight or fewer models
    p_holm, p_bh              `p` adjusted for all rows of the table (`coefficients`)
    detectable                smallest |rho| that is detected with 80% power after Holm's correction (`power`)
    partial, partial_p        partial correlation given ID accuracy: the group mean `ID`, or clean top-1 on the
                              study's largest image set of the benchmark imagenet
    loco_low, loco_high       lowest and highest coefficient if one category of models is left out
    shares_term               whether the metric is defined as a ratio to clean accuracy, or as a part of it, and the
                              group is this accuracy or a mean that includes it: the correlation is then partly due to
                              the definition, and has no star
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ...core.errors import UnknownName, plural
from ..metrics.registry import MEASURES
from ..statistics import ALPHA, EXACT_MODELS, Floats
from ..statistics.coefficients import METHODS, Method, benjamini_hochberg, coefficients, holm, partial, t_test
from ..statistics.power import smallest_correlation
from ..statistics.resampling import Interval, bca_intervals, bootstrap, crossed_bootstrap, exact_p, permutation_p
from .table_inputs import FEWEST_MODELS, Errors, Models, StudyTable, complete_blocks, read_models, subsets_of

NUMBERS = (
    *("coefficient", "low", "high", "low_images", "high_images", "p", "p_permutation", "p_least"),
    *("p_holm", "p_bh", "detectable", "partial", "partial_p", "loco_low", "loco_high"),
)
SCHEMA: Mapping[str, type[pl.DataType]] = {
    **dict.fromkeys(("method", "bias", "group", "subset"), pl.String),
    "n": pl.Int64,
    **dict.fromkeys(NUMBERS, pl.Float64),
    **dict.fromkeys(("loco_low_category", "loco_high_category", "note"), pl.String),
    "shares_term": pl.Boolean,
}
"""Columns of the table and their types."""
HOLDS = (pl.col("p_holm") < ALPHA) & ~pl.col("shares_term")
"""Expression that is true for significant coefficients. They are marked with a star."""
SEED = 0
"""Random seed of the bootstrap and of the permutations. The same models always give the same table."""


def correlate(
    frame: pl.DataFrame,
    biases: Sequence[str],
    groups: Sequence[str],
    subsets: Mapping[str, pl.Expr],
    method: Method = "spearman",
    control: str | None = None,
    resamples: int = 10_000,
    errors: Errors | None = None,
) -> pl.DataFrame:
    """Correlate every bias metric with every generalization group in every subset of the models.

    Args:
        frame: One row per model, with the column `category` and one numeric column for each bias metric and group. If
            it also has the columns NAME_low and NAME_high, the 95% confidence interval of each value over images, then
            `low_images` and `high_images` account for these intervals.
        biases: Columns of the bias metrics.
        groups: Columns of the generalization groups.
        subsets: Maps the name of a subset to an expression that selects its rows.
        method: "spearman" or "pearson".
        control: Column that the partial correlation holds fixed. None for no partial correlation.
        resamples: Number of bootstrap resamples, and of random permutations.
        errors: Maps a column to the proportions, by checkpoint, that its values are percentages of. The errors of
            values that are measured on the same images are then drawn jointly. Requires the column `checkpoint` in
            `frame`.

    Returns:
        One row for each bias metric, group and subset, sorted in this order, with the columns of `SCHEMA`. `p_holm` and
        `p_bh` adjust `p` over all rows. A number that the data do not determine is null, and `note` gives the reason.

    Raises:
        StoreError: If a column is missing.
        UnknownName: If the method is not one of `METHODS`.
    """
    if method not in METHODS:
        raise UnknownName("method", method, METHODS)
    tables = []
    # The matrices are small. Several BLAS threads would spend most of their time waiting for each other.
    with threadpool_limits(1, "blas"):
        for subset, members in subsets.items():
            models = read_models(frame.filter(members), biases, groups, control, errors)
            tables.append(_subset_rows(models, method, resamples).with_columns(subset=pl.lit(subset)))
    table = pl.concat(tables).sort(pl.int_range(pl.len()).over("subset"), maintain_order=True)
    p = table["p"].fill_null(np.nan).to_numpy()
    has_p = ~np.isnan(p)
    tests = int(has_p.sum())
    detectable = [
        smallest_correlation(n, tests, method) if test and n > EXACT_MODELS else None
        for n, test in zip(table["n"], has_p, strict=True)
    ]
    table = table.with_columns(
        method=pl.lit(method),
        p_holm=pl.Series(holm(p)),
        p_bh=pl.Series(benjamini_hochberg(p)),
        detectable=pl.Series(detectable, dtype=pl.Float64),
        shares_term=pl.lit(value=False),
    )
    return table.select(*SCHEMA).with_columns(pl.col(pl.Float64).fill_nan(None))


def correlate_study(
    study: StudyTable, method: Method = "spearman", resamples: int = 10_000, biases: Sequence[str] = ()
) -> pl.DataFrame:
    """Correlate the bias metrics of a study with its generalization groups, in the published subsets of models.

    Args:
        study: Models of a study, for example from `study_table`.
        method: "spearman" or "pearson".
        resamples: Number of bootstrap resamples, and of random permutations.
        biases: Bias metrics to correlate. All by default.

    Returns:
        The table of `correlate`. `shares_term` and `note` mark metrics that are defined by means of the accuracy that
        they are correlated with.
    """
    table = correlate(
        study.frame,
        biases or study.biases,
        study.groups,
        subsets_of(study.frame),
        method,
        study.control,
        resamples,
        study.errors,
    )
    notes = [
        f"{bias} is {MEASURES[bias.partition(' (')[0]].display.tie_to_clean}, which is part of {group}"
        if group in study.denominators.get(bias, ())
        else None
        for bias, group in table.select("bias", "group").rows()
    ]
    ratio = pl.Series(notes, dtype=pl.String)
    return table.with_columns(
        shares_term=ratio.is_not_null(), note=pl.concat_str(ratio, "note", separator="; ", ignore_nulls=True)
    ).with_columns(note=pl.when(pl.col("note") != "").then("note"))


def model_counts(table: pl.DataFrame) -> list[int]:
    """Return the distinct numbers of models that the coefficients of a table are based on, in ascending order.

    If the table has no coefficients, these are the numbers of models with both values.
    """
    with_coefficient = table.drop_nulls("coefficient")
    return (table if with_coefficient.is_empty() else with_coefficient)["n"].unique().sort().to_list()


def _subset_rows(models: Models, method: Method, resamples: int) -> pl.DataFrame:
    """Return the rows of one subset, sorted by bias metric, without `method`, `subset` and the adjusted p-values."""
    empty = pl.DataFrame(schema={**SCHEMA, "place": pl.Int64})
    blocks = [empty]
    for models_of_block, biases, groups in complete_blocks(models.x, models.y):
        block = models.part(models_of_block, biases, groups)
        columns = {
            "bias": np.repeat(np.array(block.biases, object), len(groups)),
            "group": np.tile(np.array(block.groups, object), len(biases)),
            "place": (biases[:, None] * len(models.y) + groups).ravel(),
        }
        columns |= {name: values.ravel() for name, values in estimates(block, method, resamples).items()}
        kinds = {name: empty.schema[name] for name in columns}
        rows = pl.DataFrame({name: values.tolist() for name, values in columns.items()}, kinds, strict=False)
        if block.n < models.n:
            gaps = pl.lit(f"{models.n - block.n} of {models.n} models lack a value")
            rows = rows.with_columns(note=pl.concat_str(gaps, "note", separator="; ", ignore_nulls=True))
        blocks.append(rows)
    return pl.concat(blocks, how="diagonal").sort("place").drop("place", "subset")


# Estimates for models without missing values, and notes about their limitations


def estimates(models: Models, method: Method, resamples: int) -> Mapping[str, NDArray[Any]]:
    """Compute the columns of the table, (a, b) each. For fewer than four models, there are only `n` and `note`."""
    shape = (len(models.x), len(models.y))
    n = np.full(shape, models.n)
    if models.n < FEWEST_MODELS:
        note = f"{plural(models.n, 'model')}, and a correlation needs {FEWEST_MODELS}"
        return {"n": n, "note": np.full(shape, note, object)}
    x, y = models.x, models.y
    r = coefficients(method, x, y, np.ones(models.n))
    columns = {"n": n, "coefficient": r, **_partial(models, method), **_leave_one_category_out(models, method)}
    if models.n <= EXACT_MODELS:
        p, least = exact_p(method, x, y)
        return columns | {"p": p, "p_permutation": p, "p_least": least, "note": _notes(models, least=least)}
    resampled = [bootstrap(method, x, y, resamples, SEED)]
    if models.over_images.any():  # For other pairs, neither variable has confidence intervals.
        crossed = crossed_bootstrap(method, x, y, models.x_spread, models.y_spread, resamples, SEED, models.shared)
        resampled.append(np.where(models.over_images, crossed, np.nan))
    interval, *over_images = bca_intervals(method, x, y, *resampled)
    with_images = next(iter(over_images), None)
    return {
        **columns,
        "low": interval.low,
        "high": interval.high,
        **({"low_images": with_images.low, "high_images": with_images.high} if with_images else {}),
        "p": t_test(r, models.n - 2),
        "p_permutation": permutation_p(method, x, y, resamples, SEED),
        "note": _notes(models, interval, with_images, resamples),
    }


def _partial(models: Models, method: Method) -> Mapping[str, Floats]:
    """Compute the partial correlation over the models with a known z, and its p-value if there are enough of them."""
    with_z, n = models.has_z, int(models.has_z.sum())
    if models.z is None or n < FEWEST_MODELS:
        return {}
    x, y, z, once = models.x[:, with_z], models.y[:, with_z], models.z[None, with_z], np.ones(n)
    r, xz, yz = (coefficients(method, *pair, once) for pair in ((x, y), (x, z), (y, z)))
    coefficient = partial(r, xz[:, 0], yz[:, 0])
    return {"partial": coefficient} | ({"partial_p": t_test(coefficient, n - 3)} if n > EXACT_MODELS else {})


def _leave_one_category_out(models: Models, method: Method) -> Mapping[str, NDArray[Any]]:
    """Compute the lowest and highest coefficient without one category, and the category that is left out.

    The values are NaN and None for pairs that have an undefined coefficient.
    """
    names = np.unique(models.category).astype(object)
    weights = (models.category != names[:, None]).astype(np.float64)
    if len(names) < 2 or weights.sum(axis=-1).min() < FEWEST_MODELS:
        return {}
    r = coefficients(method, models.x, models.y, weights)
    low_names, high_names = names[np.argmin(r, axis=0)], names[np.argmax(r, axis=0)]
    undefined = np.isnan(r).any(axis=0)
    low_names[undefined] = high_names[undefined] = None
    # `min` and `max` return NaN if any coefficient is NaN.
    return {
        "loco_low": r.min(axis=0),
        "loco_high": r.max(axis=0),
        "loco_low_category": low_names,
        "loco_high_category": high_names,
    }


def _notes(
    models: Models,
    interval: Interval | None = None,
    with_images: Interval | None = None,
    resamples: int = 0,
    least: Floats | None = None,
) -> NDArray[Any]:
    """Return notes, (a, b), that explain missing numbers and limitations. None where there is nothing to report."""
    shared = _shared_notes(models)
    counts_x, counts_y = ([len(np.unique(row)) for row in values] for values in (models.x, models.y))
    ties_x, ties_y = _ties(models.biases, counts_x, models.n), _ties(models.groups, counts_y, models.n)
    notes = np.full((len(counts_x), len(counts_y)), None, object)
    for i, j in np.ndindex(notes.shape):
        parts = [ties_x[i], ties_y[j]]
        if counts_x[i] > 1 and counts_y[j] > 1:
            parts.append(_interval_note(interval, (i, j), resamples) if interval else None)
            if with_images and models.over_images[i, j] and (note := _interval_note(with_images, (i, j), resamples)):
                parts.append(f"over images: {note}")
            if least is not None:
                limit = f"cannot reach {ALPHA}" if least[i, j] >= ALPHA else "are too few for an interval"
                parts.append(f"{models.n} models {limit} (least possible p {least[i, j]:.2g})")
            parts += shared
            if models.control in (models.biases[i], models.groups[j]):
                parts.append(f"{models.control} itself is what partial holds fixed")
        notes[i, j] = "; ".join(filter(None, parts)) or None
    return notes


def _ties(names: Sequence[str], counts: Sequence[int], n: int) -> list[str | None]:
    return [
        f"{name} does not vary" if k == 1 else f"{name} has {k} different values" if k < n else None
        for name, k in zip(names, counts, strict=True)
    ]


def _shared_notes(models: Models) -> list[str]:
    notes = []
    names, counts = np.unique(models.category, return_counts=True)
    if len(names) < 2:
        notes.append("one category, so none can be left out (loco_low)")
    elif models.n - counts.max() < FEWEST_MODELS:
        notes.append(f"without {names[counts.argmax()]} fewer than {FEWEST_MODELS} models are left (loco_low)")
    with_z = int(models.has_z.sum())
    if models.z is not None and with_z < models.n:
        consequence = "too few for partial" if with_z < FEWEST_MODELS else "over which partial is"
        notes.append(f"{with_z} of {models.n} models have {models.control}, {consequence}")
    return notes


def _interval_note(interval: Interval, pair: tuple[int, int], resamples: int) -> str | None:
    undefined = int(interval.undefined[pair])
    if undefined:
        consequence = "no interval" if np.isnan(interval.low[pair]) else "left out"
        return f"in {undefined} of {resamples} resamples a variable does not vary: {consequence}"
    if np.isnan(interval.low[pair]):
        return "all resamples lie on one side of the coefficient: no interval"
    return "every resample has the same coefficient" if interval.low[pair] == interval.high[pair] else None
