"""Sources of published figures: their descriptions (sources.toml), and a reader that follows them or refuses.

Every figure is one row of VALUES. A file that is not as described is refused with the file, the row (its line, the
header being line 1) and the column; nothing is read of a source whose files are not all right.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf
from pathlib import Path

import polars as pl

from ...core.errors import StoreError, UnknownName, UsageError
from ..database.store import Store
from .tables import SourceTable, first_true, read_csv

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
HUNDREDTH = 0.01
"""Points by which accuracy and error together may miss 100 %, since both are rounded."""
BOUNDS: Mapping[str, tuple[float, float]] = {"percent": (0, 100), "share": (0, 1)}
"""Unit -> the least and the greatest value that it may have."""
PLACE = re.compile(r"\{(\w*)\}")
"""The place of a text in another one: of a group of a pattern, or of a column of the file."""


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of each model: a column of a file, or the mean of the columns whose whole names match a pattern."""

    benchmark: str
    name: str = ""
    pattern: str = ""
    metric: str = "top1"
    condition: str = ""
    unit: str = "percent"
    scale: float = 1
    n: int | None = None
    error: str | None = None
    """The column of errors, which makes 100 % with this one in each row: a number of another unit does not."""

    def match(self, name: str) -> re.Match[str] | None:
        return re.fullmatch(self.pattern or re.escape(self.name), name)


@dataclass(frozen=True, slots=True)
class File:
    path: str
    columns: Sequence[Column]
    model: str = "{model}"
    """The name of a model, made of the texts of columns."""
    input_size: str | None = None
    headers: int = 1
    """Lines of column names; the names of two lines are joined by a point."""
    gaps: bool = False
    """Cells may be empty."""


@dataclass(frozen=True, slots=True)
class Source:
    name: str
    title: str
    repository: str
    commit: str
    licence: str
    ships: bool
    files: Sequence[File] = ()
    reader: str | None = None
    """The name of its reader in `imports`, where the source is no table of figures."""
    paths: Sequence[str] = ()
    """The files that the reader takes."""

    @property
    def shipped(self) -> Path:
        return DESCRIPTIONS.with_name(f"{self.name}.parquet")

    @property
    def terms(self) -> str:
        """The licence, and what it means for whoever imports the source."""
        may = "" if self.ships else "; the project may not ship it, so do not pass on a database that holds it unasked"
        return f"licence: {self.licence}{may}"

    def locate_files(self, folder: Path) -> list[Path]:
        """The paths of its files in a folder; UsageError where the folder lacks one of them."""
        paths = [*self.paths, *(file.path for file in self.files)]
        for path in paths:
            if not (folder / path).is_file():
                raise UsageError(f"{folder} has no {path}; {self.name} is {', '.join(paths)} in one folder")
        return [folder / path for path in paths]


@cache
def sources() -> Mapping[str, Source]:
    """All sources by name, in the order of sources.toml."""
    descriptions = tomllib.loads(DESCRIPTIONS.read_text(encoding="utf-8"))
    by_name = {}
    for entry in descriptions["source"]:
        files = [
            File(**file | {"columns": [Column(**column) for column in file["columns"]]})
            for file in entry.pop("file", ())
        ]
        benchmarks = entry.pop("timm", ())
        files += [_timm_file(**file) for file in descriptions["timm_file"] if file["benchmark"] in benchmarks]
        by_name[entry["name"]] = Source(files=files, **entry)
    return by_name


def _timm_file(benchmark: str, path: str, n: int | None = None) -> File:
    """A table of timm's results on one benchmark."""
    columns = [Column(benchmark, "top1", n=n, error="top1_err")]
    if benchmark == "imagenet":
        columns.append(Column("", "param_count", metric="parameters", unit="million"))
    return File(path, columns, input_size="img_size")


def find_source(name: str) -> Source:
    """The source of a name; UnknownName where there is none."""
    if name not in sources():
        raise UnknownName("source", name, sources())
    return sources()[name]


def read_source(source: Source, folder: Path) -> pl.DataFrame:
    """The rows of VALUES of a source that is tables of figures.

    `folder` holds its files, by the names that sources.toml gives them. Raises UsageError where one is not there, and
    StoreError where one is not as described.
    """
    paths = source.locate_files(folder)
    parts = [_read_file(file, path) for file, path in zip(source.files, paths, strict=True)]
    values = pl.concat(parts).with_columns(source=pl.lit(source.name))
    # The same figure in two files, such as a mean and what it is the mean of, counts once.
    return values.unique(["model", "benchmark", "metric", "condition", "input_size"], keep="first", maintain_order=True)


def _read_file(file: File, path: Path) -> pl.DataFrame:
    """The rows of VALUES of a file, without the source."""
    table = SourceTable(path, _read_cells(path, file.headers), file.headers)
    names_by_figure: dict[tuple[Column, str, str], list[str]] = {}
    for column in file.columns:
        for name in table.rows.columns:
            if match := column.match(name):
                benchmark, condition = (_fill(text, match) for text in (column.benchmark, column.condition))
                names_by_figure.setdefault((column, benchmark, condition), []).append(name)
    matched_columns = {column for column, *_ in names_by_figure}
    key = PLACE.findall("".join([file.model, *(condition for *_, condition in names_by_figure)]))
    key = [*dict.fromkeys(key), *([file.input_size] if file.input_size else [])]
    table.check_columns([*key, *(c.name or c.pattern for c in file.columns if c not in matched_columns)])
    table.check_filled(*key)
    table.check_distinct(*key[1:], key[0])
    if file.input_size:
        no_size = ~table.rows[file.input_size].str.contains(r"^[1-9][0-9]{0,5}$")
        table.refuse(file.input_size, no_size, "{value!a} is not a number of pixels")
    parts = []
    for (column, benchmark, condition), names in names_by_figure.items():
        numbers = [_read_numbers(table, name, column, file.gaps) for name in names]
        figures = table.rows.select(
            model=_text(file.model),
            benchmark=pl.lit(benchmark),
            metric=pl.lit(column.metric),
            condition=_text(condition),
            input_size=pl.col(file.input_size).cast(pl.Int64) if file.input_size else pl.lit(None, pl.Int64),
            value=pl.sum_horizontal([pl.lit(series) for series in numbers], ignore_nulls=False) / len(names),
            unit=pl.lit("percent" if column.scale == 100 else column.unit),
            n=pl.lit(column.n, pl.Int64),
        )
        parts.append(figures.drop_nulls("value"))
    return pl.concat([pl.DataFrame(schema=VALUES), *parts], how="diagonal")


def _read_cells(path: Path, headers: int) -> pl.DataFrame:
    """All cells as text, with the names of the columns."""
    cells = read_csv(path, infer_schema=False, has_header=False)
    names = [".".join(text for text in column.head(headers).to_list() if text) for column in cells.iter_columns()]
    duplicates = [name for place, name in enumerate(names) if name in names[:place]]
    if duplicates:
        raise StoreError(f"{path}, line 1, column {duplicates[0]}: there more than once; fetch the file again")
    return cells.slice(headers).rename(dict(zip(cells.columns, names, strict=True)))


def _fill(text: str, match: re.Match[str]) -> str:
    """The text with the pattern's groups in their places; the place of a column of the file stays as it is."""
    return PLACE.sub(lambda place: match.groupdict().get(place[1], place[0]), text)


def _text(template: str) -> pl.Expr:
    """A text with those of columns in their places."""
    pieces = PLACE.split(template)
    return pl.concat_str([pl.col(piece) if at % 2 else pl.lit(piece) for at, piece in enumerate(pieces)])


def _read_numbers(table: SourceTable, name: str, column: Column, gaps: bool) -> pl.Series:
    """The cells as numbers, scaled, null where empty. Raises StoreError for what is none, or in another unit."""
    if not gaps:
        table.check_filled(name)
    values = table.numbers(name)
    low, high = BOUNDS.get(column.unit, (0.0, inf))
    table.check_range(name, values, low, high, f"a {column.unit}")
    if column.error is not None:
        total = values + table.numbers(column.error)
        if (row := first_true(~((total - 100).abs() < HUNDREDTH).fill_null(True))) is not None:
            accuracy, error = (table.rows[cells][row] for cells in (name, column.error))
            raise StoreError(
                f"{table.where(row, name)}: {accuracy} and {error} in {column.error} do not make 100 percent"
            )
    maximum = values.max()
    if column.unit == "percent" and len(values.drop_nulls()) > 1 and isinstance(maximum, float) and 0 < maximum <= 1:
        raise StoreError(
            f"{table.where(0, name)}: no value is above 1, so these are shares; the file should have percent"
        )
    return values * column.scale


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
    # A newer release of a shipped source takes its place.
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
    here = pl.when(pl.col("values").is_not_null()).then("here")
    return table.select("source", "models", "benchmarks", "values", here, *facts)
