"""The sentence that says what differs between two runs."""

# The sentence names biases and the clean accuracy as the guide to comparisons says. The intervals of the biases are not
# corrected for being three. A case is a checkpoint on an image set.

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from ...core.errors import plural
from ..measures.base import State
from ..measures.registry import GRID_MEASURES, MEASURES, title_of
from .cells import DIFFERS, Run

CLEAN = "clean"
CHANGES = {CLEAN: ("is", "accurate without perturbation")} | {
    measure.name: measure.shown.words.change for measure in GRID_MEASURES if measure.shown.words.change
}
"""Measure -> what a model does less or more where it is lower or higher; CLEAN is the clean accuracy."""
NEEDS_ALIKE = {
    measure.name: measure.shown.words.needs_alike for measure in GRID_MEASURES if measure.shown.words.needs_alike
}
"""Measure -> the one that has to be alike in both runs for a sentence about it."""


def in_words(a: Run, b: Run, cells: pl.DataFrame, metrics: pl.DataFrame) -> str | None:
    """Name the biases, and the clean accuracy, in which B differs from A, or the smallest differences that would show.

    A bias differs where the 95 % interval of its difference leaves zero out and both values are sound, an accuracy
    where p is below 0.05 after Holm. A bias that needs another measure to be alike is not told where that one differs:
    a shape bias says nothing where a model recognizes less of both cues. `cells` are as `compare_cells` gives them,
    `metrics` as `compare_measures` does. Several checkpoints or image sets are counted as cases, a checkpoint on an
    image set each. Where no difference was found, those that could not have been are named (`detectable`). None where
    the two have nothing that could differ.
    """
    sound = (pl.col("state_a") == State.OK.value) & (pl.col("state_b") == State.OK.value)
    name_a, name_b = a.name_beside(b), b.name_beside(a)
    columns = ["checkpoint", "image_set", "metric", "difference", "low", "high", "differs"]
    biases = _without_unlike(metrics.filter(sound).with_columns(differs=(pl.col("low") > 0) | (pl.col("high") < 0)))
    clean = cells.filter(probe="clean").with_columns(metric=pl.lit("clean"), differs=DIFFERS)
    cases = pl.concat([biases.select(columns), clean.filter(pl.col("p").is_not_null()).select(columns)])
    several = cells["image_set"].n_unique() > 1
    changes = [text for name in CHANGES if (text := _change_in_words(name, cases.filter(metric=name), several))]
    if changes:
        names = cases["checkpoint"].unique()
        who = _who(b, name_b, names.item() if len(names) == 1 else None)
        return f"Compared with {name_a}, {who} {'; it '.join(changes)}"
    tested, different = cells.filter(pl.col("p").is_not_null()), cells.filter(DIFFERS)
    if tested.is_empty():
        return None
    if different.is_empty():
        farthest = tested.sort(
            pl.max_horizontal(-pl.col("low"), "high"), descending=True, nulls_last=True, maintain_order=True
        )
        row = farthest.row(0, named=True)
        leaves_zero_out = row["low"] is not None and not row["low"] <= 0 <= row["high"]
        smallest = _detectable_in_words(tested)
        by_cell = ", by cell," if " to " in smallest else ""
        could_not = f"one smaller than {smallest}{by_cell} could not have been" if smallest else "none could have been"
        finding = (
            f"No difference was found between {name_a} and {name_b} in "
            f"{plural(len(tested), 'cell')} ({could_not}){_unmoved_biases(biases)}"
        )
        if row["low"] is None:
            return f"{finding}; there is no interval, since no two images are independent"
        return (
            f"{finding}; the interval that reaches farthest is {difference_in_words(row)}"
            f"{', which is not corrected for the number of cells' if leaves_zero_out else ''}"
        )
    return (
        f"{name_b} differs from {name_a} in the accuracy of {len(different):,} of {plural(len(tested), 'cell')}, "
        f"at most by {difference_in_words(_largest(different))}"
    )


def _unmoved_biases(biases: pl.DataFrame) -> str:
    """The biases in which no difference was found, each with the smallest that could have been; empty without any."""
    rows = biases.filter(pl.col("metric").is_in([*CHANGES]), ~pl.col("differs"))
    titles = [
        f"{title_of(str(metric))} ({_detectable_in_words(of_metric)})"
        for (metric,), of_metric in rows.group_by("metric", maintain_order=True)
    ]
    return f", nor in {', '.join(titles)}" if titles else ""


def _detectable_in_words(rows: pl.DataFrame) -> str:
    """The smallest differences that could have been found in the rows, `0.021 to 0.034`; empty where none is known."""
    known = rows.drop_nulls("detectable").sort("detectable")
    ends = [known.row(at, named=True) for at in (0, -1)] if len(known) else []
    sizes = [difference_in_words(row | {"difference": row["detectable"], "low": None}).lstrip("+") for row in ends]
    return " to ".join(dict.fromkeys(sizes))


def _largest(rows: pl.DataFrame) -> dict[str, Any]:
    """The row of the largest difference."""
    size = pl.col("difference").abs()
    return rows.sort(size, descending=True, nulls_last=True, maintain_order=True).row(0, named=True)


def _without_unlike(biases: pl.DataFrame) -> pl.DataFrame:
    """The biases, which do not differ where the measure that they need alike does."""
    keys = ("checkpoint", "image_set", "metric")
    unlike = biases.filter("differs").select(*keys[:2], pl.col("metric").alias("needed"), unlike=True)
    needed = biases.with_columns(needed=pl.col("metric").replace_strict(NEEDS_ALIKE, default=None))
    marked = needed.join(unlike, on=(*keys[:2], "needed"), how="left", maintain_order="left")
    return marked.with_columns(differs=pl.col("differs") & pl.col("unlike").is_null())


def difference_in_words(row: Mapping[str, Any]) -> str:
    """A row's difference with its interval where it has one, such as `-0.021 [-0.034, -0.008]`.

    A row with a `metric` whose unit is none of a share has one digit after the point, and its unit.
    """
    measure = MEASURES.get(row.get("metric", ""))
    unit = "" if measure is None or measure.shown.unit == "share" else measure.shown.unit
    digits = "+.1f" if unit else "+.3f"
    interval = "" if row["low"] is None else f" [{row['low']:{digits}}, {row['high']:{digits}}]"
    return f"{row['difference']:{digits}}{interval} {unit}".rstrip()


def _who(run: Run, name: str, checkpoint: str | None) -> str:
    """Who does less or more: a checkpoint, or those of the run of this name."""
    if run.column == "checkpoint" or checkpoint is None:
        return name
    return f"{checkpoint} {'on' if run.column else 'in'} {name}"


def _change_in_words(metric: str, cases: pl.DataFrame, several: bool) -> str:
    """A change in words, empty where no case differs: `relies less on low frequencies: -0.021 [-0.034, -0.008]`.

    `several` says whether the runs have several image sets, so that a single case has to name its own.
    """
    verb, what = CHANGES[metric]
    differing = cases.filter(pl.col("differs").fill_null(False))
    if len(cases) == 1 and len(differing):
        row = differing.row(0, named=True)
        word = "less" if row["difference"] < 0 else "more"
        image_words = f" on {row['image_set']}" if several else ""
        return f"{verb} {word} {what}{image_words}: {difference_in_words(row)}"
    sides = {"less": differing.filter(pl.col("difference") < 0), "more": differing.filter(pl.col("difference") >= 0)}
    return " and ".join(
        f"{verb} {word} {what} in {len(rows):,} of {len(cases):,} cases, at most by "
        f"{difference_in_words(_largest(rows))}"
        for word, rows in sides.items()
        if len(rows)
    )
