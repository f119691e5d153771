"""CSV files that spreadsheet programs open without running their contents as formulas."""

from __future__ import annotations

from typing import Any

import polars as pl
from polars import selectors


def spreadsheet_csv(frame: pl.DataFrame, **settings: Any) -> str:
    """CSV by `write_csv`, with an apostrophe before a text that a spreadsheet would run; a text of a number is none.

    Categories and the names of columns are texts, too.
    """

    def guard(texts: pl.DataFrame) -> pl.DataFrame:
        cells = pl.all()
        runs = cells.str.contains(r"^[=+\-@\t\r]") & cells.cast(pl.Float64, strict=False).is_null()
        return texts.select(pl.when(runs).then("'" + cells).otherwise(cells).name.keep())

    texts = frame.select(selectors.string(include_categorical=True) | selectors.enum())
    frame = frame.with_columns(guard(texts.cast(pl.String)))
    names = guard(pl.DataFrame({"name": frame.columns}, {"name": pl.String}))["name"]
    return str(frame.rename(dict(zip(frame.columns, names, strict=True))).write_csv(**settings))
