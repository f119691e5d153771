"""Sources of published figures: their descriptions (sources.toml), and a reader that follows them or refuses.

Every figure is one row of VALUES. A file that is another release than the one described is refused with the file, the
row (its line, the header being line 1) and the column; nothing is read of a source whose files are not all right.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Column:
    """The meaning of the columns whose names match `pattern`."""

    pattern: re.Pattern[str]
    benchmark: str
    metric: str = "top1"
    condition: str = ""
    unit: str = "percent"
    scale: float = 1
    n: int | None = None


@dataclass(frozen=True, slots=True)
class File:
    path: str
    model: str
    columns: tuple[Column, ...]
    ignored: frozenset[str] = frozenset()
    tag: str | None = None
    """The column whose text follows the name of a model after a point: the weights of an architecture."""
    input_size: str | None = None
    key: tuple[str, ...] = ()
    """Further columns, which together with model and input size name a row; a condition may refer to them."""
    headers: int = 1
    """Lines of column names; the names of two lines are joined by a point."""
    gaps: bool = False
    """Cells may be empty."""
    extra: bool = False
    """There may be columns that are not described; they are left alone."""
    complements: tuple[tuple[str, str], ...] = ()
    """Pairs of columns that make 100 % in each row, such as accuracy and error: one of another unit does not."""


@dataclass(frozen=True, slots=True)
class Source:
    name: str
    title: str
    repository: str
    commit: str
    licence: str
    ships: bool
    files: tuple[File, ...]
    reader: str | None
    """The name of its reader in `imports`, where the source is no table of figures."""
    paths: tuple[str, ...]

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
    by_name = {}
    for entry in descriptions["source"]:
        files = [_file(**file) for file in entry.get("file", ())]
        if "files" in entry:
            without, listed = entry.get("without", ()), descriptions["files"][entry["files"]]
            files = [_timm_file(**file) for file in listed if file["benchmark"] not in without]
        facts = {key: entry[key] for key in ("name", "title", "repository", "commit", "licence", "ships")}
        paths = tuple(entry.get("paths", [file.path for file in files]))
        by_name[entry["name"]] = Source(**facts, files=tuple(files), reader=entry.get("reader"), paths=paths)
    return by_name


def find_source(name: str) -> Source:
    """The source of a name; UnknownName where there is none."""
    if name not in sources():
        raise UnknownName("source", name, sources())
    return sources()[name]


def _column(name: str = "", pattern: str = "", **facts: Any) -> Column:
    return Column(re.compile(pattern or re.escape(name)), **facts)


def _file(
    columns: Iterable[Mapping[str, Any]], ignored: Iterable[str] = (), key: Iterable[str] = (), **facts: Any
) -> File:
    described = tuple(_column(**column) for column in columns)
    return File(columns=described, ignored=frozenset(ignored), key=tuple(key), **facts)


def _timm_file(benchmark: str, path: str, n: int | None = None) -> File:
    columns = [{"name": "top1", "benchmark": benchmark, "n": n}]
    ignored = ["top1_err", "top5", "top5_err", "crop_pct", "interpolation", "img_size"]
    if benchmark == "imagenet":
        columns.append({"name": "param_count", "benchmark": "", "metric": "parameters", "unit": "million"})
    else:
        ignored.append("param_count")
        if not benchmark.endswith("-clean"):
            ignored += ["top1_diff", "top5_diff", "rank_diff"]
    complements = tuple((name, f"{name}_err") for name in ("top1", "top5"))
    return _file(columns, ignored, path=path, model="model", input_size="img_size", complements=complements)


def check_files(source: Source, folder: Path) -> None:
    """UsageError where the folder lacks one of the source's files."""
    missing_files = [path for path in source.paths if not (folder / path).is_file()]
    if missing_files:
        raise UsageError(
            f"{folder} has no {missing_files[0]}; {source.name} is {', '.join(source.paths)} in one folder"
        )


def read_source(source: Source, folder: Path) -> pl.DataFrame:
    """The rows of VALUES of a source that is tables of figures.

    `folder` holds its files, by the names that sources.toml gives them. Raises UsageError where one is not there, and
    StoreError where one is not as described.
    """
    check_files(source, folder)
    parts = [_read_file(source.name, file, folder / file.path) for file in source.files]
    values = pl.concat(parts)
    # The same figure in two files, such as a mean and what it is the mean of, counts once.
    return values.unique(["model", "benchmark", "metric", "condition", "input_size"], keep="first", maintain_order=True)


def _read_file(source: str, file: File, path: Path) -> pl.DataFrame:
    table = SourceTable(path, _cells(path, file.headers), file.headers)
    key = [file.model, *file.key, *(name for name in (file.tag, file.input_size) if name)]
    described = _check_columns(table, file, key)
    table.check_filled(*key)
    table.check_distinct(*key[1:], file.model)
    if file.input_size:
        no_size = ~table.rows[file.input_size].str.contains(r"^[1-9][0-9]{0,5}$")
        table.refuse(file.input_size, no_size, "{value!a} is not a number of pixels")
    for accuracy, error in file.complements:
        percents = [table.rows[name].cast(pl.Float64, strict=False) for name in (accuracy, error)]
        mismatches = ~((percents[0] + percents[1] - 100).abs() < HUNDREDTH).fill_null(True)
        if (row := first_true(mismatches)) is not None:
            raise StoreError(
                f"{table.where(row, accuracy)}: {table.rows[accuracy][row]} and {table.rows[error][row]} in {error} do "
                "not make 100 percent"
            )
    numbers = {name: _numbers(table, name, columns[0], file.gaps) for name, columns in described.items()}
    parts = []
    for column in file.columns:
        matches = {name: match for name in numbers if (match := column.pattern.fullmatch(name))}
        for (benchmark, condition), names in _by_benchmark(column, matches).items():
            mean = table.rows.select(*key).with_columns(
                value=pl.sum_horizontal([pl.lit(numbers[name] * column.scale) for name in names], ignore_nulls=False)
                / len(names)
            )
            parts.append(_values(source, mean, file, column, benchmark, condition))
    return pl.concat(parts).drop_nulls("value")


def _values(
    source: str, mean: pl.DataFrame, file: File, column: Column, benchmark: str, condition: str
) -> pl.DataFrame:
    pieces = re.split(r"\{(\w+)\}", condition)
    parts = [pl.col(piece) if at % 2 else pl.lit(piece) for at, piece in enumerate(pieces)]
    size = pl.col(file.input_size).cast(pl.Int64) if file.input_size else pl.lit(None, pl.Int64)
    return mean.select(
        source=pl.lit(source),
        model=pl.concat_str([file.model, *([file.tag] if file.tag else [])], separator="."),
        benchmark=pl.lit(benchmark),
        metric=pl.lit(column.metric),
        condition=pl.concat_str(parts),
        input_size=size,
        value="value",
        low=pl.lit(None, pl.Float64),
        high=pl.lit(None, pl.Float64),
        unit=pl.lit("percent" if column.scale == 100 else column.unit),
        n=pl.lit(column.n, pl.Int64),
        note=pl.lit(None, pl.String),
    )


def _by_benchmark(column: Column, matches: Mapping[str, re.Match[str]]) -> dict[tuple[str, str], list[str]]:
    """(benchmark, condition) -> the columns of the file that give it."""
    names: dict[tuple[str, str], list[str]] = {}
    for name, match in matches.items():
        benchmark, condition = (_filled(text, match.groupdict()) for text in (column.benchmark, column.condition))
        names.setdefault((benchmark, condition), []).append(name)
    return names


def _filled(text: str, groups: Mapping[str, str]) -> str:
    """The text with the pattern's groups in it; what names a column of the file stays as it is."""
    return re.sub(r"\{(\w+)\}", lambda match: groups.get(match[1], match[0]), text)


def _cells(path: Path, headers: int) -> pl.DataFrame:
    """All cells as text, with the names of the columns."""
    table = read_csv(path, infer_schema=False, has_header=headers == 1)
    if headers == 1:
        return table
    names = [".".join(cell for cell in column.head(headers).to_list() if cell) for column in table.iter_columns()]
    duplicates = next((name for row, name in enumerate(names) if name in names[:row]), None)
    if duplicates is not None or len(table) < headers:
        raise StoreError(f"{path}, line 1, column {duplicates}: there more than once; fetch the file again")
    return table.slice(headers).rename(dict(zip(table.columns, names, strict=True)))


def _check_columns(table: SourceTable, file: File, key: Sequence[str]) -> dict[str, list[Column]]:
    """Column of the file -> its descriptions. Raises StoreError where columns are missing or new."""
    names = table.rows.columns
    unmatched = [c.pattern.pattern for c in file.columns if not any(map(c.pattern.fullmatch, names))]
    described = {name: [column for column in file.columns if column.pattern.fullmatch(name)] for name in names}
    readable = {*key, *file.ignored, *(name for name, columns in described.items() if columns)}
    table.check_columns([*key, *sorted(file.ignored), *unmatched], None if file.extra else readable)
    return {name: columns for name, columns in described.items() if columns}


def _numbers(table: SourceTable, name: str, column: Column, gaps: bool) -> pl.Series:
    """The cells of a column as numbers, null where empty. Raises StoreError for what is none, or in another unit."""
    if not gaps:
        empty = table.rows[name].is_null() | (table.rows[name].str.strip_chars() == "")
        table.refuse(name, empty, "empty; this file has a number in every cell")
    values = table.numbers(name)
    low, high = BOUNDS.get(column.unit, (0.0, inf))
    table.check_range(name, values, low, high, f"a {column.unit}")
    maximum = values.max()
    if column.unit == "percent" and len(values.drop_nulls()) > 1 and isinstance(maximum, float) and 0 < maximum <= 1:
        raise StoreError(
            f"{table.where(0, name)}: no value is above 1, so these are shares; the file should have percent"
        )
    return values


def shipped_values(names: Sequence[str] | None = None) -> pl.DataFrame:
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


def count_figures(values: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """A row for each source: how many models, benchmarks and values `values` has of it, its licence and commit."""
    counted = values.group_by("source").agg(
        pl.col("model").n_unique(), pl.col("benchmark").filter(pl.col("benchmark") != "").n_unique(), values=pl.len()
    )
    counts = {row["source"]: row for row in counted.to_dicts()}
    for source in sources().values():
        row = counts.get(source.name)
        yield {
            "source": source.name,
            "models": row["model"] if row else None,
            "benchmarks": row["benchmark"] if row else None,
            "values": row["values"] if row else None,
            "here": ("shipped" if source.ships else "imported") if row else None,
            "licence": source.licence,
            "repository": source.repository,
            "commit": source.commit,
            "title": source.title,
        }
