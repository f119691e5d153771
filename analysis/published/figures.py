"""The published study's figures: the ten that its correlation table needs, shipped; and its whole file, parsed.

    ID = mean(imagenet, imagenet-v2, imagenet-real)      Robustness  = mean(imagenet-a, imagenet-c, imagenet-cbar)
    Concepts = mean(imagenet-sketch, imagenet-r, stylized)  Adversarial = PGD, 40 steps, eps 0.5/255

top-1 in percent, exactly as published, faults included (docs/findings.md lists them). Source: Gavrikov & Keuper 2024.
The shipped CSV is, below three lines of attribution,

    figures_from_benchmark(read_benchmark(path), categories).write_csv(float_precision=6)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import chain
from math import inf, isfinite
from pathlib import Path
from typing import Any

import polars as pl

from ...core.errors import StoreError, UsageError, quoted, some_of
from ...core.protocol import ACCURACIES, AS_PUBLISHED, GROUPS
from ..correlations.models import ID_BENCHMARK, ID_GROUP, SUBSET_FILTERS, StudyTable, denominators_of
from ..correlations.table import correlations
from ..database.store import Store
from ..measures import critical_band, cues, spectral_bias
from ..statistics.arrays import ALPHA
from .tables import read_csv

SOURCE = "Gavrikov & Keuper 2024 (CC BY-SA 4.0), benchmark.csv"
SHIPPED = Path(__file__).with_name("published_figures.csv")
PUBLISHED_TOP1: Mapping[str, str] = {
    **{name: f"top1_acc/{name}" for name in ACCURACIES},
    "imagenet-real_last_batch": "top1_acc/imagenet-real",
    "pgd_linf": "top1_acc/PGD-40/low",
}
"""Name of an accuracy -> the published column that holds it; that of ReaL holds the last batch's."""
PUBLISHED_GROUPS: Mapping[str, tuple[str, ...]] = {
    group: tuple(PUBLISHED_TOP1[name] for name in names) for group, names in GROUPS.items() if group != AS_PUBLISHED
}
CLEAN = PUBLISHED_TOP1["imagenet"]
RATIO = "a ratio to the clean accuracy"
RANGES: Mapping[str, tuple[float, float, str]] = {
    "top1_acc/": (0, 100, "an accuracy in percent"),
    "shape-bias": (0, 1, "a share"),
    "metric/bandpass/": (0, inf, RATIO),
    "metric/criticalband/": (0, inf, "a bandwidth, frequency or sensitivity"),
}
"""The lowest and the highest value of columns, and a description, by the first letters of their names."""
BIASES: Mapping[str, tuple[str, ...]] = {
    measure.name: measure.published
    for module in (cues, spectral_bias, critical_band)
    for measure in module.MEASURES
    if measure.published
}
"""Figure -> the published columns that it is the mean of."""
_FIGURES = {**PUBLISHED_GROUPS, **BIASES}


def shipped_figures() -> pl.DataFrame:
    """48 rows: model, category, the four groups, the six biases; six decimals."""
    return pl.read_csv(SHIPPED, comment_prefix="#")


def published_table() -> StudyTable:
    """The 48 models of the study as `correlate_study` takes them."""
    denominators = denominators_of((bias, ID_BENCHMARK) for bias in BIASES)
    return StudyTable(shipped_figures(), list(BIASES), list(PUBLISHED_GROUPS), ID_GROUP, denominators=denominators)


def read_benchmark(path: Path) -> pl.DataFrame:
    """The study's whole results file, 70 models by 1,599 columns, as rows of model, metric, value, source.

    Empty fields give no row. Raises UsageError for a file that is not there, and StoreError for one that is not the
    study's file, lacks a column or one of the 48 models, repeats one, or holds a value that cannot be: one that is not
    a finite number, or lies outside of its column's RANGES, as a share among percents or a percent among shares does.
    """
    advice = "give the study's benchmark.csv"
    try:
        wide = read_csv(path, advice, infer_schema=False)
        header = read_csv(path, advice, has_header=False, n_rows=1, infer_schema=False).rows()
    except FileNotFoundError:
        raise UsageError(f"no file {path}; {advice}") from None
    needed = [column for columns in _FIGURES.values() for column in columns]
    absent = [column for column in needed if column not in wide.columns]
    if "model" not in wide.columns or len(absent) == len(needed):
        raise StoreError(f"{path} has neither models nor metrics of the study; give its benchmark.csv")
    if absent:
        raise StoreError(f"{path} lacks the columns {some_of(absent)}; give the study's complete benchmark.csv")
    for kind, names in (("column", chain(*header)), ("model", wide["model"].to_list())):
        repeated = [str(name) for name, times in Counter(names).items() if times > 1]
        if repeated:
            raise StoreError(f"{path} has the {kind} {some_of(repeated)} more than once; keep one of each")
    absent = sorted(set(shipped_figures()["model"]) - set(wide["model"]))
    if absent:
        raise StoreError(f"{path} lacks the models {some_of(absent)}; give the study's complete benchmark.csv")
    text = wide.unpivot(index="model", variable_name="metric").drop_nulls("value")
    long = text.with_columns(pl.col("value").str.strip_chars().cast(pl.Float64, strict=False))
    _check_values(path, text["value"], long)
    return long.with_columns(source=pl.lit(SOURCE))


def imported_figures(store: Store) -> pl.DataFrame:
    """The ten figures of the 48 models from what was imported; UsageError where the study's file was not."""
    published = store.frame("SELECT model, metric, value FROM published WHERE source = ?", [SOURCE])
    if published.is_empty():
        raise UsageError(
            f"{store.path} holds no published figures; run `bandlens published import FILE "
            f"--db {quoted(store.path)}` first"
        )
    return figures_from_benchmark(published)


def _check_values(path: Path, text: pl.Series, long: pl.DataFrame) -> None:
    """StoreError for the first value that cannot be; `text` has the values as the file spells them."""
    clean = long.filter(metric=CLEAN).select("model", clean="value")
    bounds = pl.DataFrame(
        [(metric, *range_of(metric)) for metric in long["metric"].unique()],
        schema={"metric": pl.String, "low": pl.Float64, "high": pl.Float64, "unit": pl.String},
        orient="row",
    )
    rows = long.with_columns(text=text).join(bounds, on="metric", how="left", maintain_order="left")
    rows = rows.join(clean, on="model", how="left", maintain_order="left")
    # A ratio to the clean accuracy is that of an accuracy of at most 100 percent; the slack is for rounded digits.
    most = 1.001 * 100 / pl.col("clean")
    high = pl.when((pl.col("unit") == RATIO) & (pl.col("clean") > 0)).then(most).otherwise("high")
    finite = pl.col("value").is_finite().fill_null(False)
    wrong = rows.with_columns(high=high).filter(~finite | ~pl.col("value").is_between("low", "high"))
    for row in wrong.head(1).iter_rows(named=True):
        where, value = f"{path}: model {row['model']}, column {row['metric']}:", ascii(row["text"])
        if row["value"] is None or not isfinite(row["value"]):
            kind = "not a number" if row["value"] is None else "not a finite number"
            raise StoreError(f"{where} {value} is {kind}; fetch the file again, or leave the field empty")
        reach = f"at least {row['low']:g}" if row["high"] == inf else f"from {row['low']:g} to {row['high']:.4g}"
        raise StoreError(f"{where} {value} is not {row['unit']}, {reach}; fetch the file again")
    for metric in PUBLISHED_TOP1.values():
        values = long.filter(metric=metric)["value"]
        if len(values) and not (values > 1).any():
            raise StoreError(
                f"{path}: column {metric} holds shares, none above 1, instead of percents; multiply by 100"
            )


def range_of(metric: str) -> tuple[float, float, str]:
    """The lowest and highest value that a published column can have, and what its values are."""
    ranges = (bounds for start, bounds in RANGES.items() if metric.startswith(start))
    return next(ranges, (-inf, inf, "a number"))


def figures_from_benchmark(published: pl.DataFrame, categories: Mapping[str, str] | None = None) -> pl.DataFrame:
    """The ten figures of the 48 models, unrounded, from rows of model, metric, value as `read_benchmark` gives them.

    `categories` maps models to their categories; left out, it is the shipped 48. Raises StoreError where a
    model or a value is missing, or is there twice.
    """
    if categories is None:
        shipped = shipped_figures()
        categories = dict(zip(shipped["model"], shipped["category"], strict=True))
    metric_of = [(figure, metric) for figure, metrics in _FIGURES.items() for metric in metrics]
    order = pl.DataFrame({"model": list(categories), "category": list(categories.values())})
    needed = order.join(pl.DataFrame(metric_of, schema=["figure", "metric"], orient="row"), how="cross")
    values = needed.join(
        published.select("model", "metric", "value"), on=["model", "metric"], how="left", maintain_order="left"
    )
    gaps = values.filter(pl.col("value").is_null())
    if len(gaps):
        missing = gaps.select(pl.concat_str("model", "metric", separator=" ")).to_series()
        raise StoreError(f"published figures: no value for {some_of(missing.to_list())}; import benchmark.csv again")
    if len(values) > len(needed):
        raise StoreError("published figures: some values are there more than once; import benchmark.csv again")
    means = values.group_by("model", "category", "figure", maintain_order=True).agg(pl.col("value").mean())
    return means.pivot(on="figure", index=["model", "category"], values="value").select("model", "category", *_FIGURES)


def correlation_table(figures: pl.DataFrame) -> list[dict[str, Any]]:
    """{bias, group, subset, spearman, p, n} for 6 biases x 4 groups x 3 subsets, in the published order.

    Subsets are all models (total), the adversarially trained ones by category, and the others. As published,
    spearman reads 0 where p >= 0.05; it is None where it is not defined.
    """
    tables = [
        correlations(figures.filter(members), list(BIASES), list(PUBLISHED_GROUPS)).with_columns(subset=pl.lit(name))
        for name, members in SUBSET_FILTERS.items()
    ]
    spearman = pl.when(pl.col("p") < ALPHA).then("spearman").when(pl.col("p").is_not_null()).then(0.0)
    rank = pl.int_range(pl.len()).over("subset")
    table = pl.concat(tables).sort(rank, maintain_order=True)
    return table.select(bias="x", group="y", subset="subset", spearman=spearman, p="p", n="n").to_dicts()
