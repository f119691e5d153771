"""Names of models: which names in which sources mean one model, and what model it is.

aliases.csv is reviewed by hand: names of one model, and whether the checkpoint is the same or the architecture alone.
What it does not have stays alone: two sources may well mean two models by `resnet50`, and these do. A name of timm or
the study is the model's; another source's name that no alias resolves is `source:name`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import polars as pl

from ...core.errors import UnknownName
from ...core.protocol import SIZE

ALIASES = Path(__file__).with_name("aliases.csv")
FAMILIES = Path(__file__).with_name("families.csv")
TRAINING = Path(__file__).with_name("training.csv")
TRAINED_BY = re.compile(
    r"^(tf_|legacy_|gluon_|ig_|ssl_|swsl_|adv_|ens_adv_|robust_|tv_|tv2_|jx_|google_|facebook_adv_trained_|instagram-|"
    r"googlenet/|test_|fix|swag_|dm_|[a-z-]+20\d\d[a-z]*_(?=[a-z0-9]))"
)
"""A beginning of names, before the architecture, that says who trained the model and how."""
DATA = re.compile(
    r"(?:^|_)(in1k|in12k|in21k|in22k|jft|laion\w*?|ig1b|ig|yfcc100m|webli|dfn\w*?|openai|m38m|m30m|merged\w*)(?=_|$)"
)
"""The data sets that the tag of a timm name holds."""
SPELT: Mapping[str, str] = {"jft": "JFT-300M", "yfcc100m": "YFCC100M", "ig1b": "IG-1B", "in1k": "ImageNet-1k"}
MODELS = (
    *("source", "name", "model", "same", "architecture", "family"),
    *("training", "parameters", "input_size", "training_data"),
)


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
    """A row for each name of a source, with the columns MODELS.

    parameters are in millions, input_size is the least side in pixels that the source has figures for; both are null
    where the source does not say it. training is the way of training by training.csv, and training_data follows from
    the tag of a timm name.
    """
    names = values.group_by("source", "name" if "name" in values.columns else pl.col("model").alias("name")).agg(
        parameters=pl.col("value").filter(pl.col("metric") == "parameters").first(),
        input_size=pl.col("input_size").min(),
    )
    names = names.join(aliases(), on=["source", "name"], how="left", maintain_order="left")
    default = (
        pl.when(pl.col("source").is_in(["timm", "study"])).then("name").otherwise(pl.format("{}:{}", "source", "name"))
    )
    names = names.with_columns(pl.col("model").fill_null(default), pl.col("same").fill_null("checkpoint"))
    distinct = names["model"].unique().to_list()
    facts = pl.DataFrame(
        {
            "model": distinct,
            "architecture": [architecture_of(model) for model in distinct],
            "family": [family_of(model) for model in distinct],
            "training": [training_of(model) for model in distinct],
            "training_data": [_data(model) for model in distinct],
        },
        schema_overrides=dict.fromkeys(("model", "architecture", "family", "training", "training_data"), pl.String),
    )
    return names.join(facts, on="model", maintain_order="left").select(MODELS).sort("source", "name")


def _data(model: str) -> str | None:
    tag = model.partition(".")[2]
    data_sets = dict.fromkeys(SPELT.get(word, word) for word in DATA.findall(tag.replace("_", "__")))
    return " + ".join(data_sets) or None


def add_models(values: pl.DataFrame) -> pl.DataFrame:
    """VALUES with the source's own name as `name`, and model, same, architecture, family and training of `models`."""
    table = models(values).select("source", "name", "model", "same", "architecture", "family", "training")
    return values.rename({"model": "name"}).join(table, on=["source", "name"], how="left", maintain_order="left")


def values_of_model(values: pl.DataFrame, name: str) -> pl.DataFrame:
    """All figures of the models that any source calls `name`, with `range`: how far sources are apart.

    Columns: model, training, source, name, same, benchmark, condition, metric, input_size, value, low, high, unit,
    range, note.
    range is null where one source alone has the checkpoint; of several input sizes the least counts.

    Raises UnknownName where no source has the name.
    """
    rows = add_models(values)
    meant = rows.filter((pl.col("name") == name) | (pl.col("model") == name))["model"].unique()
    if meant.is_empty():
        raise UnknownName("model", name, sorted({*rows["name"], *rows["model"]}))
    figures = rows.filter(pl.col("model").is_in(meant.to_list()), pl.col("benchmark") != "")
    key = ["model", "benchmark", "condition", "metric", "unit"]
    least = pl.col("input_size").min().over([*key, "source"])
    smallest = pl.col("input_size").is_null() | (pl.col("input_size") == least)
    alone = pl.when((pl.col("same") == "checkpoint") & smallest).then("value")
    apart = (alone.max() - alone.min()).over(key)
    comparable = pl.col("source").filter(pl.col("same") == "checkpoint").n_unique().over(key) > 1
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
        pl.when(comparable).then(apart).alias("range"),
        "note",
    ).sort("model", "metric", "benchmark", "condition", "source", "input_size")


COMPARISONS: tuple[tuple[str, str, str, str, str], ...] = (
    ("imagenet", "", "testbed", "", "the same images"),
    ("imagenet-v2", "", "testbed", "", "the testbed's format-val; its other V2 is cropped before"),
    ("imagenet-a", "", "testbed", "", "the same images, among 200 classes"),
    ("imagenet-r", "", "testbed", "", "the same images, among 200 classes"),
    ("imagenet-sketch", "", "testbed", "", "the same images"),
    ("imagenet-c", "15 x 5", "robustbench", "15 x 5", "RobustBench takes 5,000 of the 50,000 images"),
    ("imagenet-c", "15 x 5", "testbed", "15 x 5", "the testbed crops the finished images of ImageNet-C again"),
    ("pgd_linf", "eps 0.5/255, 40 steps", "testbed", "eps 0.5, 100 steps", "the testbed attacks for 100 steps, not 40"),
    ("imagenet-real", "last batch", "timm", "", "the study kept its last batch: 326 images of seven classes"),
)
"""Rows of benchmark and condition of the study, another source and its condition, and why they agree or differ."""


def agreement(values: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The study's figures beside those of others: (a row a comparison, a row a model of it).

    The first has benchmark, against, n, mean, low and high of study minus other in points over n checkpoints, why; the
    second also has models of which the architecture alone is the same, which the first leaves out.
    """
    rows = add_models(values.filter(metric="top1"))
    of_study = rows.filter(source="study").with_columns(pl.col("value").alias("study"))
    pairs = []
    for benchmark, condition, source, source_condition, why in COMPARISONS:
        study_rows = of_study.filter(benchmark=benchmark, condition=condition).select(
            "model", "study", study_same="same"
        )
        source_rows = rows.filter(source=source, benchmark=benchmark, condition=source_condition)
        # The study used one of timm's sizes: the smallest of SIZE pixels or more.
        source_rows = (
            source_rows.filter(pl.col("input_size").fill_null(SIZE) >= SIZE)
            .sort("input_size")
            .unique("model", keep="first")
        )
        both = study_rows.join(source_rows, on="model", maintain_order="left").with_columns(
            same=pl.when(pl.col("study_same") == "architecture").then(pl.lit("architecture")).otherwise("same")
        )
        pairs.append(
            both.select(
                "model",
                "same",
                pl.col("benchmark"),
                "study",
                against=pl.lit(source),
                other="value",
                difference=pl.col("study") - pl.col("value"),
                why=pl.lit(why),
            )
        )
    each = pl.concat(pairs)
    means = (
        each.filter(same="checkpoint")
        .group_by("benchmark", "against", "why", maintain_order=True)
        .agg(
            n=pl.len(),
            mean=pl.col("difference").mean(),
            low=pl.col("difference").min(),
            high=pl.col("difference").max(),
        )
    )
    return means.select("benchmark", "against", "n", "mean", "low", "high", "why"), each.sort(
        "benchmark", "against", "model", maintain_order=True
    )
