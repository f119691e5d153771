"""Precision gate: test whether a faster precision gives equivalent predictions to a reference precision.

A flip is an image whose predicted class differs. Correct predictions are defined as in `paired_outcomes`. The
proportion of flips has the confidence interval of `wilson`, and the difference in accuracy that of `paired`. With the
limits L for flips and M for the difference, a gate

- passes if the upper end for flips is at most L, and the whole interval of the difference lies within [-M, M];
- fails if the lower end for flips is above L, or the whole interval of the difference lies outside [-M, M];
- is undecided otherwise. `needed` is the number of images at which the interval that decides would end at its limit, if
  all proportions and cluster sizes stayed the same.

Identical cells pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from ...core.records import Cell
from ..database.store import Store
from ..database.study_versions import ORDER
from ..statistics import Floats, Ints, Mask, Z
from ..statistics.paired import PairedDifference, sums_by_cluster
from ..statistics.wilson import SampledShare, counted_share
from .cell_pairs import pair_cells
from .gates import NOTE_OF_SAME, ROWS, Gated, Limits, in_words

TRUSTED = "fp32"
"""Reference precision, which needs no gate."""


def flip_share(flipped: Mask, clusters: Ints) -> SampledShare:
    """Return the proportions of flipped images (cells, n), with uncertainty over clusters (n,). See `wilson`."""
    sums, sizes, _ = sums_by_cluster(flipped.astype(np.int64), clusters)
    return counted_share(sums, sizes)


def images_needed(flips: SampledShare, difference: PairedDifference, n: int, limits: Limits) -> Floats:
    """Estimate the number of images that would decide a gate, from proportions of n images. Infinite at a limit.

    If the difference in accuracy is NaN, the flips alone decide.
    """
    counts = difference.gained, difference.lost
    size = replace(difference, gained=np.maximum(*counts), lost=np.minimum(*counts))
    growth_for_flips, growth_for_size = flips.growth(limits.flips, Z), size.growth(limits.accuracy, Z)
    too_many, too_far = flips.share > limits.flips, size.difference > limits.accuracy
    # To pass, both intervals must be within their limits. To fail, one of them beyond its limit is sufficient.
    to_fail = np.fmin(np.where(too_many, growth_for_flips, np.inf), np.where(too_far, growth_for_size, np.inf))
    return n * np.where(too_many | too_far, to_fail, np.fmax(growth_for_flips, growth_for_size))


def not_passed(store: Store, cells: Sequence[Cell], limits: Limits) -> tuple[int, int]:
    """Count the pairs of variant and condition that have not passed their gate, and all pairs that need one.

    A pair has passed if the intervals of at least one stored comparison with fp32 lie within these limits, on any image
    set and seed, and if those of no comparison lie outside. The limits at the time of the comparison do not matter.
    """
    gated = {
        (cell.variant.sha256, cell.variant.engine, cell.variant.precision, cell.condition.digest)
        for cell in cells
        # An imported ONNX file has no fp32 version to compare with, so its own precision needs no gate.
        if cell.variant.precision not in (TRUSTED, cell.model.precision)
    }
    rows = store.frame(
        "SELECT cell.onnx_sha256, cell.engine, cell.precision, condition.digest, "
        "flips_low, flips_high, low, high, probe = 'clean' AND NOT labelled AS itself "
        "FROM precision_gate AS gate JOIN cell ON cell.id = gate.candidate JOIN cell AS trusted "
        "ON trusted.id = gate.reference AND trusted.precision = ? "
        "JOIN condition ON condition.id = cell.condition JOIN image_set ON image_set.id = cell.image_set",
        [TRUSTED],
    ).with_columns(verdict=verdict(limits))
    pairs_by_verdict: dict[str, set[tuple[str, ...]]] = {
        name: set(rows.filter(pl.col("verdict") == name).select(pl.nth(0, 1, 2, 3)).rows()) for name in ("pass", "fail")
    }
    return len(gated - (pairs_by_verdict["pass"] - pairs_by_verdict["fail"])), len(gated)


def verdict(limits: Limits) -> pl.Expr:
    """Return an expression for the verdict, from the columns flips_low, flips_high, low, high and itself.

    `itself` is True for clean images without labels, which have no difference in agreement.
    """
    low, high = pl.col("low"), pl.col("high")
    within = pl.col("itself") | ((low >= -limits.accuracy) & (high <= limits.accuracy))
    outside = (low > limits.accuracy) | (high < -limits.accuracy)
    return in_words(
        passes=(pl.col("flips_high") <= limits.flips) & within, fails=(pl.col("flips_low") > limits.flips) | outside
    )


def gate_precision(
    store: Store,
    label: str,
    pairs: Sequence[tuple[Cell, Cell]],
    limits: Limits,
    advance: Callable[[float], None] = lambda _: None,
) -> Gated:
    """Test cells against reference cells, and store the results in the view `gate`.

    Args:
        store: Database, opened for writing.
        label: Names of the precisions that are compared.
        pairs: Reference and candidate cells. Pairs with an incomplete cell are skipped.
        limits: Limits for flips and for the difference in accuracy.
        advance: Called with 1 for each checkpoint and image set.
    """
    complete_pairs = store.frame(
        "SELECT trusted.cell, trusted.clean_cell, trusted.image_set_id, trusted.labelled, trusted.itself, "
        "own.cell AS cell_b, own.clean_cell AS clean_cell_b, own.image_set_id AS image_set_id_b, "
        "own.labelled AS labelled_b, digest, digest AS digest_b, own.checkpoint_id, "
        "wanted.checkpoint, wanted.category, wanted.image_set "
        "FROM (SELECT unnest(?::VARCHAR[]) AS a, unnest(?::VARCHAR[]) AS b, unnest(?::VARCHAR[]) AS checkpoint, "
        "unnest(?::VARCHAR[]) AS category, unnest(?::VARCHAR[]) AS image_set) AS wanted "
        "JOIN cell AS cell_a ON cell_a.key = a JOIN cell_detail AS trusted ON trusted.cell = cell_a.id "
        "JOIN cell AS cell_b ON cell_b.key = b JOIN cell_detail AS own ON own.cell = cell_b.id "
        "JOIN image_set ON image_set.id = own.image_set_id ORDER BY own.cell",
        [
            [cell.key for cell, _ in pairs],
            [cell.key for _, cell in pairs],
            [cell.model.name for _, cell in pairs],
            [cell.model.category for _, cell in pairs],
            [cell.image_set.name for _, cell in pairs],
        ],
    )
    for _, group in complete_pairs.group_by("checkpoint_id", "image_set_id", maintain_order=True):
        same_pair = "(reference, candidate) IN (SELECT (reference, candidate) FROM loaded)"
        store.replace("precision_gate", _compare(store, group, limits), same_pair)
        advance(1)
    is_same = pl.col("reference_cell") == pl.col("candidate_cell")
    verdicts = store.frame(
        "FROM gate WHERE (reference_cell, candidate_cell) IN "
        "(SELECT (unnest(?::INTEGER[]), unnest(?::INTEGER[]))) "
        f"ORDER BY checkpoint, image_set, {ORDER}",
        [complete_pairs["cell"].to_list(), complete_pairs["cell_b"].to_list()],
    ).with_columns(
        slice=pl.lit(""),
        measure=pl.lit("flips"),
        before="reference_top1",
        now="candidate_top1",
        loss=0 - pl.col("difference"),
        loss_low=0 - pl.col("high"),
        loss_high=0 - pl.col("low"),
        margin="max_difference",
        note=pl.when(is_same).then(pl.lit(NOTE_OF_SAME)),
        cell="candidate_cell",
    )
    absent = {name: pl.lit(None, kind) for name, kind in ROWS.items() if name not in verdicts.columns}
    rule = f"flips up to {limits.flips:.2%}, accuracy within {100 * limits.accuracy:g} points; each row for itself"
    return Gated(label, verdicts.with_columns(**absent).select(*ROWS), rule, size="flips")


def _compare(store: Store, pairs: pl.DataFrame, limits: Limits) -> pl.DataFrame:
    """Return rows of the table precision_gate for pairs of one checkpoint and image set. See `pair_cells`."""
    compared = pair_cells(store, store, pairs)
    outcomes = compared.outcomes
    flips, n = flip_share(outcomes.changed, outcomes.clusters), len(outcomes.clusters)
    flips_low, flips_high = flips.ends()
    rows = pl.concat([pairs, compared.rows], how="horizontal").with_columns(
        flips=pl.Series(np.asarray(flips.share)), flips_low=pl.Series(flips_low), flips_high=pl.Series(flips_high)
    )
    gained = np.where(rows["note"].is_null(), compared.difference.gained, np.nan)
    counts = images_needed(flips, replace(compared.difference, gained=gained), n, limits)
    many = two_digits(np.maximum(counts, n + 1))
    names = ("difference", "low", "high", "lost", "gained", "p", "flips", "flips_low", "flips_high", "verdict")
    equality = pl.col("cell") == pl.col("cell_b")
    return rows.with_columns(verdict=pl.when(equality).then(pl.lit("pass")).otherwise(verdict(limits))).select(
        "checkpoint",
        "category",
        "image_set",
        "n",
        *names,
        reference="cell",
        candidate="cell_b",
        reference_top1="top1_a",
        candidate_top1="top1_b",
        needed=pl.when(pl.col("verdict") == "undecided").then(many),
        max_flips=pl.lit(limits.flips),
        max_difference=pl.lit(limits.accuracy),
    )


def two_digits(values: Floats) -> pl.Series:
    """Round up to whole numbers with two significant digits. Infinite values become null."""
    numbers = np.where(np.isfinite(values), values, np.nan)
    step = 10 ** (np.floor(np.log10(numbers)) - 1).clip(0)
    return pl.Series(np.ceil(numbers / step) * step, nan_to_null=True).cast(pl.Int64)
