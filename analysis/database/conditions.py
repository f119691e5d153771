"""The conditions of a study, in the order in which reports and pages show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from ...core.records import FREQUENCY_TITLES, frequency_in_words
from .store import Store

ORDER = "probe <> 'clean', probe, cutoff, noise_sd, frequency, parameters"
"""The order of conditions in SQL, by columns that all views of conditions have: along the numbers that probes vary."""
FACTS = ("setting", "series", "x", "x_title", "y", "y_title", "mirrored", "cuts", "place")


def read_conditions(store: Store, label: str) -> pl.DataFrame:
    """The rows of the table `condition` for a version of a study, with `place`, by which they are sorted.

    Without perturbation comes first, then probes and series as the study file has them, each along its axes. A probe
    with a condition at infinity has no numbers on its axes, since no chart reaches as far.
    """
    rows = store.frame(
        "SELECT * FROM condition SEMI JOIN (SELECT condition AS id FROM cell JOIN study_cell "
        "ON study_cell.cell = cell.id JOIN version_of(?) ON study_id = study_cell.study) USING (id)",
        [label],
    )
    finite = pl.col("x").is_finite().fill_null(value=True).all().over("probe")
    return (
        rows.with_columns(pl.when(finite).then(pl.col("x", "y")))
        .sort(
            pl.col("probe") != "clean",
            pl.col("id").min().over("probe"),
            pl.col("id").min().over("probe", "series"),
            "y",
            "x",
            "id",
        )
        .with_row_index("place")
    )


def with_facts(rows: pl.DataFrame, conditions: pl.DataFrame) -> pl.DataFrame:
    """Rows with columns probe and parameters, of the conditions of a study, with FACTS.

    Where rows have `cycles`, the setting of filters and bands has their frequency in cycles per image.
    """
    joined = rows.join(
        conditions.select("probe", "parameters", *FACTS), on=["probe", "parameters"], how="left", maintain_order="left"
    )
    return joined.with_columns(setting=frequency_settings()) if "cycles" in rows.columns else joined


def frequency_settings() -> pl.Expr:
    """The column setting, with the frequency of filters and bands in cycles per image.

    Rows have the columns setting, series, x_title and cycles.
    """
    place = pl.col("x_title").replace_strict({title: place for place, title in FREQUENCY_TITLES.items()}, default=None)
    facts = pl.struct("series", "cycles", place=place)
    # Half a million rows of a thousand models have fifty settings: each is put into words once.
    words = facts.first().map_elements(_frequency_setting, pl.String).over("series", "cycles", "x_title")
    return pl.coalesce(words, "setting")


def _frequency_setting(row: Mapping[str, Any]) -> str | None:
    has_frequency = row["place"] is not None and row["cycles"] is not None
    return frequency_in_words(**row) if has_frequency else None
