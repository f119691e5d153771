"""Gates: what may differ between two releases, or two precisions, and the table of verdicts on what does.

A gate judges each condition of one run by the same condition of another. The rows, their verdicts and what is written
of them are the same for releases (`release`) and precisions (`precision`); the statistics are not.
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
"""The note of a cell that both have, with the same predictions: it passes without a test."""
NOTE_OF_CLEAN = "without labels: agreement with the clean answers before"
"""The note of clean images without labels: without this row, a release of one answer for every image would pass."""
FLIPS = "negative flips"
"""The name that rows of them have in the column of measures."""
COLUMNS = (
    *("checkpoint", "image_set", "probe", "parameters", "cycles", "slice", "measure"),
    *("n", "before", "now", "loss", "loss_low", "loss_high", "margin"),
    *("flips", "flips_low", "flips_high", "max_flips", "relative_flips", "p_pass", "p_fail", "verdict", "needed"),
    *("differs_in", "note", "cell"),
)
WORDS = ("checkpoint", "image_set", "probe", "parameters", "slice", "measure", "verdict", "differs_in", "note")
WHOLE_NUMBERS = {"n": pl.Int64, "needed": pl.Int64, "cell": pl.Int32}
ROWS = dict.fromkeys(COLUMNS, pl.Float64) | dict.fromkeys(WORDS, pl.String) | WHOLE_NUMBERS
"""Columns of the rows of a gate; `cell` is cell.id of what is judged."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The differences that a gate lets pass, as shares of the images, and what a gate of a release judges."""

    flips: float = 0.01
    """The largest share of images whose predicted class may differ between precisions; 0.01 by default."""
    accuracy: float = 0.003
    """The largest difference of the accuracies of precisions, in either direction; 0.003 by default."""
    margin: float = 0.01
    """The loss that a release has to stay below, 0 or more; 0.01 by default."""
    negative_flips: float | None = None
    """The largest share of images that the release before had right and this one has wrong; by default it is not
    judged."""
    measures: Sequence[str] = ()
    """Measures by which a release is judged; by default accuracy, or agreement without labels: of clean images
    with the clean answers of the release before, of all others with their own clean answers."""
    conditions: Sequence[str] = ()
    """Probes whose conditions are judged, `clean` among them; by default all."""
    slices: Sequence[str] = ()
    """Kinds of slices of the images that are judged beside all of them: `class`, `attribute`; none by default."""


OPTIONS = {"margin": "--margin", "negative_flips": "--flips", "slices": "--slices"}
"""Limit -> the option of `bandlens gate` that takes its place."""


def name_limit(key: str) -> str:
    """A limit as users know it: its key in a study's table [gate], and its option."""
    return f"gate.{key}" + (f" ({OPTIONS[key]})" if key in OPTIONS else "")


@dataclass(frozen=True, slots=True)
class Gated:
    """A table of verdicts on a release, or on a precision."""

    label: str
    """Which run is judged against which."""
    rows: pl.DataFrame
    """A row for each cell, slice and measure: the columns of ROWS."""
    rule: str
    """The limits, in words."""
    size: str = "loss"
    """The column by which a row is worst: `loss` of a release, `flips` of a precision."""
    worst: Mapping[str, Any] | None = None
    """The row of the worst loss of a release, whose interval allows for its having been chosen; None where no row has
    an interval."""
    lacking: str = ""
    """Cells and images that only one of the two has, and slices too small to judge; empty where there are none."""
    run_summary: Any = None
    """The summary of the run of what lacked, as `bandlens.run` returns it; None of a release that was run before."""
    databases: Sequence[Path] = ()
    """The files of the databases that were compared."""

    def __repr__(self) -> str:
        return self.headline

    @property
    def counts(self) -> dict[str, int]:
        """The number of rows of each verdict."""
        return {name: len(self.rows.filter(verdict=name)) for name in VERDICTS}

    @property
    def headline(self) -> str:
        """The label with the number of rows of each verdict."""
        return f"{self.label}: {', '.join(f'{count:,} {name}' for name, count in self.counts.items())}"

    @property
    def same(self) -> int:
        """Cells that are one and the same in both."""
        return len(self.rows.filter(note=NOTE_OF_SAME))

    @property
    def differs_in(self) -> str:
        """Things that differ between the judged cells, such as weights or images; empty where nothing does."""
        return ", ".join(self.rows["differs_in"].drop_nulls().str.split(", ").explode().unique(maintain_order=True))


def decision_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The end of an interval that decides on a row, beside its limit, and the p of its test, as it is corrected.

    A row that is undecided has the end and p that are nearest to a verdict. Both are None where cells are one and the
    same, or a single cluster has no test; precisions have no p.
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
        # To fail, the whole of an interval lies beyond its limit; to be undecided, an end of one does.
        side, farthest = ("low", min) if fails else ("high", max)
        loss_end = farthest(("loss_low", "loss_high"), key=lambda name: abs(row[name] or 0))
        ends = [(f"flips_{side}", row["max_flips"]), (loss_end, copysign(margin, row[loss_end] or 0))]
        end, limit = next((pair for pair in ends if abs(row[pair[0]] or 0) > abs(pair[1])), ends[0])
    sign = ">" if row[end] > limit else "<" if row[end] < limit else "="
    return {"decides": f"{end.removeprefix('loss_')} {row[end]:.3g} {sign} {limit:g}", "p": p}


def in_words(passes: pl.Expr, fails: pl.Expr) -> pl.Expr:
    """pass, fail or undecided: what passes is no failure, and null is neither."""
    verdicts = pl.when(passes).then(pl.lit("pass")).when(fails).then(pl.lit("fail"))
    return verdicts.otherwise(pl.lit("undecided"))


def count_verdicts(rows: pl.DataFrame, size: str = "flips") -> pl.DataFrame:
    """Verdicts in rows of a gate, counted by checkpoint, image set and pair, and where the column `size` is largest."""
    keys = [name for name in ("against", "checkpoint", "image_set", "reference", "candidate") if name in rows.columns]
    place = pl.col(size).arg_max()
    return rows.group_by(keys, maintain_order=True).agg(
        *((pl.col("verdict") == name).sum().alias(name) for name in VERDICTS),
        pl.col(size).max().alias(f"worst_{size}"),
        probe=pl.col("probe").get(place),
        parameters=pl.col("parameters").get(place),
        cycles=pl.col("cycles").get(place),
    )
