"""Trials of human observers on 17 sets of stimuli: accuracy by condition, and shape bias.

Source: Geirhos et al. 2021 (model-vs-human), and the experiments of 2018 and 2019 that it holds. Everybody decided
among sixteen classes. Observers of different sets are different people, whatever their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ...errors import StoreError
from ...protocol import CUE_CONFLICT, SHAPE_CUES
from ..statistics.shares import share_interval, share_of
from .sources import read_parquet

SIXTEEN = frozenset(
    {"airplane", "bear", "bicycle", "bird", "boat", "bottle", "car", "cat"}
    | {"chair", "clock", "dog", "elephant", "keyboard", "knife", "oven", "truck"}
)
COLUMNS = ("set", "file", "subj", "session", "trial", "rt", "object_response", "category", "condition", "imagename")
NO_ANSWER = "na"


def read_trials(file: Path) -> pl.DataFrame:
    """Read a file of trials into the columns of the table human_trial; StoreError for another file."""
    table = read_parquet(file)
    odd = [name for name in (*COLUMNS, *table.columns) if name not in table.columns or name not in COLUMNS]
    if odd:
        word = "unknown" if odd[0] in table.columns else "no"
        raise StoreError(f"{file}, row 1: {word} column {odd[0]}; this is another release than the one described")
    table = table.cast(pl.String)
    for name in COLUMNS:
        if name != "rt":  # a missing time is no fault: it is not used
            _refuse(file, table, name, table[name].fill_null("") == "", "empty")
    for name in ("session", "trial"):
        _refuse(file, table, name, table[name].cast(pl.Int32, strict=False).is_null(), "not a number")
    _refuse(file, table, "category", ~table["category"].is_in(list(SIXTEEN)), "none of the sixteen classes")
    answers = [*SIXTEEN, NO_ANSWER]
    _refuse(file, table, "object_response", ~table["object_response"].is_in(answers), "none of the sixteen classes")
    same = table.select(~pl.struct("set", "subj", "session", "trial").is_first_distinct()).to_series()
    _refuse(file, table, "trial", same, "there more than once")
    image = table["imagename"].str.splitn("_", 7).struct.field("field_6")
    _refuse(file, table, "imagename", image.is_null(), "not the name of a stimulus")
    return table.select(
        stimulus_set="set",
        condition="condition",
        subject="subj",
        session=pl.col("session").cast(pl.Int32),
        trial=pl.col("trial").cast(pl.Int32),
        image=image,
        category="category",
        response=pl.when(pl.col("object_response") != NO_ANSWER).then("object_response"),
    )


def _refuse(file: Path, table: pl.DataFrame, column: str, wrong: pl.Series, why: str) -> None:
    if (rows := wrong.arg_true()).len():
        row = int(rows[0])
        raise StoreError(
            f"{file}, row {row + 1}, column {column}: '{table[column][row]}' is {why}; fetch the file again"
        )


def figures(trials: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Rows of VALUES without source: accuracy of each observer, and of all together, by set and condition; shape bias.

    An observer is `SET subject-NN`; all together are `humans`. No answer is a wrong one. Intervals are over images, as
    those of models are: what all observers answered to an image is one cluster, and they are these observers.
    """
    judged = trials.with_columns(right=(pl.col("category") == pl.col("response")).fill_null(False))
    subject = pl.format("{} {}", "stimulus_set", "subject")
    for who in (subject, pl.lit("humans")):
        by = judged.sort(pl.all()).group_by("stimulus_set", "condition", model=who, maintain_order=True)
        for (benchmark, condition, model), answers in by:
            keys = {"model": model, "benchmark": benchmark, "condition": condition}
            share = _share(answers["right"], answers["image"])
            percent = {name: 100 * share[name] for name in ("value", "low", "high")}
            yield keys | share | percent | {"metric": "top1", "unit": "percent"}
    decided = _conflicts(trials).with_columns(
        shape=pl.col("category") == pl.col("response"), texture=pl.col("texture") == pl.col("response")
    )
    for (model,), answers in decided.sort(pl.all()).group_by(model=subject, maintain_order=True):
        by_cue = answers.filter(pl.col("shape") | pl.col("texture"))
        keys = {"model": model, "benchmark": CUE_CONFLICT, "condition": "", "metric": SHAPE_CUES.bias, "unit": "share"}
        nothing = {"value": None, "low": None, "high": None, "n": 0}
        yield keys | (nothing if by_cue.is_empty() else _share(by_cue["shape"], by_cue["image"]))


def _share(right: pl.Series, images: pl.Series) -> dict[str, Any]:
    """The columns value, low, high and n of a share of answers."""
    share = share_of(right.to_numpy(), images.rank("dense").to_numpy().astype(np.int64))
    low, high = share_interval(share)
    return {"value": share.value, "low": low, "high": high, "n": share.images}


def _conflicts(trials: pl.DataFrame) -> pl.DataFrame:
    """The trials of cue conflicts whose shape and texture are of different classes, with `texture`."""
    conflicts = trials.filter(stimulus_set=CUE_CONFLICT)
    conflicts = conflicts.with_columns(texture=pl.col("image").str.extract(r"-([a-z]+)\d*\.png$"))
    return conflicts.filter(pl.col("texture") != pl.col("category"))
