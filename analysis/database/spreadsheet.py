"""Write CSV files that are safe to open in spreadsheet programs, which would otherwise run some values as formulas."""

from __future__ import annotations

from typing import Any

import polars as pl
from polars import selectors


def spreadsheet_csv(frame: pl.DataFrame, **settings: Any) -> str:
    """Convert a table to CSV and escape values that a spreadsheet program would evaluate as formulas.

    An apostrophe is inserted before text that starts with =, +, -, @, a tab or a carriage return, unless the text is a
    number. Categorical values and column names are escaped too.

    Args:
        frame: Table to convert.
        settings: Arguments of `polars.DataFrame.write_csv`.

    Returns:
        The text of the CSV file.
    """

    def guard(texts: pl.DataFrame) -> pl.DataFrame:
        cells = pl.all()
        runs = cells.str.contains(r"^[=+\-@\t\r]") & cells.cast(pl.Float64, strict=False).is_null()
        return texts.select(pl.when(runs).then("'" + cells).otherwise(cells).name.keep())

    texts = frame.select(selectors.string(include_categorical=True) | selectors.enum())
    frame = frame.with_columns(guard(texts.cast(pl.String)))
    names = guard(pl.DataFrame({"name": frame.columns}, {"name": pl.String}))["name"]
    return str(frame.rename(dict(zip(frame.columns, names, strict=True))).write_csv(**settings))
