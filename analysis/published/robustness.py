"""Effective robustness of many models: fit the lines of a baseline, and compute the distances of accuracies from them.

`correlations.effective_robustness` has the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from ...core.errors import UnknownName, UsageError
from ..correlations.effective_robustness import Expectation, fit_line, fit_testbed
from ..correlations.table_inputs import values_of
from ..database.store import Store
from .study_figures import shipped_figures

SHIFTS = ("imagenet-v2", "imagenet-real", "imagenet-sketch", "imagenet-a", "imagenet-r", "stylized")
"""Benchmarks with a distribution shift.

The study's own ReaL of 326 images and its stylized set of 16 classes do not count.
"""
PRIMARY: Mapping[str, str] = {"stylized": "1000 classes"}
"""Maps a benchmark to the condition that is its main result, if that is not the empty one."""
IS_PRIMARY = pl.col("condition") == pl.col("benchmark").replace_strict(PRIMARY, default="")
STANDARD = "Standard training"
TYPES = Path(__file__).with_name("testbed_types.csv")
REFERENCES = "aws|batch64"
"""Parts of the names of models that the testbed retrained as references and excludes from its lines."""
CLEAN: Mapping[str, str] = {"imagenet-a": "imagenet-a-clean", "imagenet-r": "imagenet-r-clean"}
"""Maps a benchmark of 200 classes to the accuracy on ImageNet over only these classes, with the other logits
ignored.
"""
CLEAN_CONDITIONS: Mapping[str, str] = {f"classes of {benchmark}": accuracy for benchmark, accuracy in CLEAN.items()}
"""Maps the testbed's condition for such an accuracy to the name that this module uses."""
BASELINES: Mapping[str, str] = {
    "testbed": "the testbed's definition (Taori et al. 2020): logit lines of its 85 standard models, over the 200 "
    "classes of A and of R, two lines for A",
    "standard": "probit lines of the testbed's 87 standard models, over 1,000 classes",
    "timm": "probit lines of all of timm's models at all of their input sizes, over 1,000 classes",
}
"""Maps the name of a baseline to a description of its models and lines."""


def read_accuracies(values: pl.DataFrame, source: str) -> pl.DataFrame:
    """Return the top-1 accuracies of one source in percent.

    The columns are name, input_size, and one for each benchmark.
    """
    over_classes = (pl.col("benchmark") == "imagenet") & pl.col("condition").is_in(list(CLEAN_CONDITIONS))
    benchmark_name = pl.when(over_classes).then(pl.col("condition").replace(CLEAN_CONDITIONS)).otherwise("benchmark")
    rows = values.filter(IS_PRIMARY | over_classes, source=source, metric="top1").with_columns(benchmark=benchmark_name)
    return rows.rename({"model": "name"}).pivot("benchmark", index=["name", "input_size"], values="value")


def fit_baseline(values: pl.DataFrame, baseline: str = "standard") -> dict[str, Expectation]:
    """Fit the lines of a baseline.

    Args:
        values: Published values with the columns of `sources.VALUES`.
        baseline: Key of `BASELINES`.

    Returns:
        Maps each benchmark to its expected accuracies.

    Raises:
        UnknownName: If there is no such baseline.
    """
    if baseline not in BASELINES:
        raise UnknownName("baseline", baseline, BASELINES)
    rows = read_accuracies(values, "timm" if baseline == "timm" else "testbed")
    shifts = _list_shifts(rows)
    if baseline == "timm":
        # Fit all lines to the same models: those that have all six benchmarks.
        rows = rows.drop_nulls(["imagenet", *shifts])
    else:
        standard = pl.read_csv(TYPES, comment_prefix="#").filter(type=STANDARD)["model"]
        rows = rows.filter(pl.col("name").is_in(standard.to_list()))
    if baseline != "testbed":
        x, *accuracies_y = values_of(rows, ["imagenet", *shifts])
        return {
            shift: Expectation("imagenet", (fit_line(x, y),)) for shift, y in zip(shifts, accuracies_y, strict=True)
        }
    rows = rows.filter(~pl.col("name").str.contains(REFERENCES))
    over = {shift: CLEAN.get(shift, "imagenet") for shift in shifts}
    return {shift: fit_testbed(x, *values_of(rows, [x, shift])) for shift, x in over.items()}


def list_lines(lines: Mapping[str, Expectation]) -> list[dict[str, Any]]:
    """Return one row per line.

    The columns are `benchmark`, `over` (the ImageNet accuracy that x is), `up_to` or `above` (the pivot of the line, if
    it has one), and the fields of `Line`.
    """
    rows = []
    for benchmark, expectation in lines.items():
        pivots = [None] if expectation.pivot is None else [expectation.pivot] * 2
        for place, (line, pivot) in enumerate(zip(expectation.lines, pivots, strict=True)):
            limits = {"up_to": pivot if place == 0 else None, "above": pivot if place == 1 else None}
            rows.append({"benchmark": benchmark, "over": expectation.x, **limits, **asdict(line)})
    return rows


def add_effective(frame: pl.DataFrame, lines: Mapping[str, Expectation]) -> tuple[pl.DataFrame, list[str]]:
    """Add a column `effective_BENCHMARK` for each benchmark, in percentage points.

    Benchmarks are skipped if the frame lacks their accuracy, or the ImageNet accuracy over their classes.

    Args:
        frame: One row per model, with accuracies in percent.
        lines: Result of `fit_baseline`.

    Returns:
        The frame with the new columns, and their names.

    Raises:
        UsageError: If no benchmark is left.
    """
    shifts = [shift for shift, line in lines.items() if shift in frame.columns and line.x in frame.columns]
    if not shifts:
        raise UsageError(f"effective robustness needs accuracies on imagenet and one of {', '.join(lines)}")
    columns = {}
    for shift in shifts:
        x, y = values_of(frame, [lines[shift].x, shift])
        columns[f"effective_{shift}"] = y - lines[shift].expected(x)
    series = {name: pl.Series(points).fill_nan(None) for name, points in columns.items()}
    return frame.with_columns(**series), list(columns)


def add_accuracies(store: Store, label: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Add the top-1 accuracies of a study on ImageNet and on the benchmarks of `SHIFTS`, one column each.

    The stylized images of the study have 16 classes. They are left out because the lines are fitted to 1,000 classes.

    Args:
        store: Results database.
        label: Version of a study, as NAME@VERSION.
        frame: One row per model, with the column `checkpoint`.
    """
    benchmarks = {f"top1_{name}": name for name in ("imagenet", *SHIFTS) if name not in PRIMARY}
    top1 = store.frame("SELECT checkpoint, metric, value FROM metric_of(?) WHERE image_set IS NULL", [label])
    top1 = top1.filter(pl.col("metric").is_in(list(benchmarks))).with_columns(pl.col("metric").replace(benchmarks))
    top1 = top1.pivot("metric", index="checkpoint", values="value")
    return frame.join(top1, on="checkpoint", how="left", maintain_order="left")


def study_models(values: pl.DataFrame) -> pl.DataFrame:
    """Return the 48 models of the published study with those accuracies on `SHIFTS` that other sources have too."""
    top1 = read_accuracies(values, "study").drop("input_size").rename({"name": "model"})
    top1 = top1.select("model", "imagenet", *_list_shifts(top1))
    return shipped_figures().join(top1, on="model", maintain_order="left")


def _list_shifts(frame: pl.DataFrame) -> list[str]:
    return [shift for shift in SHIFTS if shift in frame.columns]
