"""The sentence that says what differs between two runs.

It names biases and the clean accuracy as the guide to comparisons says. The intervals of the biases are not corrected
for being three. Several checkpoints or image sets are counted as cases: a case is a checkpoint on an image set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from ..measures.base import State
from ..measures.registry import GRID_MEASURES
from .cells import DIFFERS, Run

CLEAN = "clean"
CHANGES = {CLEAN: ("is", "accurate without perturbation")} | {
    measure.name: measure.change for measure in GRID_MEASURES if measure.change
}
"""Measure -> what a model does less or more where it is lower or higher; CLEAN is the clean accuracy."""
NEEDS_ALIKE = {measure.name: measure.needs_alike for measure in GRID_MEASURES if measure.needs_alike}
"""Measure -> the one that has to be alike in both runs for a sentence about it."""


def in_words(a: Run, b: Run, cells: pl.DataFrame, metrics: pl.DataFrame) -> str:
    """Name the biases, and the clean accuracy, in which B differs from A beyond chance.

    A bias differs where the 95 % interval of its difference leaves zero out and both values are sound, an accuracy
    where p is below 0.05 after Holm. A bias that needs another measure to be alike is not told where that one differs:
    a shape bias says nothing where a model recognizes less of both cues. `cells` are as `compare_cells` gives them,
    `metrics` as `compare_measures` does. Several checkpoints or image sets are counted as cases, a checkpoint on an
    image set each.
    """
    sound = (pl.col("state_a") == State.OK.value) & (pl.col("state_b") == State.OK.value)
    columns = ["checkpoint", "metric", "difference", "low", "high", "differs"]
    biases = _without_unlike(metrics.filter(sound).with_columns(differs=(pl.col("low") > 0) | (pl.col("high") < 0)))
    clean = cells.filter(probe="clean").with_columns(metric=pl.lit("clean"), differs=DIFFERS)
    cases = pl.concat([biases.select(columns), clean.filter(pl.col("p").is_not_null()).select(columns)])
    changes = [text for name in CHANGES if (text := _change_in_words(name, cases.filter(metric=name)))]
    if changes:
        names = cases["checkpoint"].unique()
        return f"{_who(b, names.item() if len(names) == 1 else None)} {'; it '.join(changes)}"
    tested, different = len(cells.filter(pl.col("p").is_not_null())), len(cells.filter(DIFFERS))
    if not tested:
        return f"{a.name} and {b.name} have no cells that could differ"
    if not different:
        return f"{b.name} does not differ from {a.name} beyond chance in any of {tested:,} cells"
    return f"{b.name} differs from {a.name} in the accuracy of {different:,} of {tested:,} cells"


def _without_unlike(biases: pl.DataFrame) -> pl.DataFrame:
    """The biases, which do not differ where the measure that they need alike does."""
    keys = ("checkpoint", "image_set", "metric")
    unlike = biases.filter("differs").select(*keys[:2], pl.col("metric").alias("needed"), unlike=True)
    needed = biases.with_columns(needed=pl.col("metric").replace_strict(NEEDS_ALIKE, default=None))
    marked = needed.join(unlike, on=(*keys[:2], "needed"), how="left", maintain_order="left")
    return marked.with_columns(differs=pl.col("differs") & pl.col("unlike").is_null())


def difference_in_words(row: Mapping[str, Any]) -> str:
    """A row's difference with its interval where it has one, such as `-0.021 [-0.034, -0.008]`."""
    interval = "" if row["low"] is None else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    return f"{row['difference']:+.3f}{interval}"


def _who(run: Run, checkpoint: str | None) -> str:
    """Who does less or more: a checkpoint, or those of a run."""
    if run.column == "checkpoint" or checkpoint is None:
        return run.name
    return f"{checkpoint} {'on' if run.column else 'in'} {run.name}"


def _change_in_words(metric: str, cases: pl.DataFrame) -> str:
    """A change in words, empty where no case differs: `relies less on low frequencies: -0.021 [-0.034, -0.008]`."""
    verb, what = CHANGES[metric]
    differing: list[dict[str, Any]] = cases.filter(pl.col("differs").fill_null(False)).to_dicts()
    if len(cases) == 1 and differing:
        row = differing[0]
        word = "less" if row["difference"] < 0 else "more"
        return f"{verb} {word} {what}: {difference_in_words(row)}"
    less = sum(row["difference"] < 0 for row in differing)
    counts = [(word, count) for word, count in (("less", less), ("more", len(differing) - less)) if count]
    return " and ".join(f"{verb} {word} {what} in {count:,} of {len(cases):,} cases" for word, count in counts)
