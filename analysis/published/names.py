"""Names of models: which names in which sources mean one model, and what model it is.

aliases.csv is reviewed by hand: names of one model, and whether the checkpoint is the same or the architecture alone.
What it does not have stays alone: two sources may well mean two models by `resnet50`, and these do. A name of timm or
the study is the model's; another source's name that no alias resolves is `source:name`.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import polars as pl

from ...core.errors import UnknownName

ALIASES = Path(__file__).with_name("aliases.csv")
FAMILIES = Path(__file__).with_name("families.csv")
TRAINING = Path(__file__).with_name("training.csv")
TRAINED_BY = re.compile(
    r"^(tf_|legacy_|gluon_|ig_|ssl_|swsl_|adv_|ens_adv_|robust_|tv_|tv2_|jx_|google_|facebook_adv_trained_|instagram-|"
    r"googlenet/|test_|fix|swag_|dm_|[a-z-]+20\d\d[a-z]*_(?=[a-z0-9]))"
)
"""A beginning of names, before the architecture, that says who trained the model and how."""


@cache
def aliases() -> pl.DataFrame:
    """Rows of source, name, model, same (checkpoint or architecture)."""
    return pl.read_csv(ALIASES, comment_prefix="#")


@cache
def _families() -> tuple[tuple[str, str], ...]:
    rows = pl.read_csv(FAMILIES, comment_prefix="#").rows()
    return tuple(sorted(rows, key=lambda row: -len(row[0])))


def architecture_of(model: str) -> str:
    """The architecture of a model: its name without source and tag."""
    return model.split(":")[-1].split(".")[0] if not model.startswith("robust_") else "resnet50"


@cache
def family_of(model: str) -> str | None:
    """The family of a model's architecture by families.csv; None where no beginning there fits."""
    name = architecture_of(model).lower()
    for shorter in (name, TRAINED_BY.sub("", name)):
        for beginning, family in _families():
            if shorter.startswith(beginning):
                return family
    return None


@cache
def _ways() -> tuple[tuple[str | None, re.Pattern[str]], ...]:
    rows = pl.read_csv(TRAINING, comment_prefix="#").rows()
    return tuple((way, re.compile(pattern)) for way, pattern in rows)


@cache
def training_of(model: str) -> str | None:
    """The way of training of a model by training.csv, such as supervised or zero-shot; None if nothing was trained."""
    return next((way for way, pattern in _ways() if pattern.search(model)), None)


def models(values: pl.DataFrame) -> pl.DataFrame:
    """A row for each name of a source: source, name, model, same, family, and the way of training by training.csv."""
    names = values.select("source", "name" if "name" in values.columns else pl.col("model").alias("name")).unique()
    names = names.join(aliases(), on=["source", "name"], how="left", maintain_order="left")
    default = (
        pl.when(pl.col("source").is_in(["timm", "study"])).then("name").otherwise(pl.format("{}:{}", "source", "name"))
    )
    names = names.with_columns(pl.col("model").fill_null(default), pl.col("same").fill_null("checkpoint"))
    facts = [(model, family_of(model), training_of(model)) for model in names["model"].unique()]
    table = pl.DataFrame(facts, dict.fromkeys(("model", "family", "training"), pl.String), orient="row")
    return names.join(table, on="model", maintain_order="left").sort("source", "name")


def add_models(values: pl.DataFrame) -> pl.DataFrame:
    """VALUES with the source's own name as `name`, and the other columns of `models`."""
    return values.rename({"model": "name"}).join(
        models(values), on=["source", "name"], how="left", maintain_order="left"
    )


def values_of_model(values: pl.DataFrame, name: str) -> pl.DataFrame:
    """All figures of the models that any source calls `name`, with `range`: how far sources are apart.

    Columns: model, training, source, name, same, benchmark, condition, metric, input_size, value, low, high, unit,
    range, note.
    range is null where one source alone has the checkpoint; of several input sizes the least counts.

    Raises UnknownName where no source has the name.
    """
    rows = add_models(values)
    models_of_name = rows.filter((pl.col("name") == name) | (pl.col("model") == name))["model"].unique()
    if models_of_name.is_empty():
        raise UnknownName("model", name, sorted({*rows["name"], *rows["model"]}))
    figures = rows.filter(pl.col("model").is_in(models_of_name.to_list()), pl.col("benchmark") != "")
    key = ["model", "benchmark", "condition", "metric", "unit"]
    size = pl.col("input_size").min().over([*key, "source"])
    at_least_size = pl.col("input_size").is_null() | (pl.col("input_size") == size)
    values_of_source = pl.when((pl.col("same") == "checkpoint") & at_least_size).then("value")
    range_of_sources = (values_of_source.max() - values_of_source.min()).over(key)
    has_several_sources = pl.col("source").filter(pl.col("same") == "checkpoint").n_unique().over(key) > 1
    return figures.select(
        "model",
        "training",
        "source",
        "name",
        "same",
        "benchmark",
        "condition",
        "metric",
        "input_size",
        "value",
        "low",
        "high",
        "unit",
        pl.when(has_several_sources).then(range_of_sources).alias("range"),
        "note",
    ).sort("model", "metric", "benchmark", "condition", "source", "input_size")
