"""Tables that others made: they are read and checked, and an error names file, row and column."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ...core.errors import StoreError
from ...core.untrusted import check_rows, first_line

ANOTHER_RELEASE = "this is another release than the one described"


@dataclass(frozen=True, slots=True)
class SourceTable:
    """The rows of a file, and checks of them, each of which raises StoreError for the first place that fails."""

    file: Path
    rows: pl.DataFrame

    def where(self, row: int, column: str) -> str:
        """The place of a cell, in words."""
        return f"{self.file}, row {row + 1}, column {column}"

    def refuse(self, column: str, mask: pl.Series, why: str) -> None:
        """StoreError for the first row of which `mask` is true; in `why`, {value} and {value!a} stand for its cell."""
        rows = mask.fill_null(False).arg_true()
        if len(rows):
            row = int(rows[0])
            value = self.rows[column][row]
            why = why.replace("{value!a}", ascii(value)).replace("{value}", str(value))
            raise StoreError(f"{self.where(row, column)}: {why}")

    def check_columns(self, names: Iterable[str], advice: str = ANOTHER_RELEASE) -> None:
        """All columns exist."""
        for name in names:
            if name not in self.rows.columns:
                raise StoreError(f"{self.file}, row 1: no column {name}; {advice}")

    def check_filled(self, *columns: str) -> None:
        """No cell of the columns is empty."""
        for name in columns:
            column = self.rows[name]
            empty = column.str.strip_chars() == "" if column.dtype == pl.String else column.is_null()
            self.refuse(name, column.is_null() | empty, f"empty; every row needs a {name}")

    def check_distinct(self, *key: str) -> None:
        """No two rows have the same key, of which the last column is named."""
        duplicates = self.rows.select(~pl.struct(key).is_first_distinct()).to_series()
        self.refuse(key[-1], duplicates, "{value} is there more than once")


def read_csv(file: Path, advice: str) -> pl.DataFrame:
    """A CSV file; StoreError where it is none, and FileNotFoundError where there is no file."""
    try:
        return pl.read_csv(file)
    except FileNotFoundError:
        raise
    except (OSError, pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise StoreError(f"{file} is not a CSV file ({first_line(error)}); {advice}") from error


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
