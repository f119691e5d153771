"""Trials of human observers on 17 sets of stimuli: accuracy by condition, shape bias, and error consistency.

Source: Geirhos et al. 2021 (model-vs-human), and the experiments of 2018 and 2019 that it holds. Everybody decided
among sixteen classes. Observers of different sets are different people, whatever their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ...errors import StoreError, UnknownName, UsageError
from ...untrusted import first_line
from ..database.store import Store
from ..statistics.consistency import Consistency, error_consistency
from ..statistics.wilson import wilson

SIXTEEN = frozenset(
    {"airplane", "bear", "bicycle", "bird", "boat", "bottle", "car", "cat"}
    | {"chair", "clock", "dog", "elephant", "keyboard", "knife", "oven", "truck"}
)
COLUMNS = ("set", "file", "subj", "session", "trial", "rt", "object_response", "category", "condition", "imagename")
CUE_CONFLICT = "cue-conflict"
NO_ANSWER = "na"
TRIALS = ("stimulus_set", "condition", "subject", "session", "trial", "image", "category", "response")


def read_trials(file: Path) -> pl.DataFrame:
    """The columns TRIALS of a file of trials; StoreError for another one."""
    try:
        table = pl.read_parquet(file)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(f"{file} is not a Parquet file ({first_line(error)}); fetch it again") from error
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


def judgements(trials: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Subject -> rows of condition, image and right; of cue conflicts those alone whose cues conflict, right by shape.

    An image that an observer saw twice under a condition counts where it was seen first.
    """
    judged = []
    for (name,), mine in trials.group_by("stimulus_set", maintain_order=True):
        shown = _conflicts(mine).drop("texture") if name == CUE_CONFLICT else mine
        judged.append(shown.unique(["subject", "condition", "image"], keep="first", maintain_order=True))
    right = (pl.col("category") == pl.col("response")).fill_null(False)
    rows = pl.concat(judged).select("subject", "condition", "image", right=right)
    return {subject: rows.filter(subject=subject).drop("subject") for subject in rows["subject"].unique().sort()}


def consistencies(
    people: Mapping[str, pl.DataFrame], machines: Mapping[str, pl.DataFrame], resamples: int = 1000
) -> pl.DataFrame:
    """Error consistency of every two subjects on the images that both judged under one condition.

    Subjects are rows of condition, image and right, each image at most once. Machines are judged on images that people
    saw, where there are people. Columns: first_subject, second_subject, humans (how many of the two are), and the
    fields of `Consistency`, null for NaN. Raises UsageError where there are no two subjects of the same images.
    """
    if people:
        shown = pl.concat([frame.select("condition", "image") for frame in people.values()]).unique()
        machines = {name: frame.join(shown, on=["condition", "image"], how="semi") for name, frame in machines.items()}
    rows = []
    for (first, one), (second, other) in combinations([*people.items(), *machines.items()], 2):
        both = one.join(other, on=["condition", "image"], suffix="_other")
        if len(both):
            found = error_consistency(both["right"].to_numpy(), both["right_other"].to_numpy(), resamples=resamples)
            names = {"first_subject": first, "second_subject": second}
            humans = sum(subject in people for subject in (first, second))
            rows.append(names | {"humans": humans} | {name: getattr(found, name) for name in Consistency.__slots__})
    if not rows:
        raise UsageError("error consistency: no two subjects judged the same images")
    return pl.DataFrame(rows).with_columns(pl.col(pl.Float64).fill_nan(None))


DECISIONS = """
SELECT checkpoint.name AS model, image_set.name AS set, image.path AS path, label_rank = 0 AS right
FROM prediction JOIN cell ON cell.id = prediction.cell JOIN checkpoint ON checkpoint.id = cell.checkpoint
JOIN condition ON condition.id = cell.condition JOIN image_set ON image_set.id = cell.image_set
JOIN image ON image.image_set = cell.image_set AND image.image_index = prediction.image_index
WHERE probe = 'clean' AND cell.complete AND (image_set.benchmark = $1 OR image_set.name = $1) AND label_rank IS NOT NULL
ORDER BY model, cell.id, prediction.image_index
"""


def subjects(store: Store, images: str) -> tuple[dict[str, pl.DataFrame], dict[str, pl.DataFrame]]:
    """The people and the machines of a database that judged `images`: a stimulus set, benchmark or image set.

    Of several cells of a checkpoint the first counts. An image is named by its file alone where people saw it, since
    their stimuli are in no folders. Raises UnknownName where nobody judged such images.
    """
    trials = store.frame("FROM human_trial WHERE stimulus_set = ?", [images])
    people = {} if trials.is_empty() else judgements(trials)
    conditions = trials["condition"].unique().to_list()
    rows = store.frame(DECISIONS, [images])
    if rows.is_empty() and not people:
        sets = store.frame("SELECT stimulus_set FROM human_trial UNION SELECT name FROM image_set ORDER BY ALL")
        raise UnknownName("image set", images, sets.to_series().to_list())
    image = pl.col("path").str.split("/").list.last() if people else pl.format("{}:{}", "set", "path")
    # Sets of one condition alone name it; a model's images are then of that one.
    condition = conditions[0] if len(conditions) == 1 else ""
    rows = rows.select("model", "right", condition=pl.lit(condition), image=image)
    rows = rows.unique(["model", "image"], keep="first", maintain_order=True)
    return people, {name: rows.filter(model=name).drop("model") for name in rows["model"].unique(maintain_order=True)}


def summary(table: pl.DataFrame) -> list[dict[str, Any]]:
    """The mean kappa between humans, and of each model to humans: subject, pairs, kappa, lowest, highest."""
    rows = [_mean("humans", table.filter(humans=2))]
    mixed = table.filter(humans=1).with_columns(model="second_subject")
    rows += [_mean(name, mixed.filter(model=name)) for name in mixed["model"].unique(maintain_order=True)]
    return rows


def _mean(name: str, pairs: pl.DataFrame) -> dict[str, Any]:
    kappas = pairs["kappa"].drop_nulls().to_numpy()
    ends = (float(np.min(kappas)), float(np.max(kappas))) if len(kappas) else (None, None)
    mean = float(np.mean(kappas)) if len(kappas) else None
    return {"subject": name, "pairs": len(pairs), "kappa to humans": mean, "lowest": ends[0], "highest": ends[1]}
