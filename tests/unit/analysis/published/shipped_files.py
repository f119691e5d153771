"""Readers of the files of sources that ship: tables of figures as atlas.toml describes them, and logs of answers."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from bandlens.analysis.published.sources import VALUES
from bandlens.analysis.statistics.wilson import SampledShare
from bandlens.core.protocol import SHAPE_CUES

DESCRIPTIONS = tomllib.loads(Path(__file__).with_name("atlas.toml").read_text(encoding="utf-8"))
PLACE = re.compile(r"\{(\w*)\}")
"""The place of a text in another one: of a group of a pattern, or of a column of the file."""
CUE_IMAGE = r"^(?<shape>[a-z]+)\d+-(?<texture>[a-z]+)\d+$"
"""The name of a cue-conflict image: two classes, and which image of each."""
CUE_LOG = re.compile(
    r"inet_classifier/(?P<classifier>.+)|clip/(?P<tower>.+?)(?:_None)?_(?P<prompt>None|CLS|a_photo_of_a_CLS\.)|"
    r"vlm/(?P<task>vqa|captioning)/(?:\w{8}_\w{6}_)?(?P<chat>.+)"
)
"""The name of a log: that of a classifier, of a zero-shot model with its prompt, or of a chat model with its task."""


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

    def match(self, name: str) -> re.Match[str] | None:
        return re.fullmatch(self.pattern or re.escape(self.name), name)


def read_tables(source: str, folder: Path) -> pl.DataFrame:
    """The rows of VALUES of a source that is tables of figures."""
    parts = []
    for file in DESCRIPTIONS["file"]:
        if file["source"] == source:
            columns = [Column(**column) for column in file["columns"]]
            cells = read_cells(folder / file["path"], file.get("headers", 1))
            parts += read_figures(cells, columns, file.get("model", "{model}"))
    values = pl.concat([pl.DataFrame(schema=VALUES), *parts], how="diagonal").with_columns(source=pl.lit(source))
    # The same figure in two files, such as a mean and what it is the mean of, counts once.
    return values.unique(["model", "benchmark", "metric", "condition"], keep="first", maintain_order=True)


def read_cells(path: Path, headers: int) -> pl.DataFrame:
    """All cells as text, with the names of the columns."""
    cells = pl.read_csv(path, infer_schema=False, has_header=False)
    names = [".".join(text for text in column.head(headers).to_list() if text) for column in cells.iter_columns()]
    return cells.slice(headers).rename(dict(zip(cells.columns, names, strict=True)))


def read_figures(cells: pl.DataFrame, columns: Sequence[Column], model: str) -> list[pl.DataFrame]:
    """The rows of VALUES of each figure, without the source; a mean of which a part is missing is missing."""
    names_by_figure: dict[tuple[Column, str, str], list[str]] = {}
    for column in columns:
        for name in cells.columns:
            if match := column.match(name):
                benchmark, condition = (fill(text, match) for text in (column.benchmark, column.condition))
                names_by_figure.setdefault((column, benchmark, condition), []).append(name)
    assert {column for column, *_ in names_by_figure} == set(columns), "a column is missing"
    parts = []
    for (column, benchmark, condition), names in names_by_figure.items():
        numbers = [pl.col(name).str.replace_all(",", "").cast(pl.Float64) * column.scale for name in names]
        figures = cells.select(
            model=text_of(model),
            benchmark=pl.lit(benchmark),
            metric=pl.lit(column.metric),
            condition=text_of(condition),
            value=pl.sum_horizontal(numbers, ignore_nulls=False) / len(names),
            unit=pl.lit("percent" if column.scale == 100 else column.unit),
            n=pl.lit(column.n, pl.Int64),
        )
        parts.append(figures.drop_nulls("value"))
    return parts


def fill(text: str, match: re.Match[str]) -> str:
    """The text with the pattern's groups in their places; the place of a column of the file stays as it is."""
    return PLACE.sub(lambda place: match.groupdict().get(place[1], place[0]), text)


def text_of(template: str) -> pl.Expr:
    """A text with those of columns in their places."""
    pieces = PLACE.split(template)
    return pl.concat_str([pl.col(piece) if at % 2 else pl.lit(piece) for at, piece in enumerate(pieces)])


TIMM: Mapping[str, tuple[str, int | None]] = {
    "imagenet": ("imagenet", 50_000),
    "imagenet-real": ("imagenet-real", 46_837),
    "imagenet-v2": ("imagenetv2-matched-frequency", 10_000),
    "imagenet-sketch": ("sketch", 50_889),
    "imagenet-a": ("imagenet-a", 7500),
    "imagenet-r": ("imagenet-r", 30_000),
    "imagenet-a-clean": ("imagenet-a-clean", None),
    "imagenet-r-clean": ("imagenet-r-clean", None),
}
"""Benchmark of each of timm's files -> a part of the file's name, and the number of its images, where it is known."""


def read_results(source: str, benchmark: str, file: Path) -> pl.DataFrame:
    """The rows of VALUES of one of timm's files: top-1 of each model at each size, and its parameters."""
    rows = pl.read_csv(file, infer_schema=False)
    top1, error = (rows[name].cast(pl.Float64) for name in ("top1", "top1_err"))
    assert ((top1 + error - 100).abs() < 0.01).all(), "a number of another unit, such as a share"
    accuracies = rows.select(
        source=pl.lit(source),
        model="model",
        benchmark=pl.lit(benchmark),
        metric=pl.lit("top1"),
        condition=pl.lit(""),
        input_size=pl.col("img_size").cast(pl.Int64),
        value=top1,
        unit=pl.lit("percent"),
        n=pl.lit(TIMM[benchmark][1], pl.Int64),
    )
    parts = [pl.DataFrame(schema=VALUES), accuracies]
    if benchmark == "imagenet":
        facts = {"benchmark": pl.lit(""), "metric": pl.lit("parameters"), "unit": pl.lit("million")}
        millions = rows["param_count"].str.replace_all(",", "").cast(pl.Float64)
        parts.append(accuracies.with_columns(**facts, value=millions, n=pl.lit(None, pl.Int64)))
    return pl.concat(parts, how="diagonal")


def read_cue_answers(source: str, file: Path) -> pl.DataFrame:
    """Shape bias, and the share of conflicts that are named by shape or texture, of each log of answers.

    The condition is the prompt or the task. An image whose two classes are one is no conflict, and None no answer.
    """
    answers = pl.read_parquet(file)
    cues = answers["image"].str.extract_groups(CUE_IMAGE).struct.unnest()
    rows: list[dict[str, Any]] = []
    conflicts_of_cues = answers.with_columns(cues).filter(pl.col("shape") != pl.col("texture"))
    counts = conflicts_of_cues.group_by("log", maintain_order=True).agg(
        pl.len(), *((pl.col("pred_label") == pl.col(cue)).sum().alias(cue) for cue in cues.columns)
    )
    for log, conflicts, shape, texture in counts.rows():
        name = CUE_LOG.fullmatch(log)
        assert name is not None, log
        condition = name["task"] or (f"prompt {name['prompt'].replace('_', ' ')}" if name["prompt"] else "")
        keys = {"model": name["classifier"] or name["tower"] or name["chat"], "condition": condition, "unit": "share"}
        for metric, count, n in (
            (SHAPE_CUES.bias, shape, shape + texture),
            (SHAPE_CUES.accuracy, shape + texture, conflicts),
        ):
            low, high = map(float, SampledShare(count / n, n).ends())
            share = {"value": count / n, "low": low, "high": high, "n": n}
            rows.append(keys | {"source": source, "benchmark": "cue-conflict", "metric": metric} | share)
    return pl.DataFrame(rows, VALUES)
