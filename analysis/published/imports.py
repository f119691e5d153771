"""Readers of sources, as rows of `sources.VALUES`: everything of a source, or an error.

A file that is not as described is refused with the file, the row (its line, the header being line 1) and the column;
nothing is read of a source whose files are not all right.

`humans` are trials of observers on 17 sets of stimuli (Geirhos et al. 2021, model-vs-human, and the experiments of 2018
and 2019 that it holds). Everybody decided among sixteen classes. Observers of different sets are different people,
whatever their numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from ...core.errors import UsageError
from ...core.protocol import CUE_CONFLICT, SHAPE_CUES
from ..statistics.shares import share_interval, share_of
from .sources import VALUES, Source
from .tables import SourceTable, read_csv, read_parquet

Read: TypeAlias = tuple[pl.DataFrame, pl.DataFrame | None]
"""Rows of VALUES, and human trials, the columns of the table human_trial, where the source has any."""


def read_import(source: Source, folder: Path) -> Read:
    """The rows and trials that are imported of a source.

    Raises UsageError where `folder` lacks one of its files, or nothing but what ships can be imported of the source,
    and StoreError where a file is not as described.
    """
    if source.reader is None:
        raise UsageError(f"{source.name} is imported as it ships; leave {folder} out")
    for path in source.paths:
        if not (folder / path).is_file():
            raise UsageError(f"{folder} has no {path}; {source.name} is {', '.join(source.paths)} in one folder")
    return READERS[source.reader](source, *(folder / path for path in source.paths))


TIMM: Mapping[str, int | None] = {
    "imagenet": 50_000,
    "imagenet-real": 46_837,
    "imagenet-v2": 10_000,
    "imagenet-sketch": 50_889,
    "imagenet-a": 7500,
    "imagenet-r": 30_000,
    "imagenet-a-clean": None,
    "imagenet-r-clean": None,
}
"""Benchmark of each of timm's files -> the number of its images, where it is known."""
HUNDREDTH = 0.01
"""Points by which accuracy and error together may miss 100 %, since both are rounded."""


def timm(source: Source, *files: Path) -> Read:
    """Top-1 of each model at each size of its images, and its parameters."""
    parts = [read_results(source.name, benchmark, file) for benchmark, file in zip(TIMM, files, strict=True)]
    return pl.concat(parts), None


def read_results(source: str, benchmark: str, file: Path) -> pl.DataFrame:
    """The rows of VALUES of one of timm's files: another release is refused, but for columns that are not read."""
    table = SourceTable(file, read_csv(file, infer_schema=False), counts_lines=True)
    columns = ["model", "img_size", "top1", "top1_err", *(["param_count"] if benchmark == "imagenet" else [])]
    table.check_columns(columns)
    table.check_filled(*columns)
    table.check_distinct("img_size", "model")
    no_size = ~table.rows["img_size"].str.contains(r"^[1-9][0-9]{0,5}$")
    table.refuse("img_size", no_size, "{value!a} is not a number of pixels")
    top1, error = table.numbers("top1"), table.numbers("top1_err")
    table.refuse("top1", (top1 < 0) | (top1 > 100), "{value} is not a percent from 0 to 100")
    # A number of another unit, such as a share, does not.
    mismatches = (top1 + error - 100).abs() >= HUNDREDTH
    table.refuse("top1", mismatches, "{value} and its top1_err do not make 100 percent")
    accuracies = table.rows.select(
        source=pl.lit(source),
        model="model",
        benchmark=pl.lit(benchmark),
        metric=pl.lit("top1"),
        condition=pl.lit(""),
        input_size=pl.col("img_size").cast(pl.Int64),
        value=top1,
        unit=pl.lit("percent"),
        n=pl.lit(TIMM[benchmark], pl.Int64),
    )
    parts = [pl.DataFrame(schema=VALUES), accuracies]
    if benchmark == "imagenet":
        facts = {"benchmark": pl.lit(""), "metric": pl.lit("parameters"), "unit": pl.lit("million")}
        parts.append(accuracies.with_columns(**facts, value=table.numbers("param_count"), n=pl.lit(None, pl.Int64)))
    return pl.concat(parts, how="diagonal")


def humans(source: Source, file: Path) -> Read:
    """Accuracy of human observers by stimulus set and condition, their shape bias, and their single trials."""
    trials = read_trials(file)
    return pl.DataFrame([row | {"source": source.name} for row in figures(trials)], VALUES), trials


SIXTEEN = frozenset(
    {"airplane", "bear", "bicycle", "bird", "boat", "bottle", "car", "cat"}
    | {"chair", "clock", "dog", "elephant", "keyboard", "knife", "oven", "truck"}
)
NO_ANSWER = "na"
TRIAL_COLUMNS = ("set", "condition", "subj", "session", "trial", "imagename", "category", "object_response")


def read_trials(file: Path) -> pl.DataFrame:
    """Read a file of trials into the columns of the table human_trial; StoreError for another file."""
    table = SourceTable(file, read_parquet(file))
    table.check_columns(TRIAL_COLUMNS)
    trials = table.rows.select(pl.col(TRIAL_COLUMNS).cast(pl.String))
    table = SourceTable(file, trials)
    table.check_filled(*TRIAL_COLUMNS)
    for name in ("session", "trial"):
        no_number = trials[name].cast(pl.Int32, strict=False).is_null()
        table.refuse(name, no_number, "'{value}' is not a number; fetch the file again")
    for name, classes in (("category", SIXTEEN), ("object_response", SIXTEEN | {NO_ANSWER})):
        wrong_class = ~trials[name].is_in(list(classes))
        table.refuse(name, wrong_class, "'{value}' is none of the sixteen classes; fetch the file again")
    table.check_distinct("set", "subj", "session", "trial")
    image = trials["imagename"].str.splitn("_", 7).struct.field("field_6")
    table.refuse("imagename", image.is_null(), "'{value}' is not the name of a stimulus; fetch the file again")
    return trials.select(
        stimulus_set="set",
        condition="condition",
        subject="subj",
        session=pl.col("session").cast(pl.Int32),
        trial=pl.col("trial").cast(pl.Int32),
        image=image,
        category="category",
        response=pl.when(pl.col("object_response") != NO_ANSWER).then("object_response"),
    )


def figures(trials: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Rows of VALUES without source: accuracy of each observer, and of all together, by set and condition; shape bias.

    An observer is `SET subject-NN`; all together are `humans`. No answer is a wrong one. Intervals are over images, as
    those of models are: what all observers answered to an image is one cluster, and they are these observers.
    """
    answers_judged = trials.with_columns(right=(pl.col("category") == pl.col("response")).fill_null(False))
    subject = pl.format("{} {}", "stimulus_set", "subject")
    for who in (subject, pl.lit("humans")):
        groups = answers_judged.sort(pl.all()).group_by("stimulus_set", "condition", model=who, maintain_order=True)
        for (benchmark, condition, model), answers in groups:
            keys = {"model": model, "benchmark": benchmark, "condition": condition}
            share = _share(answers["right"], answers["image"])
            percent = {name: 100 * share[name] for name in ("value", "low", "high")}
            yield keys | share | percent | {"metric": "top1", "unit": "percent"}
    conflicts = _conflicts(trials).with_columns(
        shape=pl.col("category") == pl.col("response"), texture=pl.col("texture") == pl.col("response")
    )
    for (model,), answers in conflicts.sort(pl.all()).group_by(model=subject, maintain_order=True):
        by_cue = answers.filter(pl.col("shape") | pl.col("texture"))
        keys = {"model": model, "benchmark": CUE_CONFLICT, "condition": "", "metric": SHAPE_CUES.bias, "unit": "share"}
        nothing = {"value": None, "low": None, "high": None, "n": 0}
        yield keys | (nothing if by_cue.is_empty() else _share(by_cue["shape"], by_cue["image"]))


def _share(hits: pl.Series, images: pl.Series) -> dict[str, Any]:
    """The columns value, low, high and n of a share of answers."""
    share = share_of(hits.to_numpy(), images.rank("dense").to_numpy().astype(np.int64))
    low, high = share_interval(share)
    return {"value": share.value, "low": low, "high": high, "n": share.images}


def _conflicts(trials: pl.DataFrame) -> pl.DataFrame:
    """The trials of cue conflicts whose shape and texture are of different classes, with `texture`."""
    texture = pl.col("image").str.extract(r"-([a-z]+)\d*\.png$")
    conflicts = trials.filter(stimulus_set=CUE_CONFLICT).with_columns(texture=texture)
    return conflicts.filter(pl.col("texture") != pl.col("category"))


READERS: Mapping[str, Callable[..., Read]] = {
    "humans": humans,
    "timm": timm,
}
