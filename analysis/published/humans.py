"""Trials of human observers on 17 sets of stimuli: accuracy by condition, and shape bias.

Source: Geirhos et al. 2021 (model-vs-human), and the experiments of 2018 and 2019 that it holds. Everybody decided
among sixteen classes. Observers of different sets are different people, whatever their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from ...errors import StoreError
from ...protocol import CUE_CONFLICT
from ..statistics.wilson import wilson
from .sources import read_parquet

SIXTEEN = frozenset(
    {"airplane", "bear", "bicycle", "bird", "boat", "bottle", "car", "cat"}
    | {"chair", "clock", "dog", "elephant", "keyboard", "knife", "oven", "truck"}
)
COLUMNS = ("set", "file", "subj", "session", "trial", "rt", "object_response", "category", "condition", "imagename")
NO_ANSWER = "na"
TRIALS = ("stimulus_set", "condition", "subject", "session", "trial", "image", "category", "response")


def read_trials(file: Path) -> pl.DataFrame:
    """The columns TRIALS of a file of trials; StoreError for another one."""
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
    known = [*SIXTEEN, NO_ANSWER]
    _refuse(file, table, "object_response", ~table["object_response"].is_in(known), "none of the sixteen classes")
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

    An observer is `SET subject-NN`; all together are `humans`. No answer is a wrong one.
    """
    judged = trials.with_columns(right=(pl.col("category") == pl.col("response")).fill_null(False))
    subject = pl.format("{} {}", "stimulus_set", "subject")
    for who in (subject, pl.lit("humans")):
        counted = judged.group_by("stimulus_set", "condition", model=who).agg(pl.col("right").sum(), n=pl.len())
        for row in counted.sort(pl.all()).to_dicts():
            low, high = map(float, wilson(row["right"] / row["n"], row["n"]))
            about = {
                "benchmark": row["stimulus_set"],
                "condition": row["condition"],
                "n": row["n"],
                "model": row["model"],
            }
            percent = {"value": 100 * row["right"] / row["n"], "low": 100 * low, "high": 100 * high}
            yield about | percent | {"metric": "top1", "unit": "percent"}
    decided = _conflicts(trials).with_columns(
        shape=pl.col("category") == pl.col("response"), texture=pl.col("texture") == pl.col("response")
    )
    counted = decided.group_by(model=subject).agg(pl.col("shape").sum(), pl.col("texture").sum()).sort("model")
    for row in counted.to_dicts():
        n = row["shape"] + row["texture"]
        ends = [float(end) for end in wilson(row["shape"] / n, n)] if n else [None, None]
        about = {
            "model": row["model"],
            "benchmark": CUE_CONFLICT,
            "condition": "",
            "metric": "shape_bias",
            "unit": "share",
        }
        yield about | {"value": row["shape"] / n if n else None, "low": ends[0], "high": ends[1], "n": n}


def _conflicts(trials: pl.DataFrame) -> pl.DataFrame:
    """The trials of cue conflicts whose shape and texture are of different classes, with `texture`."""
    mine = trials.filter(stimulus_set=CUE_CONFLICT)
    mine = mine.with_columns(texture=pl.col("image").str.extract(r"-([a-z]+)\d*\.png$"))
    return mine.filter(pl.col("texture") != pl.col("category"))
