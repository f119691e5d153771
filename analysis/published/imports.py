"""Import a published source that bandlens may not redistribute.

The file is read completely or not at all. An error names the file, the row and the column that differ from the
described format.

The source `humans` consists of the trials of human observers on 17 stimulus sets (Geirhos et al. 2021, model-vs-human,
which includes the experiments of 2018 and 2019). All observers chose among sixteen classes. Observers of different
stimulus sets are different people, even if their numbers are the same.
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
"""Name of the file with the trials."""


def read_import(source: Source, folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read the trials of human observers.

    Args:
        source: Source to import.
        folder: Folder that contains `TRIALS`.

    Returns:
        Accuracies and shape biases, with the columns of `sources.VALUES`, and the trials, with the columns of the table
        human_trial.

    Raises:
        UsageError: If the source is shipped with bandlens, or the folder does not contain the file.
        StoreError: If the file does not have the described format.
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
"""The sixteen classes of the experiments."""
NO_ANSWER = "na"
"""Marks a trial in which the observer did not respond."""
TRIAL_COLUMNS = ("set", "condition", "subj", "session", "trial", "imagename", "category", "object_response")


def read_trials(file: Path) -> pl.DataFrame:
    """Read a file of trials and return the columns of the table human_trial.

    Raises:
        StoreError: If the file does not have the described format.
    """
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
    """Yield the accuracy of each observer and of all together, by stimulus set and condition, and the shape biases.

    Rows have the columns of `sources.VALUES` except `source`. An observer is named `SET subject-NN`, and all together
    `humans`. A missing response counts as incorrect. Confidence intervals are over images, as for models: the responses
    of all observers to an image form one cluster, and the intervals describe these particular observers.
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
    """Return the columns value, low, high and n for a proportion of responses."""
    share = share_of(hits.to_numpy(), images.rank("dense").to_numpy().astype(np.int64))
    low, high = share_interval(share)
    return {"value": share.value, "low": low, "high": high, "n": share.images}


def _conflicts(trials: pl.DataFrame) -> pl.DataFrame:
    """Return the cue-conflict trials whose shape and texture are of different classes, with the column `texture`."""
    texture = pl.col("image").str.extract(r"-([a-z]+)\d*\.png$")
    conflicts = trials.filter(stimulus_set=CUE_CONFLICT).with_columns(texture=texture)
    return conflicts.filter(pl.col("texture") != pl.col("category"))


# Reading and validating tables from other sources. Errors name the file, the row and the column.


@dataclass(frozen=True, slots=True)
class SourceTable:
    """Rows of a file, and validations that raise StoreError for the first invalid cell."""

    file: Path
    rows: pl.DataFrame

    def where(self, row: int, column: str) -> str:
        """Return the location of a cell for error messages."""
        return f"{self.file}, row {row + 1}, column {column}"

    def refuse(self, column: str, mask: pl.Series, why: str) -> None:
        """Raise StoreError for the first row in which `mask` is true.

        In the reason `why`, `{value}` is replaced by the value of the cell.
        """
        rows = mask.fill_null(False).arg_true()
        if len(rows):
            row = int(rows[0])
            raise StoreError(f"{self.where(row, column)}: {why.replace('{value}', str(self.rows[column][row]))}")

    def check_columns(self, names: Iterable[str], advice: str) -> None:
        """Check that all columns exist."""
        for name in names:
            if name not in self.rows.columns:
                raise StoreError(f"{self.file}, row 1: no column {name}; {advice}")

    def check_filled(self, *columns: str) -> None:
        """Check that text columns have no empty cells."""
        for name in columns:
            empty = self.rows[name].fill_null("").str.strip_chars() == ""
            self.refuse(name, empty, f"empty; every row needs a {name}")

    def check_distinct(self, *key: str) -> None:
        """Check that no two rows have the same key. The error message quotes the last column of the key."""
        duplicates = self.rows.select(~pl.struct(key).is_first_distinct()).to_series()
        self.refuse(key[-1], duplicates, "{value} is there more than once")


def read_csv(file: Path) -> pl.DataFrame:
    """Read a CSV file.

    Raises:
        StoreError: If the file cannot be read.
    """
    try:
        return pl.read_csv(file)
    except (OSError, pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise StoreError(f"{file} is not a CSV file ({first_line(error)}); export the predictions again") from error


def read_parquet(file: Path) -> pl.DataFrame:
    """Read a Parquet file with Arrow.

    Polars' own reader panics on some damaged files, and a Rust panic is not a regular exception that could be caught.

    Raises:
        StoreError: If the file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            check_rows(parquet.metadata.num_rows, file)
            table = parquet.read()
        table.validate(full=True)
        # Keep only names and values. Metadata of the file may be invalid, for example not text.
        frame = pl.from_arrow(pa.table(dict(zip(table.column_names, table.columns, strict=True))))
    except (OSError, pa.ArrowException, pl.exceptions.PolarsError, ValueError) as error:
        raise StoreError(f"{file} cannot be read ({first_line(error)}); fetch it again") from error
    return frame if isinstance(frame, pl.DataFrame) else frame.to_frame()
