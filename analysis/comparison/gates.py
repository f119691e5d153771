"""Limits and results of gates, which compare a candidate release or precision with a baseline.

A gate compares each condition of one run with the same condition of the other, and gives a verdict on each. The table
of verdicts has the same form for releases (`release_gate`) and precisions (`precision_gate`). The statistical tests
differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import copysign
from pathlib import Path
from typing import Any

import polars as pl

VERDICTS = ("pass", "fail", "undecided")
NOTE_OF_SAME = "one and the same"
"""Note of a cell that is identical in both runs. It passes without a test."""
NOTE_OF_CLEAN = "without labels: agreement with the clean answers before"
"""Note of clean images without labels.

A candidate that predicts one class for all images agrees with its own clean predictions under every condition. Without
this row, it would pass."""
FLIPS = "negative flips"
"""Name of negative flips in the column `measure`."""
COLUMNS = (
    *("checkpoint", "image_set", "probe", "parameters", "cycles", "slice", "measure"),
    *("n", "before", "now", "loss", "loss_low", "loss_high", "margin"),
    *("flips", "flips_low", "flips_high", "max_flips", "relative_flips", "p_pass", "p_fail", "verdict", "needed"),
    *("differs_in", "note", "cell"),
)
WORDS = ("checkpoint", "image_set", "probe", "parameters", "slice", "measure", "verdict", "differs_in", "note")
WHOLE_NUMBERS = {"n": pl.Int64, "needed": pl.Int64, "cell": pl.Int32}
ROWS = dict.fromkeys(COLUMNS, pl.Float64) | dict.fromkeys(WORDS, pl.String) | WHOLE_NUMBERS
"""Columns of the rows of a gate. `cell` is the cell.id of the candidate."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest differences that a gate lets pass, as proportions of images, and what a release gate tests."""

    flips: float = 0.01
    """Largest proportion of images whose predicted class may differ between precisions. The default is 0.01."""
    accuracy: float = 0.003
    """Largest difference in accuracy between precisions, in either direction. The default is 0.003."""
    margin: float = 0.01
    """Non-inferiority margin of a release, 0 or more: the loss must be smaller. The default is 0.01."""
    negative_flips: float | None = None
    """Largest proportion of negative flips, which are images that the baseline release classifies correctly and the
    candidate does not. By default, negative flips are not tested."""
    measures: Sequence[str] = ()
    """Metrics that a release gate compares. The default is accuracy or, without labels, agreement. On clean images
    without labels, it is the agreement with the clean predictions of the baseline; under all other conditions, it is
    the agreement with the clean predictions of the same release."""
    conditions: Sequence[str] = ()
    """Probes whose conditions are compared, which can include `clean`. The default is all."""
    slices: Sequence[str] = ()
    """Kinds of slices that are compared in addition to all images: `class`, `attribute`. The default is none."""


OPTIONS = {"margin": "--margin", "negative_flips": "--flips", "slices": "--slices"}
"""Limit -> option of `bandlens gate` that sets it."""


def name_limit(key: str) -> str:
    """Return the key of a limit in the table [gate] of a study file, with its command-line option if it has one."""
    return f"gate.{key}" + (f" ({OPTIONS[key]})" if key in OPTIONS else "")


@dataclass(frozen=True, slots=True)
class Gated:
    """Verdicts of a gate on a release or a precision."""

    label: str
    """Names of the candidate and the baseline."""
    rows: pl.DataFrame
    """One row for each cell, slice and metric, with the columns of ROWS."""
    rule: str
    """Limits and error rate of the gate, for display."""
    size: str = "loss"
    """Column that ranks rows: `loss` for a release, `flips` for a precision."""
    worst: Mapping[str, Any] | None = None
    """Row with the largest loss of a release. Its interval is corrected for the selection of this row. None if no row
    has an interval."""
    lacking: str = ""
    """Cells and images that only one of the runs has, and slices too small to test. Empty if there are none."""
    run_summary: Any = None
    """Summary of the run that computed missing cells, as returned by `bandlens.run`. None for a release that had been
    run before."""
    databases: Sequence[Path] = ()
    """Database files that were compared."""

    def __repr__(self) -> str:
        return self.headline

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows with each verdict."""
        return {name: len(self.rows.filter(verdict=name)) for name in VERDICTS}

    @property
    def headline(self) -> str:
        """Label, followed by the number of rows with each verdict."""
        return f"{self.label}: {', '.join(f'{count:,} {name}' for name, count in self.counts.items())}"

    @property
    def same(self) -> int:
        """Number of cells that are identical in both runs."""
        return len(self.rows.filter(note=NOTE_OF_SAME))

    @property
    def differs_in(self) -> str:
        """What differs between the compared cells, such as weights or images. Empty if nothing differs."""
        return ", ".join(self.rows["differs_in"].drop_nulls().str.split(", ").explode().unique(maintain_order=True))


def decision_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the comparison that determines the verdict on a row, and its corrected p-value.

    The comparison is between an end of a confidence interval and its limit. For an undecided row, it is the one that is
    closest to a verdict. Both results are None if the cells are identical, or if all images of a release are in one
    cluster. Precisions have no p-value.
    """
    is_release = row["max_flips"] is None
    if row["note"] == NOTE_OF_SAME or (is_release and None in (row["p_pass"], row["p_fail"])):
        return {"decides": None, "p": None}
    p, margin, fails = None, row["margin"], row["verdict"] == "fail"
    if is_release:
        ends = [("loss_low", margin if row["measure"] == FLIPS else 0), ("loss_high", margin)]
        passes = row["verdict"] == "pass" or (not fails and row["p_pass"] <= row["p_fail"])
        (end, limit), p = ends[passes], row["p_pass" if passes else "p_fail"]
    else:
        # A row fails if a whole interval lies beyond its limit. It is undecided if only one end of an interval does.
        side, farthest = ("low", min) if fails else ("high", max)
        loss_end = farthest(("loss_low", "loss_high"), key=lambda name: abs(row[name] or 0))
        ends = [(f"flips_{side}", row["max_flips"]), (loss_end, copysign(margin, row[loss_end] or 0))]
        end, limit = next((pair for pair in ends if abs(row[pair[0]] or 0) > abs(pair[1])), ends[0])
    sign = ">" if row[end] > limit else "<" if row[end] < limit else "="
    return {"decides": f"{end.removeprefix('loss_')} {row[end]:.3g} {sign} {limit:g}", "p": p}


def in_words(passes: pl.Expr, fails: pl.Expr) -> pl.Expr:
    """Return an expression for "pass", "fail" or "undecided". `passes` takes precedence, and null counts as False."""
    verdicts = pl.when(passes).then(pl.lit("pass")).when(fails).then(pl.lit("fail"))
    return verdicts.otherwise(pl.lit("undecided"))


def count_verdicts(rows: pl.DataFrame, size: str = "flips") -> pl.DataFrame:
    """Count the verdicts by checkpoint, image set and pair, and find the condition with the largest `size`."""
    keys = [name for name in ("against", "checkpoint", "image_set", "reference", "candidate") if name in rows.columns]
    place = pl.col(size).arg_max()
    return rows.group_by(keys, maintain_order=True).agg(
        *((pl.col("verdict") == name).sum().alias(name) for name in VERDICTS),
        pl.col(size).max().alias(f"worst_{size}"),
        probe=pl.col("probe").get(place),
        parameters=pl.col("parameters").get(place),
        cycles=pl.col("cycles").get(place),
    )
