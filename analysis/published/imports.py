"""The reader of the source that does not ship, as rows of `sources.VALUES`: everything of it, or an error.

A file that is not as described is refused with the file, the row and the column.

`humans` are trials of observers on 17 sets of stimuli (Geirhos et al. 2021, model-vs-human, and the experiments of 2018
and 2019 that it holds). Everybody decided among sixteen classes. Observers of different sets are different people,
whatever their numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ...core.errors import StoreError, UsageError
from ...core.protocol import CUE_CONFLICT, SHAPE_CUES
from ...core.untrusted import check_rows, first_line
from ..statistics.proportions import share_interval, share_of
from .sources import VALUES, Source

TRIALS = "trials.parquet"
"""The file of the source."""


def read_import(source: Source, folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The figures of human observers, by stimulus set and condition, and their single trials, as human_trial has them.

    Raises UsageError for a source that ships and where `folder` lacks the file, and StoreError where the file is not as
    described.
    """
    if source.ships:
        raise UsageError(f"{source.name} is imported as it ships; leave {folder} out")
    if not (folder / TRIALS).is_file():
        raise UsageError(f"{folder} has no {TRIALS}, the file of {source.name}; give the folder that it lies in")
    trials = read_trials(folder / TRIALS)
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
    table.check_columns(TRIAL_COLUMNS, "this is another release than the one described")
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
    for group in (subject, pl.lit("humans")):
        groups = answers_judged.sort(pl.all()).group_by("stimulus_set", "condition", model=group, maintain_order=True)
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
        empty = {"value": None, "low": None, "high": None, "n": 0}
        yield keys | (empty if by_cue.is_empty() else _share(by_cue["shape"], by_cue["image"]))


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


# Tables that others made: they are read and checked, and an error names file, row and column


@dataclass(frozen=True, slots=True)
class SourceTable:
    """The rows of a file, and checks of them, each of which raises StoreError for the first place that fails."""

    file: Path
    rows: pl.DataFrame

    def where(self, row: int, column: str) -> str:
        """The place of a cell, in words."""
        return f"{self.file}, row {row + 1}, column {column}"

    def refuse(self, column: str, mask: pl.Series, why: str) -> None:
        """StoreError for the first row of which `mask` is true; in `why`, {value} stands for its cell."""
        rows = mask.fill_null(False).arg_true()
        if len(rows):
            row = int(rows[0])
            raise StoreError(f"{self.where(row, column)}: {why.replace('{value}', str(self.rows[column][row]))}")

    def check_columns(self, names: Iterable[str], advice: str) -> None:
        """All columns exist."""
        for name in names:
            if name not in self.rows.columns:
                raise StoreError(f"{self.file}, row 1: no column {name}; {advice}")

    def check_filled(self, *columns: str) -> None:
        """No cell of the columns, which are text, is empty."""
        for name in columns:
            empty = self.rows[name].fill_null("").str.strip_chars() == ""
            self.refuse(name, empty, f"empty; every row needs a {name}")

    def check_distinct(self, *key: str) -> None:
        """No two rows have the same key, of which the last column is named."""
        duplicates = self.rows.select(~pl.struct(key).is_first_distinct()).to_series()
        self.refuse(key[-1], duplicates, "{value} is there more than once")


def read_csv(file: Path) -> pl.DataFrame:
    """A CSV file; StoreError where it is none."""
    try:
        return pl.read_csv(file)
    except (OSError, pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise StoreError(f"{file} is not a CSV file ({first_line(error)}); export the predictions again") from error


def read_parquet(file: Path) -> pl.DataFrame:
    """A Parquet file; StoreError where it cannot be read.

    Arrow reads it: Polars' own reader ends some damaged files with a panic, which is no exception to catch.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            check_rows(parquet.metadata.num_rows, file)
            table = parquet.read()
        table.validate(full=True)
        # Names and values alone: metadata need not even be text.
        frame = pl.from_arrow(pa.table(dict(zip(table.column_names, table.columns, strict=True))))
    except (OSError, pa.ArrowException, pl.exceptions.PolarsError, ValueError) as error:
        raise StoreError(f"{file} cannot be read ({first_line(error)}); fetch it again") from error
    return frame if isinstance(frame, pl.DataFrame) else frame.to_frame()
