"""Effective robustness of many models: the lines of a baseline, and how far accuracies lie from them.

`correlations.effective` has the formulas.
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
"""Benchmarks beside ImageNet. The study's ReaL, of 326 images, and its stylized, of 16 classes, are left out."""
PRIMARY: Mapping[str, str] = {"stylized": "1000 classes"}
"""Benchmark -> the condition that counts, where it is not the empty one."""
IS_PRIMARY = pl.col("condition") == pl.col("benchmark").replace_strict(PRIMARY, default="")
STANDARD = "Standard training"
TYPES = Path(__file__).with_name("testbed_types.csv")
REFERENCES = "aws|batch64"
"""Parts of the names of networks that the testbed trained again as a reference, and leaves out of its lines."""
CLEAN: Mapping[str, str] = {"imagenet-a": "imagenet-a-clean", "imagenet-r": "imagenet-r-clean"}
"""Benchmark of 200 classes -> the accuracy on ImageNet over these classes alone, their logits compared alone."""
CLEAN_CONDITIONS: Mapping[str, str] = {f"classes of {benchmark}": accuracy for benchmark, accuracy in CLEAN.items()}
"""Condition under which the testbed has such an accuracy -> its name elsewhere."""
BASELINES: Mapping[str, str] = {
    "testbed": "the testbed's definition (Taori et al. 2020): logit lines of its 85 standard models, over the 200 "
    "classes of A and of R, two lines for A",
    "standard": "probit lines of the testbed's 87 standard models, over 1,000 classes",
    "timm": "probit lines of all of timm's models at all of their input sizes, over 1,000 classes",
}
"""Name of a baseline -> whose accuracies its lines are fitted to, and how."""


def read_accuracies(values: pl.DataFrame, source: str) -> pl.DataFrame:
    """Rows of name, input_size and a column a benchmark, top-1 in percent, of one source."""
    over_classes = (pl.col("benchmark") == "imagenet") & pl.col("condition").is_in(list(CLEAN_CONDITIONS))
    benchmark_name = pl.when(over_classes).then(pl.col("condition").replace(CLEAN_CONDITIONS)).otherwise("benchmark")
    rows = values.filter(IS_PRIMARY | over_classes, source=source, metric="top1").with_columns(benchmark=benchmark_name)
    return rows.rename({"model": "name"}).pivot("benchmark", index=["name", "input_size"], values="value")


def fit_baseline(values: pl.DataFrame, baseline: str = "standard") -> dict[str, Expectation]:
    """Benchmark -> what a baseline lets one expect of accuracy on it. UnknownName for no baseline."""
    if baseline not in BASELINES:
        raise UnknownName("baseline", baseline, BASELINES)
    rows = read_accuracies(values, "timm" if baseline == "timm" else "testbed")
    shifts = _list_shifts(rows)
    if baseline == "timm":
        # The line is that of models that all six sets have.
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
    """A row for each line: benchmark, `over` which ImageNet accuracy, `up_to` or `above` which, and Line's fields."""
    rows = []
    for benchmark, expectation in lines.items():
        pivots = [None] if expectation.pivot is None else [expectation.pivot] * 2
        for place, (line, pivot) in enumerate(zip(expectation.lines, pivots, strict=True)):
            limits = {"up_to": pivot if place == 0 else None, "above": pivot if place == 1 else None}
            rows.append({"benchmark": benchmark, "over": expectation.x, **limits, **asdict(line)})
    return rows


def add_effective(frame: pl.DataFrame, lines: Mapping[str, Expectation]) -> tuple[pl.DataFrame, list[str]]:
    """The frame with a column `effective_BENCHMARK`, in points, for each benchmark that it and the lines have.

    Benchmarks over whose classes the frame has no ImageNet accuracy are left out. Raises UsageError where none is left.
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
    """The models of a study with a column for their top-1 on ImageNet and each benchmark of SHIFTS that it has.

    `frame` has a column checkpoint. The project's stylized images are of 16 classes, and not what the lines are of.
    """
    benchmarks = {f"top1_{name}": name for name in ("imagenet", *SHIFTS) if name not in PRIMARY}
    top1 = store.frame("SELECT checkpoint, metric, value FROM metric_of(?) WHERE image_set IS NULL", [label])
    top1 = top1.filter(pl.col("metric").is_in(list(benchmarks))).with_columns(pl.col("metric").replace(benchmarks))
    top1 = top1.pivot("metric", index="checkpoint", values="value")
    return frame.join(top1, on="checkpoint", how="left", maintain_order="left")


def study_models(values: pl.DataFrame) -> pl.DataFrame:
    """The 48: the shipped figures, and the study's accuracy on each benchmark of SHIFTS that other sources have too."""
    top1 = read_accuracies(values, "study").drop("input_size").rename({"name": "model"})
    top1 = top1.select("model", "imagenet", *_list_shifts(top1))
    return shipped_figures().join(top1, on="model", maintain_order="left")


def _list_shifts(frame: pl.DataFrame) -> list[str]:
    return [shift for shift in SHIFTS if shift in frame.columns]
