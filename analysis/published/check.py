"""One's own numbers beside the published ones: clean top-1, spectral ratios, group means and biases.

Checkpoints belong together by name. An interval is that of one's own number over clusters, with the published one
taken as it is: both are of the same images where these are whole, and then differ by less.

The interval of a ratio is that of a ratio estimator (Cochran 1977, ch. 6), robust for clusters shown more than once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import polars as pl

from ...core.errors import UsageError, quoted
from ...core.protocol import AS_PUBLISHED, BENCHMARKS, VALIDATION
from ..database.store import Store
from ..measures import cues
from ..measures.critical_band import RAW
from ..measures.generalization import clusters_of
from ..measures.outcomes import right_of
from ..measures.psychometric import NUMBERS
from ..statistics.shares import ratio_interval
from .figures import BIASES, PUBLISHED_GROUPS, PUBLISHED_TOP1, SOURCE, figures_from_benchmark, shipped_figures
from .imports import INTEGER
from .names import add_models, aliases
from .sources import VALUES

FIGURES: Mapping[str, str] = {
    **{f"top1_{name}": column for name, column in PUBLISHED_TOP1.items()},
    **{name: name for name in (*PUBLISHED_GROUPS, *BIASES)},
    AS_PUBLISHED: "ID",
    **{
        measure: f"critical-band/{estimator}/{number}"
        for measures, estimator in ((RAW, INTEGER), (NUMBERS, "psychometric"))
        for number, measure in measures.items()
    },
}
"""Metric -> the published figure that it is compared with."""
BANDPASS: Mapping[str, str] = {"lowpass": "metric/bandpass/LFC/", "highpass": "metric/bandpass/HFC/"}
_LAST_BATCH = "ImageNet-ReaL as published is the accuracy of the last batch alone: 326 images of the classes 993 to 999"
_PADDING = "as published, 48 padded images count as robust; without them a value is (percent x 500.48 - 48) / 500"
_BAND = "the published fit degenerates for most models, and the reference of its normalization is not stated"
_FEW_TRIALS = "the published trials are about 30 a condition, on grey images of sixteen classes"
FAULTS: Mapping[str, str] = {
    "^(top1_acc/imagenet-real|ID)$": _LAST_BATCH,
    "^(top1_acc/PGD-40/low|Adversarial)$": _PADDING,
    "^critical_": _BAND,
    f"^critical-band/{INTEGER}/": _FEW_TRIALS + "; eleven of 85 fits are degenerate",
    "^critical-band/psychometric/": _FEW_TRIALS,
    "^metric/bandpass/": "the published column is a ratio, although the published script prints percent",
}
"""Pattern of published figures -> their fault."""
OF_CUES = [measure.name for measure in cues.MEASURES]
METRICS = """
SELECT named.name AS model, metric, value AS own, low, high, note
FROM measure_value AS found JOIN version_of($1) AS version ON version.study_id = found.study
JOIN study_checkpoint AS named ON named.study = found.study AND named.checkpoint = found.checkpoint
LEFT JOIN study_image_set AS shown ON shown.study = found.study AND shown.image_set = found.image_set
LEFT JOIN image_set ON image_set.id = found.image_set
WHERE found.condition IS NULL AND (
    found.image_set IS NULL
    OR (metric IN (SELECT unnest($2)) AND shown.benchmark = 'cue-conflict')
    OR (metric NOT IN (SELECT unnest($2)) AND shown.benchmark IN ('imagenet', 'imagenet-real')))
ORDER BY model, image_set.count DESC, image_set.id, metric
"""
TOP1 = """
SELECT detail.checkpoint AS model, benchmark, corruption, severity,
       100 * top1 AS own, 100 * low AS low, 100 * high AS high, n
FROM study_detail_of(?) AS detail JOIN cell_accuracy USING (cell)
WHERE probe = 'clean' AND labelled AND (
    (benchmark IN ('imagenet-c', 'imagenet-cbar') AND corruption IS NOT NULL) OR benchmark = 'cue-conflict')
ORDER BY model, n DESC, benchmark, corruption, severity, detail.cell
"""
FILTERED = """
SELECT detail.checkpoint AS model, detail.benchmark, probe, cutoff, detail.cell, clean_cell,
       image_set.id AS image_set, image_set.count AS n
FROM study_detail_of(?) AS detail JOIN image_set ON image_set.id = detail.image_set_id
WHERE probe IN ('lowpass', 'highpass') AND clean_cell IS NOT NULL
AND detail.labelled AND detail.benchmark IN ('imagenet', 'imagenet-real')
ORDER BY model, n DESC, image_set.id, clean_cell, probe DESC, cutoff
"""
KEYS = ["model", "figure", "metric"]
OWN = pl.Schema(
    dict.fromkeys(KEYS, pl.String()) | dict.fromkeys(["own", "low", "high"], pl.Float64()) | {"note": pl.String()}
)


@dataclass(frozen=True, slots=True)
class PublishedComparison:
    """A study's figures beside the published ones."""

    rows: pl.DataFrame
    """The rows of `set_beside`."""
    left_out: list[str]
    """Lines that say why some figures are not compared."""


def check_published(store: Store, label: str) -> PublishedComparison:
    """Compare a version of a study with the published figures: with all of them where they were imported.

    Raises UsageError where nothing can be compared.
    """
    models = store.frame("SELECT DISTINCT checkpoint FROM study_detail_of(?) ORDER BY ALL", [label])["checkpoint"]
    published, imported = published_figures(store)
    unpublished = models.filter(~models.is_in(published["model"].unique().implode())).to_list()
    if len(unpublished) == len(models):
        names = ", ".join(unpublished[:3]) or "no complete cell"
        raise UsageError(
            f"{store.path}, {label}: {names}: none of the published checkpoints; `bandlens checkpoints list` names them"
        )
    own_numbers = own_figures(store, label)
    rows = set_beside(own_numbers, published)
    left_out = [f"not published: {', '.join(unpublished)}"] if unpublished else []
    if not imported:
        command = f"bandlens published import benchmark.csv --db {quoted(store.path)}"
        left_out.append(f"clean top-1 and the spectral ratios need the study's whole file: `{command}`")
    if not own_numbers["metric"].is_in(list(FIGURES)).any():
        command = f"bandlens analyze --db {quoted(store.path)} --study {quoted(label)}"
        left_out.append(f"biases, benchmarks and group means are there once `{command}` has found some")
    if rows.is_empty():
        raise UsageError(f"{store.path}, {label}: {'; '.join(left_out) or 'no number that is published'}")
    return PublishedComparison(rows, left_out)


def published_figures(store: Store) -> tuple[pl.DataFrame, bool]:
    """Rows of model, figure, published; and whether they are all, as imported, or the ten shipped ones of 48 models."""
    imported = store.frame("SELECT model, metric, value FROM published WHERE source = ?", [SOURCE])
    figures = shipped_figures() if imported.is_empty() else figures_from_benchmark(imported)
    names = ["model", "figure", "published"]
    long = figures.drop("category").unpivot(index="model", variable_name="figure", value_name="published")
    columns = imported.rename({"metric": "figure", "value": "published"})
    frames = (long, columns, _critical_band(store))
    return pl.concat([frame.select(names) for frame in frames]), len(imported) > 0


def _critical_band(store: Store) -> pl.DataFrame:
    """The imported critical bands of networks that the study has too, by the study's name of the same checkpoint."""
    rows = store.frame("FROM published_value WHERE source = 'critical-band' AND value IS NOT NULL").cast(VALUES)
    study_names = aliases().filter(source="study", same="checkpoint").select("model", study="name")
    figures = add_models(rows).filter(same="checkpoint").join(study_names, on="model", maintain_order="left")
    figure = pl.format("critical-band/{}/{}", "condition", "metric")
    return figures.select(model="study", figure=figure, published="value")


def own_figures(store: Store, label: str) -> pl.DataFrame:
    """The columns of OWN: the numbers of a version of a study that may be published, in published units."""
    metrics = store.frame(METRICS, [label, OF_CUES]).with_columns(
        figure=pl.col("metric").replace_strict(FIGURES, default=None)
    )
    metrics = metrics.drop_nulls("figure").sort(
        "model", pl.col("metric").cast(pl.Enum(list(FIGURES))), maintain_order=True
    )
    accuracies = pl.DataFrame([*_top1(store, label), *_ratios(store, label)], OWN)
    numbers = pl.concat([metrics.select(OWN.names()).cast(OWN), accuracies])
    # The largest of several sets counts, and it comes first.
    return numbers.unique(KEYS, keep="first", maintain_order=True).sort("model", maintain_order=True)


def _top1(store: Store, label: str) -> Iterator[dict[str, Any]]:
    """Clean accuracy under each corruption, and by shape where cues conflict."""
    for row in store.frame(TOP1, [label]).to_dicts():
        name = f"{row['corruption']}_{row['severity']}" if row["corruption"] else row["benchmark"]
        numbers = {key: row[key] for key in ("model", "own", "low", "high")}
        yield numbers | {"figure": f"top1_acc/{name}", "metric": "top1", "note": _not_whole(row)}


def _ratios(store: Store, label: str) -> Iterator[dict[str, Any]]:
    """Accuracy under each filter over clean accuracy."""
    cells = store.frame(FILTERED, [label]).to_dicts()
    for (image_set, clean_cell), filtered in groupby(cells, lambda cell: (cell["image_set"], cell["clean_cell"])):
        clusters = clusters_of(store, image_set)
        clean = right_of(store, clean_cell)
        for cell in filtered:
            right = right_of(store, cell["cell"])
            low, high = ratio_interval(right, clean, clusters)
            yield {
                "model": cell["model"],
                "figure": f"{BANDPASS[cell['probe']]}{round(cell['cutoff'], 3):g}",
                "metric": "ratio",
                "own": right.sum() / clean.sum() if clean.any() else None,
                "low": low,
                "high": high,
                "note": _not_whole(cell),
            }


def _not_whole(row: dict[str, Any]) -> str | None:
    count = BENCHMARKS["cue-conflict"].count if row["benchmark"] == "cue-conflict" else VALIDATION
    return None if row["n"] == count else f"{row['n']:,} of {count:,} images"


def set_beside(numbers: pl.DataFrame, published: pl.DataFrame) -> pl.DataFrame:
    """Each of one's own numbers that is published, as rows of

    model, figure, metric, own, low, high, published, difference (own less published), difference_low, difference_high,
    outside (whether the published figure is outside of one's own interval), fault (of the published figure), note.
    """
    faults = [pl.when(pl.col("figure").str.contains(pattern)).then(pl.lit(text)) for pattern, text in FAULTS.items()]
    return numbers.join(published, on=["model", "figure"], maintain_order="left").select(
        *KEYS,
        *("own", "low", "high", "published"),
        difference=pl.col("own") - pl.col("published"),
        difference_low=pl.col("low") - pl.col("published"),
        difference_high=pl.col("high") - pl.col("published"),
        outside=~pl.col("published").is_between("low", "high"),
        fault=pl.coalesce(faults),
        note="note",
    )
