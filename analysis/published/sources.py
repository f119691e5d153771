"""Sources of published figures (sources.toml), and the figures that are here. Every figure is one row of VALUES."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import polars as pl

from ...core.errors import UnknownName
from ..database.store import Store

VALUES = pl.Schema(
    {
        "source": pl.String,
        "model": pl.String,
        "benchmark": pl.String,
        "metric": pl.String,
        "condition": pl.String,
        "input_size": pl.Int64,
        "value": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "unit": pl.String,
        "n": pl.Int64,
        "note": pl.String,
    }
)
"""A figure of a model, as the source names it. condition: what tells two figures of one metric and benchmark apart, ''
where nothing does. input_size: side of the images in pixels, where the source says it. low, high: ends of the 95 %
interval. n: images or trials."""
DESCRIPTIONS = Path(__file__).with_name("sources.toml")


@dataclass(frozen=True, slots=True)
class Source:
    name: str
    title: str
    repository: str
    commit: str
    licence: str
    ships: bool

    @property
    def shipped(self) -> Path:
        return DESCRIPTIONS.with_name(f"{self.name}.parquet")

    @property
    def terms(self) -> str:
        """The licence, and what it means for whoever imports the source."""
        may = "" if self.ships else "; the project may not ship it, so do not pass on a database that holds it unasked"
        return f"licence: {self.licence}{may}"


@cache
def sources() -> Mapping[str, Source]:
    """All sources by name, in the order of sources.toml."""
    descriptions = tomllib.loads(DESCRIPTIONS.read_text(encoding="utf-8"))
    return {entry["name"]: Source(**entry) for entry in descriptions["source"]}


def find_source(name: str) -> Source:
    """The source of a name; UnknownName where there is none."""
    if name not in sources():
        raise UnknownName("source", name, sources())
    return sources()[name]


def shipped_values(names: Iterable[str] | None = None) -> pl.DataFrame:
    """The rows of VALUES that come with the package, of all its sources or of some."""
    shipped = [source for source in sources().values() if source.ships and (names is None or source.name in names)]
    return pl.concat([pl.read_parquet(source.shipped).cast(VALUES).select(VALUES.names()) for source in shipped])


def atlas(store: Store | None = None) -> pl.DataFrame:
    """The rows of VALUES that come with the package, and those that were imported into a results database."""
    values = shipped_values()
    if store is None:
        return values
    imported = store.frame("FROM published_value").cast(VALUES)
    # An import of a shipped source takes its place.
    return pl.concat([values.join(imported, on="source", how="anti"), imported])


def count_figures(values: pl.DataFrame) -> pl.DataFrame:
    """A row for each source: how many models, benchmarks and values `values` has of it, its licence and commit."""
    counts = values.group_by("source").agg(
        models=pl.col("model").n_unique(),
        benchmarks=pl.col("benchmark").filter(pl.col("benchmark") != "").n_unique(),
        values=pl.len(),
    )
    facts = ("licence", "repository", "commit", "title")
    rows = [
        {"source": source.name, "here": "shipped" if source.ships else "imported"}
        | {name: getattr(source, name) for name in facts}
        for source in sources().values()
    ]
    table = pl.DataFrame(rows).join(counts, on="source", how="left", maintain_order="left")
    has_values = pl.col("values").is_not_null()
    return table.select("source", "models", "benchmarks", "values", pl.when(has_values).then("here"), *facts)
