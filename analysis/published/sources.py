"""Sources of published figures (sources.toml), and the figures that are here. Every figure is one row of VALUES."""

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
"""A figure of a model, as the source names it. condition: what tells two figures of one metric and benchmark apart, ''
where nothing does. input_size: side of the images in pixels, where the source says it. low, high: ends of the 95 %
interval. n: images or trials."""
DESCRIPTIONS = Path(__file__).with_name("sources.toml")


@dataclass(frozen=True, slots=True)
class Source:
    name: str
    title: str
    repository: str
    commit: str
    licence: str
    ships: bool

    @property
    def shipped(self) -> Path:
        return DESCRIPTIONS.with_name(f"{self.name}.parquet")

    @property
    def terms(self) -> str:
        """The licence, and what it means for whoever imports the source."""
        may = "" if self.ships else "; the project may not ship it, so do not pass on a database that holds it unasked"
        return f"licence: {self.licence}{may}"


@cache
def sources() -> Mapping[str, Source]:
    """All sources by name, in the order of sources.toml."""
    descriptions = tomllib.loads(DESCRIPTIONS.read_text(encoding="utf-8"))
    return {entry["name"]: Source(**entry) for entry in descriptions["source"]}


def find_source(name: str) -> Source:
    """The source of a name; UnknownName where there is none."""
    if name not in sources():
        raise UnknownName("source", name, sources())
    return sources()[name]


def shipped_values(names: Iterable[str] | None = None) -> pl.DataFrame:
    """The rows of VALUES that come with the package, of all its sources or of some."""
    shipped = [source for source in sources().values() if source.ships and (names is None or source.name in names)]
    return pl.concat([pl.read_parquet(source.shipped).cast(VALUES).select(VALUES.names()) for source in shipped])


def atlas(store: Store | None = None) -> pl.DataFrame:
    """The rows of VALUES that come with the package, and those that were imported into a results database."""
    values = shipped_values()
    if store is None:
        return values
    imported = store.frame("FROM published_value").cast(VALUES)
    # An import of a shipped source takes its place.
    return pl.concat([values.join(imported, on="source", how="anti"), imported])


def count_figures(values: pl.DataFrame) -> pl.DataFrame:
    """A row for each source: how many models, benchmarks and values `values` has of it, its licence and commit."""
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


# Names of models: which names in which sources mean one model, and what model it is.
#
# aliases.csv is reviewed by hand: names of one model, and whether the checkpoint is the same or the architecture alone.
# What it does not have stays alone: two sources may well mean two models by `resnet50`, and these do. A name of timm or
# the study is the model's; another source's name that no alias resolves is `source:name`.
#
# Nor is a checkpoint of one's own joined by a guess. weights.csv has the first digits of the sha256 of published
# weights, as their publishers write them into the names of the files; a checkpoint whose weights begin so is that
# model, whatever it is called. What `bandlens export NAME` made is the study's of that name. Any other is the one model
# that sources call by its very name, if it is one: `resnet50` is two, and joins with neither.

ALIASES = Path(__file__).with_name("aliases.csv")
WEIGHTS = Path(__file__).with_name("weights.csv")


@cache
def aliases() -> pl.DataFrame:
    """Rows of source, name, model, same (checkpoint or architecture)."""
    return pl.read_csv(ALIASES, comment_prefix="#")


@cache
def _read_rows(file: Path) -> list[tuple[str, ...]]:
    return pl.read_csv(file, comment_prefix="#", infer_schema=False).rows()


def models(values: pl.DataFrame) -> pl.DataFrame:
    """A row for each name of a source: source, name, model, same."""
    names = values.select("source", name="model").unique()
    names = names.join(aliases(), on=["source", "name"], how="left", maintain_order="left")
    fallback = (
        pl.when(pl.col("source").is_in(["timm", "study"])).then("name").otherwise(pl.format("{}:{}", "source", "name"))
    )
    names = names.with_columns(pl.col("model").fill_null(fallback), pl.col("same").fill_null("checkpoint"))
    return names.sort("source", "name")


def add_models(values: pl.DataFrame) -> pl.DataFrame:
    """VALUES with the source's own name as `name`, and the other columns of `models`."""
    rows = values.rename({"model": "name"})
    return rows.join(models(values), on=["source", "name"], how="left", maintain_order="left")


SOURCE_ORDER = ("timm", "timm-2022", "testbed", "study", "open-clip")


def imagenet_top1(values: pl.DataFrame, model: str) -> float | None:
    """The published top-1 of a model on ImageNet in percent, by the first source of SOURCE_ORDER that has it.

    The least of its input sizes that is at least SIZE stands for the model.
    """
    rows = values.filter(pl.col("source").is_in(SOURCE_ORDER), benchmark="imagenet", metric="top1", condition="")
    rows = add_models(rows).filter(model=model, same="checkpoint")
    is_small = pl.col("input_size").fill_null(SIZE) < SIZE
    top1 = rows.sort(pl.col("source").cast(pl.Enum(SOURCE_ORDER)), is_small, "input_size")["value"]
    return float(top1[0]) if len(top1) else None


def values_of_model(values: pl.DataFrame, name: str) -> pl.DataFrame:
    """All figures of the models that any source calls `name`, with `range`: how far sources are apart.

    Columns: model, source, name, same, benchmark, condition, metric, input_size, value, low, high, unit,
    range, note.
    range is null where one source alone has the checkpoint; of several input sizes the least counts.

    Raises UnknownName where no source has the name.
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
    """The published model that each checkpoint is: checkpoint, model, by and note.

    Args:
        checkpoints: name, category and weights_sha256 of each.
        values: rows of VALUES, of the sources that are looked through.

    model and `by` are null where it is none; `by` is weights, study or name; note says why a name does not do.
    """
    # Each checkpoint looks through the names that are its own: the table is long.
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
    """Model, by and note of a checkpoint, with the rows of `models` that have its name."""
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
    """`join_checkpoints` of the checkpoints of a study (name, name@version, or `*`)."""
    checkpoints = store.frame(
        "SELECT DISTINCT named.name, named.category, weights_sha256 FROM version_of(?) "
        "JOIN study_checkpoint AS named ON named.study = study_id JOIN checkpoint ON checkpoint.id = named.checkpoint "
        "ORDER BY ALL",
        [study],
    )
    return join_checkpoints(checkpoints, values)


def published_name(store: Store, name: str, values: pl.DataFrame) -> str:
    """The published model that a checkpoint is; the name itself where no checkpoint has it.

    Raises UnknownName where a checkpoint of that name is no published model.
    """
    rows = join_study(store, "*", values).filter(checkpoint=name)
    if rows.is_empty():
        return name
    names = rows["model"].drop_nulls().unique().to_list()
    if len(names) != 1:
        advice = rows["note"][0] or f"`bandlens published show --db {quoted(store.path)}` says what each checkpoint is"
        raise UnknownName("published model", name, sorted({*models(values)["name"]}), advice)
    return str(names[0])
