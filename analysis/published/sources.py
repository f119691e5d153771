"""Published results: their sources (sources.toml), and their values as rows of the schema `VALUES`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from ...core.errors import UnknownName, quoted
from ...core.protocol import CATEGORIES, SIZE
from ..database.store import Store

VALUES = pl.Schema(
    {
        "source": pl.String,
        "model": pl.String,
        "benchmark": pl.String,
        "metric": pl.String,
        "condition": pl.String,
        "input_size": pl.Int64,
        "value": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "unit": pl.String,
        "n": pl.Int64,
        "note": pl.String,
    }
)
"""Schema of published values: one row per value of a model.

The model has the name that the source uses. `condition` distinguishes several values of one metric on one benchmark,
and is empty if there is only one. `input_size` is the side length of the images in pixels, if the source reports it.
`low` and `high` are the limits of the 95% confidence interval, and `n` is the number of images or trials.
"""
DESCRIPTIONS = Path(__file__).with_name("sources.toml")


@dataclass(frozen=True, slots=True)
class Source:
    """A source of published values, as described in sources.toml."""

    name: str
    title: str
    repository: str
    commit: str
    licence: str
    ships: bool
    """Whether the license allows bandlens to include the values in its package."""

    @property
    def shipped(self) -> Path:
        """Parquet file of a source that is shipped with bandlens."""
        return DESCRIPTIONS.with_name(f"{self.name}.parquet")

    @property
    def terms(self) -> str:
        """License, and its consequence for users who import the source."""
        may = "" if self.ships else "; the project may not ship it, so do not pass on a database that holds it unasked"
        return f"licence: {self.licence}{may}"


@cache
def sources() -> Mapping[str, Source]:
    """Return all sources by name, in the order of sources.toml."""
    descriptions = tomllib.loads(DESCRIPTIONS.read_text(encoding="utf-8"))
    return {entry["name"]: Source(**entry) for entry in descriptions["source"]}


def find_source(name: str) -> Source:
    """Return a source by name.

    Raises:
        UnknownName: If there is no such source.
    """
    if name not in sources():
        raise UnknownName("source", name, sources())
    return sources()[name]


def shipped_values(names: Iterable[str] | None = None) -> pl.DataFrame:
    """Return the values that are shipped with bandlens, of all sources or of the named ones."""
    shipped = [source for source in sources().values() if source.ships and (names is None or source.name in names)]
    return pl.concat([pl.read_parquet(source.shipped).cast(VALUES).select(VALUES.names()) for source in shipped])


def atlas(store: Store | None = None) -> pl.DataFrame:
    """Return the values that are shipped with bandlens, and those that were imported into a results database."""
    values = shipped_values()
    if store is None:
        return values
    imported = store.frame("FROM published_value").cast(VALUES)
    # If a shipped source was also imported, the imported values replace the shipped ones.
    return pl.concat([values.join(imported, on="source", how="anti"), imported])


def count_figures(values: pl.DataFrame) -> pl.DataFrame:
    """Return one row per source: the number of models, benchmarks and values, the license and the commit."""
    counts = values.group_by("source").agg(
        models=pl.col("model").n_unique(),
        benchmarks=pl.col("benchmark").filter(pl.col("benchmark") != "").n_unique(),
        values=pl.len(),
    )
    facts = ("licence", "repository", "commit", "title")
    rows = [
        {"source": source.name, "here": "shipped" if source.ships else "imported"}
        | {name: getattr(source, name) for name in facts}
        for source in sources().values()
    ]
    table = pl.DataFrame(rows).join(counts, on="source", how="left", maintain_order="left")
    has_values = pl.col("values").is_not_null()
    return table.select("source", "models", "benchmarks", "values", pl.when(has_values).then("here"), *facts)


# Identifying models: names that mean the same model in several sources, and the published model of a checkpoint.
#
# aliases.csv is maintained by hand. It lists the names of a model in several sources, and whether a name means the same
# checkpoint or only the same architecture. Names that it does not list are not matched, because equal names can mean
# different models: `resnet50` does in two sources. The name that timm or the study uses is the canonical name of a
# model. An unlisted name of any other source becomes `source:name`.
#
# A user's checkpoint is not matched by guessing either. The following rules apply in this order. First, if its SHA-256
# starts with a prefix in weights.csv, it is the listed model, whatever its name is. The prefixes come from file names
# of the publishers. Second, a checkpoint that `bandlens export NAME` made for a category of the study is the study's
# model of that name. Third, any other checkpoint is the model with exactly its name, if all sources mean one model by
# it. `resnet50` is two models, so it is matched with neither.

ALIASES = Path(__file__).with_name("aliases.csv")
WEIGHTS = Path(__file__).with_name("weights.csv")


@cache
def aliases() -> pl.DataFrame:
    """Return the aliases: source, name, model, and `same`, which is "checkpoint" or "architecture"."""
    return pl.read_csv(ALIASES, comment_prefix="#")


@cache
def _read_rows(file: Path) -> list[tuple[str, ...]]:
    return pl.read_csv(file, comment_prefix="#", infer_schema=False).rows()


def models(values: pl.DataFrame) -> pl.DataFrame:
    """Return one row for each name of a source: source, name, model and same."""
    names = values.select("source", name="model").unique()
    names = names.join(aliases(), on=["source", "name"], how="left", maintain_order="left")
    fallback = (
        pl.when(pl.col("source").is_in(["timm", "study"])).then("name").otherwise(pl.format("{}:{}", "source", "name"))
    )
    names = names.with_columns(pl.col("model").fill_null(fallback), pl.col("same").fill_null("checkpoint"))
    return names.sort("source", "name")


def add_models(values: pl.DataFrame) -> pl.DataFrame:
    """Rename the column `model` to `name`, and add the columns `model` and `same`."""
    rows = values.rename({"model": "name"})
    return rows.join(models(values), on=["source", "name"], how="left", maintain_order="left")


SOURCE_ORDER = ("timm", "timm-2022", "testbed", "study", "open-clip")
"""Sources of ImageNet accuracies, in order of preference."""


def imagenet_top1(values: pl.DataFrame, model: str) -> float | None:
    """Return the published top-1 accuracy of a model on ImageNet in percent, or None.

    The first source of `SOURCE_ORDER` that has the model is used. Of several input sizes, the smallest one of at least
    `SIZE` pixels is used.
    """
    rows = values.filter(pl.col("source").is_in(SOURCE_ORDER), benchmark="imagenet", metric="top1", condition="")
    rows = add_models(rows).filter(model=model, same="checkpoint")
    is_small = pl.col("input_size").fill_null(SIZE) < SIZE
    top1 = rows.sort(pl.col("source").cast(pl.Enum(SOURCE_ORDER)), is_small, "input_size")["value"]
    return float(top1[0]) if len(top1) else None


def values_of_model(values: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return all published values of the models that any source calls `name`.

    Args:
        values: Published values with the columns of `VALUES`.
        name: Name of a model in a source, or its canonical name.

    Returns:
        Columns model, source, name, same, benchmark, condition, metric, input_size, value, low, high, unit, range and
        note. `range` is the difference between the largest and the smallest value that sources report for the same
        checkpoint, each at its smallest input size. It is null if only one source has the checkpoint.

    Raises:
        UnknownName: If no source has the name.
    """
    rows = add_models(values)
    models_of_name = rows.filter((pl.col("name") == name) | (pl.col("model") == name))["model"].unique()
    if models_of_name.is_empty():
        choices = [*sources(), *sorted({*rows["name"], *rows["model"]})]
        near, words = ([], "it is a source") if name in sources() else (choices, "--db finds a checkpoint of yours")
        raise UnknownName("model or source", name, near, f"{words}, and `bandlens published show` lists sources")
    figures = rows.filter(pl.col("model").is_in(models_of_name.to_list()), pl.col("benchmark") != "")
    key = ["model", "benchmark", "condition", "metric", "unit"]
    size = pl.col("input_size").min().over([*key, "source"])
    at_least_size = pl.col("input_size").is_null() | (pl.col("input_size") == size)
    values_of_source = pl.when((pl.col("same") == "checkpoint") & at_least_size).then("value")
    range_of_sources = (values_of_source.max() - values_of_source.min()).over(key)
    has_several_sources = pl.col("source").filter(pl.col("same") == "checkpoint").n_unique().over(key) > 1
    spread = pl.when(has_several_sources).then(range_of_sources).alias("range")
    names = ("model", "source", "name", "same", "benchmark", "condition", "metric")
    order = ("model", "metric", "benchmark", "condition", "source", "input_size")
    return figures.select(*names, "input_size", "value", "low", "high", "unit", spread, "note").sort(order)


def join_checkpoints(checkpoints: pl.DataFrame, values: pl.DataFrame) -> pl.DataFrame:
    """Find the published model of each checkpoint.

    Args:
        checkpoints: Columns name, category and weights_sha256.
        values: Published values with the columns of `VALUES`.

    Returns:
        Columns checkpoint, model, by and note. `by` is the rule that identified the model: weights, study or name.
        `model` and `by` are null if the checkpoint is not a published model. `note` is the reason if its name is
        ambiguous.
    """
    # Index the rows by name. The table is too long to be searched for each checkpoint.
    rows_by_name: dict[str, list[dict[str, Any]]] = {}
    for row in models(values).select("source", "name", "model", "same").to_dicts():
        for name in {row["name"], row["model"]}:
            rows_by_name.setdefault(name, []).append(row)
    rows = [
        (name, *_published_model(name, category, sha256, rows_by_name.get(name, [])))
        for name, category, sha256 in checkpoints.select("name", "category", "weights_sha256").rows()
    ]
    return pl.DataFrame(rows, dict.fromkeys(("checkpoint", "model", "by", "note"), pl.String), orient="row")


def _published_model(
    name: str, category: str, sha256: str, namesakes: Sequence[dict[str, Any]]
) -> tuple[str | None, str | None, str | None]:
    """Return model, by and note of a checkpoint, given the rows of `models` that have its name."""
    for digits, model, _ in _read_rows(WEIGHTS):
        if sha256.startswith(digits):
            return model, "weights", None
    if category in CATEGORIES:
        study_models = [row["model"] for row in namesakes if (row["source"], row["name"]) == ("study", name)]
        return (study_models[0], "study", None) if study_models else (None, None, None)
    candidates = sorted({row["model"] for row in namesakes})
    if len(candidates) == 1 and any(row["same"] == "checkpoint" for row in namesakes):
        return candidates[0], "name", None
    note = f"the name of {len(candidates)} models: {', '.join(candidates)}" if candidates[1:] else None
    return None, None, note


def join_study(store: Store, study: str, values: pl.DataFrame) -> pl.DataFrame:
    """Find the published model of each checkpoint of a study, see `join_checkpoints`.

    Args:
        store: Results database.
        study: NAME, NAME@VERSION or `*`.
        values: Published values with the columns of `VALUES`.
    """
    checkpoints = store.frame(
        "SELECT DISTINCT named.name, named.category, weights_sha256 FROM version_of(?) "
        "JOIN study_checkpoint AS named ON named.study = study_id JOIN checkpoint ON checkpoint.id = named.checkpoint "
        "ORDER BY ALL",
        [study],
    )
    return join_checkpoints(checkpoints, values)


def published_name(store: Store, name: str, values: pl.DataFrame) -> str:
    """Return the name of the published model that a checkpoint is, or `name` itself if no checkpoint has this name.

    Raises:
        UnknownName: If the checkpoint is not a published model.
    """
    rows = join_study(store, "*", values).filter(checkpoint=name)
    if rows.is_empty():
        return name
    names = rows["model"].drop_nulls().unique().to_list()
    if len(names) != 1:
        advice = rows["note"][0] or f"`bandlens published show --db {quoted(store.path)}` says what each checkpoint is"
        raise UnknownName("published model", name, sorted({*models(values)["name"]}), advice)
    return str(names[0])
