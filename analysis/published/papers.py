"""Numbers that authors printed, each beside the one that follows from their own files or from what ships.

papers.toml describes each paper: whose it is, its files, and why some of its numbers differ. A reader below gives the
printed and the recomputed number of every figure, as a frame of figure, printed, recomputed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ...core.errors import StoreError, UnknownName
from ...core.protocol import CUE_CONFLICT, IMAGENET_CBAR
from ...core.untrusted import first_line
from ..measures.critical_band import OF_PEOPLE, UNITS, fit_band
from ..statistics.consistency import error_consistency
from .figures import correlation_table, shipped_figures
from .imports import INTEGER, read_import
from .relate import channel_share
from .sources import shipped_values, sources
from .tables import SourceTable, read_csv, read_parquet

DESCRIPTIONS = Path(__file__).with_name("papers.toml")
FIGURES = pl.Schema(
    dict.fromkeys(("paper", "figure"), pl.String())
    | dict.fromkeys(("printed", "recomputed"), pl.Float64())
    | {"equal": pl.Boolean(), "why": pl.String()}
)
"""Columns of the numbers of papers; `why` says why a number differs, as far as it is known."""
AS_PUBLISHED = "as published"
"""The commit of a paper whose files have been the same from the first."""
CORRUPTION = r"top1_acc/(?:[a-z_]+)_[1-5]"


@dataclass(frozen=True, slots=True)
class Paper:
    name: str
    printed: str
    """The printed numbers, in words."""
    title: str
    repository: str
    commit: str
    licence: str
    recomputed_by: str
    """The command that recomputes its numbers."""
    reader: str = ""
    """The function below that compares them; empty where they are printed in no file that could be read."""
    tolerance: float = 0
    files: tuple[str, ...] = ()
    get: str = ""
    """How to get files that are none of the repository's, or what there is instead; empty where all are of it."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Printed numbers that lie in no file of the authors."""
    differs: tuple[tuple[str, str], ...] = ()
    """Pairs of a pattern of figures, and why these differ."""

    @property
    def where(self) -> str | None:
        """How to get the files, or what there is instead of them, in one line; None where it needs none."""
        return self._how_to_get(self.files) or None

    def advice(self, folder: Path | None) -> str:
        """The advice where its numbers cannot be recomputed, with the folder that was searched and what it lacks."""
        own = Path("DIR") if folder is None else folder
        lacking = [file for file in self.files if folder is None or not (folder / self.name / file).is_file()]
        return f"put into {own / self.name} " * bool(lacking) + self._how_to_get(lacking)

    def _how_to_get(self, files: Sequence[str]) -> str:
        of_repository = f"of github.com/{self.repository}" + f" at {self.commit}" * (self.commit != AS_PUBLISHED)
        return f"{', '.join(files)} ({self.get or of_repository})" if files else self.get


@cache
def papers() -> Mapping[str, Paper]:
    """All papers by name, in the order of papers.toml."""
    by_name = {}
    for entry in tomllib.loads(DESCRIPTIONS.read_text(encoding="utf-8"))["paper"]:
        name = entry["name"]
        facts = {"recomputed_by": f"bandlens papers {name} --files DIR"} | entry
        if source := sources().get(facts.pop("source", "")):
            facts |= {fact: getattr(source, fact) for fact in ("title", "repository", "commit", "licence")}
        facts |= {kind: tuple(map(_pair, facts.get(kind, ()))) for kind in ("files", "differs")}
        by_name[name] = Paper(**facts)
    return by_name


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def find_papers(name: str | None) -> list[Paper]:
    """The paper of a name, or all; UnknownName where there is none."""
    if name is not None and name not in papers():
        raise UnknownName("paper", name, papers())
    return [paper for paper in papers().values() if name in (None, paper.name)]


def recompute(paper: Paper, folder: Path | None) -> pl.DataFrame | None:
    """The columns of FIGURES; None where a file of the paper is not in the folder, or its numbers are in no file.

    Raises StoreError where a file is not as described.
    """
    if not paper.reader or (
        paper.files and (folder is None or not all((folder / file).is_file() for file in paper.files))
    ):
        return None
    try:
        figures = READERS[paper.reader](paper, folder or Path())
        figures = figures.with_columns(pl.col("printed", "recomputed").cast(pl.Float64))
    except (pl.exceptions.PolarsError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{folder}: not the files of {paper.name} ({first_line(error)}); get {paper.where}") from error
    equal = ((pl.col("printed") - pl.col("recomputed")).abs() <= paper.tolerance).fill_null(False)
    reasons = [pl.when(pl.col("figure").str.contains(pattern)).then(pl.lit(why)) for pattern, why in paper.differs]
    why = pl.coalesce(*reasons, pl.lit("not known"))
    return figures.select(
        pl.lit(paper.name).alias("paper"),
        *("figure", "printed", "recomputed"),
        equal=equal,
        why=pl.when(~equal).then(why),
    )


def _compared(rows: Iterable[tuple[str, float | None, Any]]) -> pl.DataFrame:
    schema = {"figure": pl.String, "printed": pl.Float64, "recomputed": pl.Float64}
    return pl.DataFrame(list(rows), schema, orient="row").drop_nulls()


def study_means(_: Paper, folder: Path) -> pl.DataFrame:
    """The columns of benchmark.csv that are means of columns, or the least and greatest of all layers, by model."""
    table = SourceTable(folder / "benchmark.csv", read_csv(folder / "benchmark.csv"))
    corruptions = [name for name in table.rows.columns if re.fullmatch(CORRUPTION, name)]
    bar = [name for name in corruptions if name.split("/")[1][:-2] in IMAGENET_CBAR]
    layers = [name for name in table.rows.columns if re.fullmatch("metric/quality/layer/.*/ve", name)]
    derived = {
        "top1_acc/imagenet-c": pl.mean_horizontal(pl.col(set(corruptions) - set(bar)), ignore_nulls=False),
        "top1_acc/imagenet-cbar": pl.mean_horizontal(pl.col(bar), ignore_nulls=False),
        "metric/quality/ve_max": pl.max_horizontal(pl.col(layers).cast(pl.Float64)),
        "metric/quality/ve_min": pl.min_horizontal(pl.col(layers).cast(pl.Float64)),
    }
    table.check_columns(["model", *derived])
    return pl.concat(
        table.rows.select(figure=pl.format("{} {}", pl.lit(name), "model"), printed=name, recomputed=recomputed)
        for name, recomputed in derived.items()
    ).drop_nulls()


def study_correlations(paper: Paper, folder: Path) -> pl.DataFrame:
    """Spearman's coefficients from the shipped figures, and the poster's, which has two decimals."""
    key = ["bias", "generalization", "subset"]
    table = SourceTable(folder / paper.files[0], read_csv(folder / paper.files[0]))
    table.check_columns([*key, "spearman"])
    recomputed = pl.DataFrame(correlation_table(shipped_figures())).rename({"group": key[1], "spearman": "recomputed"})
    both = table.rows.join(recomputed, on=key, how="left", maintain_order="left")
    return both.select(figure=pl.concat_str(key, separator=" "), printed="spearman", recomputed="recomputed")


def study_channels(paper: Paper, folder: Path) -> pl.DataFrame:
    """The bell through the integer thresholds of each model, and the study's three numbers of it."""

    def compared() -> Iterator[tuple[str, float, float]]:
        for row in read_csv(folder / paper.files[0], infer_schema=False).to_dicts():
            band = fit_band([int(threshold) for threshold in row["thresholds_f0_to_f6"]])
            for name in UNITS:
                yield f"{row['model']} {row['variant']} {name}", float(row[name]), getattr(band, name)

    return _compared(compared())


def timm_differences(paper: Paper, folder: Path) -> pl.DataFrame:
    """top-1 and top-5 of each model and size less those on ImageNet, or over the same 200 classes of it."""
    tables = {file: read_csv(folder / file, infer_schema=False) for file in paper.files}
    frames = []
    for file, table in tables.items():
        is_base = file == "results-imagenet.csv" or file.endswith("-clean.csv")
        differences = () if is_base else ("top1_diff", "top5_diff")
        SourceTable(folder / file, table).check_columns(("model", "img_size", "top1", "top5", *differences))
        if is_base:
            continue
        base = tables.get(file.replace(".csv", "-clean.csv"), tables["results-imagenet.csv"])
        both = table.join(base, on=["model", "img_size"], maintain_order="left", suffix="_base")
        for name in ("top1", "top5"):
            figure = pl.format("{}, {}_diff, {} at {} pixels", pl.lit(file), pl.lit(name), "model", "img_size")
            printed, value, base_value = (pl.col(f"{name}{end}").cast(pl.Float64) for end in ("_diff", "", "_base"))
            frames.append(both.select(figure=figure, printed=printed, recomputed=value - base_value))
    return pl.concat(frames)


def robustbench_means(paper: Paper, _folder: Path) -> pl.DataFrame:
    """The mean over the fifteen shipped means of each model, and the mean of its errors over those of AlexNet."""
    c = shipped_values(["robustbench"]).filter(benchmark="imagenet-c")
    listed = dict(c.filter(condition="15 x 5").select("model", "value").rows())
    means = (
        c.filter(pl.col("condition") != "15 x 5").pivot("model", index="condition", values="value").drop("condition")
    )
    relative = means.select(((pl.all() - 100) / (pl.col("AlexNet") - 100)).mean() * 100).row(0, named=True)
    accuracies = ((f"{name} accuracy", printed, means[name].mean()) for name, printed in listed.items())
    return _compared(
        [*accuracies, *((f"{name} mCE", printed, relative[name]) for name, printed in paper.figures.items())]
    )


def open_clip_means(paper: Paper, folder: Path) -> pl.DataFrame:
    table = SourceTable(folder / paper.files[0], read_csv(folder / paper.files[0]))
    keys, mean = ["name", "pretrained"], "Average perf. on 38 datasets"
    table.check_columns([*keys, mean, "params (M)", "FLOPs (B)"])
    sets = pl.exclude(*keys, mean, "params (M)", "FLOPs (B)")
    return table.rows.select(
        pl.concat_str(keys, separator=".").alias("figure"), printed=mean, recomputed=pl.mean_horizontal(sets)
    )


def imagenet_x_factors(_: Paper, folder: Path) -> pl.DataFrame:
    """Accuracy of each network over the validation images of each factor, without the prototypes of a class."""
    predictions = read_parquet(folder / "predictions.parquet")
    prototypes = read_csv(folder / "prototypical_paths.csv")["file_name"]

    def compared() -> Iterator[tuple[str, float, float]]:
        for kind in ("multi", "top"):
            annotations = pl.read_ndjson(folder / f"imagenet_x_val_{kind}_factor.jsonl")
            annotations = annotations.filter(~pl.col("file_name").is_in(prototypes.implode()))
            judged = predictions.join(annotations, on="file_name", maintain_order="left")
            judged = judged.with_columns(right=pl.col("predicted_class") == pl.col("class"))
            for row in read_csv(folder / f"accuracies_per_factor_{kind}.csv").to_dicts():
                network = row.pop("model")
                of_network = judged.filter(model=network)
                accuracies = {
                    name: float(of_network.filter(pl.col(name) == 1)["right"].to_numpy().mean())
                    for name in row
                    if name in annotations.columns
                }
                of_class = of_network.group_by("class").agg(accuracy=pl.col("right").mean(), right="right")
                worst = of_class.sort("accuracy", "class").head(100).explode("right")
                accuracies |= {
                    "worst_factor": min(accuracies.values()),
                    "average": float(of_network["right"].to_numpy().mean()),
                    "worst_100_classes": float(worst["right"].to_numpy().mean()),
                }
                yield from ((f"{kind} {network} {name}", row[name], accuracies[name]) for name in row)

    return _compared(compared())


def shape_biases(paper: Paper, folder: Path) -> pl.DataFrame:
    """Decisions by shape among those by shape or texture of each file, in percent, where the two conflict."""

    def bias(file: Path) -> float:
        table = read_csv(file) if file.suffix == ".csv" else read_parquet(file).filter(set=CUE_CONFLICT)
        texture = pl.col("imagename").str.extract(r"-([a-z]+)\d+\.png$")
        by_shape, by_texture = (pl.col("object_response") == cue for cue in (pl.col("category"), texture))
        decided = table.filter(texture != pl.col("category"), by_shape | by_texture)
        return 100 * float(decided.select(by_shape.mean()).item())

    return _compared(
        (name, printed, bias(folder / file))
        for file, (name, printed) in zip(paper.files, paper.figures.items(), strict=True)
    )


def channel_variance(paper: Paper, folder: Path) -> pl.DataFrame:
    """Percent of the variance of shape accuracy that bandwidth, centre and peak of 85 networks explain."""
    values, _ = read_import(sources()["critical-band"], folder)
    bands = values.filter(pl.col("condition").is_in([INTEGER, ""])).pivot("metric", index="model", values="value")
    return _compared((name, printed, 100 * channel_share(bands)) for name, printed in paper.figures.items())


def human_channel(paper: Paper, _: Path) -> pl.DataFrame:
    """The width of the bell through the published thresholds of people."""
    return _compared((name, printed, getattr(fit_band(OF_PEOPLE), name)) for name, printed in paper.figures.items())


def error_consistencies(paper: Paper, _: Path) -> pl.DataFrame:
    """Kappa of two rows of right (1) and wrong (0) answers, or the most that two accuracies allow."""

    def number(figure: str) -> float:
        if figure.startswith("most"):
            shares = [float(share) for share in figure.split()[1:]]
            first, second = (np.arange(10) < round(10 * share) for share in shares)
            return error_consistency(first, second).most
        first, second = (np.array([answer == "1" for answer in answers]) for answers in figure.split())
        return error_consistency(first, second).kappa

    return _compared((figure, printed, number(figure)) for figure, printed in paper.figures.items())


def relative_negative_flips(paper: Paper, _: Path) -> pl.DataFrame:
    """Negative flips over what independent errors would give: NFR / ((1 - error before) error after), in percent."""

    def rate(figure: str) -> float:
        before, after, flips = (float(percent) / 100 for percent in figure.split())
        return 100 * flips / ((1 - before) * after)

    return _compared((figure, printed, rate(figure)) for figure, printed in paper.figures.items())


READERS: Mapping[str, Callable[[Paper, Path], pl.DataFrame]] = {
    reader.__name__: reader
    for reader in (
        *(
            study_means,
            study_correlations,
            study_channels,
            timm_differences,
            robustbench_means,
            open_clip_means,
            imagenet_x_factors,
        ),
        *(shape_biases, channel_variance, human_channel, error_consistencies, relative_negative_flips),
    )
}
